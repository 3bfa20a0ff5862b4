"""``neurofleet doctor --bundle``: one file for a bug report, without data and without secrets."""

import getpass
import json
import os
import platform
import re
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

from neurofleet.cluster.ray import checkup
from neurofleet.cluster.ray.session import available_cpus
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.jobs.results.run_tables import existing_run
from neurofleet.jobs.run_folder import PACKAGES

OF_A_RUN = ("job.yaml", "provenance.json", "status.json", "events.jsonl", "log.jsonl")
LAST_LINES = 1000
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


def write_bundle(file: Path, out: str | None) -> None:
    """Write versions, what is known of the machine and, of a run, its job and the end of its log, into a ZIP file.

    Parameters
    ----------
    file : Path
        A new ``.zip`` file.
    out : str, optional
        The folder of a run.

    Raises
    ------
    UsageError
        The file exists or is called otherwise, or `out` holds no run.
    """
    if file.suffix != ".zip":
        raise UsageError(f"--bundle {file}: expected a name that ends in .zip.")
    if file.exists():
        raise UsageError(f"--bundle {file}: expected a new file, found one that exists. Give another name.")
    texts = {"versions.json": json.dumps(_versions(), indent=1, default=str)}
    if out is not None:
        texts |= _texts_of_run(existing_run(out))
    redact = redaction()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in texts.items():
            bundle.writestr(name, redact(text))
    print(f"Written: {file} with {', '.join(texts)}.")
    print("Look through it before you send it: names of cells and files stay in it.")


def _versions() -> dict[str, object]:
    facts = checkup.machine_facts(PACKAGES)
    kept = ("python", "packages", "compiler", "memory_bytes", "shared_memory_bytes", "open_files")
    return {"platform": platform.platform(), "cpus": available_cpus(), **{name: facts[name] for name in kept}}


def _texts_of_run(store: RunStore) -> dict[str, str]:
    texts = {name: "".join(store.read_texts(name)) for name in OF_A_RUN}
    last = {name: text.splitlines(keepends=True)[-LAST_LINES:] for name, text in texts.items() if text}
    return {name: "".join(lines) if name.endswith(".jsonl") else texts[name] for name, lines in last.items()}


def _may_be_secret(name: str, value: str) -> bool:
    """Whether a variable's value is taken out wherever it stands; a plain word stands in any text."""
    if re.search(_NAMES_OF_SECRETS, name, re.IGNORECASE):
        return len(value) > 3
    return len(value) > 7 and not value.isalpha()


def _ray_token() -> str | None:
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() or None if path.is_file() else None


def redaction() -> Callable[[str], str]:
    """Return what takes secrets out of a text.

    These are the values of environment variables, Ray's token, what looks like a password, a key or a token, the
    user's and the machine's name, and the path of a home folder.
    """
    known = {value: REDACTED for name, value in os.environ.items() if _may_be_secret(name, value)}
    if (token := _ray_token()) is not None:
        known[token] = REDACTED
    known |= {os.path.expanduser("~"): "~", socket.gethostname(): "[host]", getpass.getuser(): "[user]"}
    exact = re.compile("|".join(re.escape(text) for text in sorted(known, key=len, reverse=True)))

    def redacted(text: str) -> str:
        for pattern, instead in _SECRETS:
            text = pattern.sub(instead, text)
        return exact.sub(lambda found: known[found[0]], text)

    return redacted
