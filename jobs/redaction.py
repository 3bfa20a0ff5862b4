"""Secrets taken out of texts that leave this machine."""

import getpass
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

_NAMES_OF_SECRETS = r"token|secret|passw|pwd|credential|api[_-]?key|access[_-]?key|private[_-]?key"

REDACTED = "[redacted]"
_SECRETS = [
    (re.compile(r"(\w://)[^/\s\"']+@"), rf"\1{REDACTED}@"),
    (re.compile(r"([?&][\w.-]+=)[^&\s\"']+"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {REDACTED}"),
    (
        re.compile(rf"(?i)([\w-]*(?:{_NAMES_OF_SECRETS})[\w-]*[\"']?\s*[:=]\s*[\"']?)[^\s\"',}}\]]+"),
        rf"\1{REDACTED}",
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[a-z]_\w{20,}|\beyJ[\w-]{10,}\.[\w.-]+"), REDACTED),
    (re.compile(r"(?<![\w.])/(?:home|Users)/[^/\s\"']+|(?<![\w.])/root(?=[/\s\"']|$)", re.MULTILINE), "~"),
]


def _may_be_secret(name: str, value: str) -> bool:
    """Whether a variable's value is taken out wherever it stands; a plain word stands in any text."""
    if re.search(_NAMES_OF_SECRETS, name, re.IGNORECASE):
        return len(value) > 3
    return len(value) > 7 and not value.isalpha()


def _ray_token() -> str | None:
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token"))
    return path.read_text().strip() or None if path.is_file() else None


def _user() -> str:
    """Return the user's name; nothing where the user has none, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def redaction() -> Callable[[str], str]:
    """Return what takes secrets out of a text.

    These are the values of environment variables, Ray's token, what looks like a password, a key or a token, the
    user's and the machine's name, and the path of a home folder.
    """
    known = {value: REDACTED for name, value in os.environ.items() if _may_be_secret(name, value)}
    if (token := _ray_token()) is not None:
        known[token] = REDACTED
    names = {os.path.expanduser("~"): "~", socket.gethostname(): "[host]", _user(): "[user]"}
    known |= {name: instead for name, instead in names.items() if name}
    exact = re.compile("|".join(re.escape(text) for text in sorted(known, key=len, reverse=True)))

    def redacted(text: str) -> str:
        for pattern, instead in _SECRETS:
            text = pattern.sub(instead, text)
        return exact.sub(lambda found: known[found[0]], text)

    return redacted
