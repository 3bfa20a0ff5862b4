"""The result of a check: its status, what was found, what to do about it."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "warning", "fault"]
Fact = dict[str, Any]
Facts = dict[str, Fact]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : str
        What was looked at.
    status : str
        ``ok``, ``warning`` or ``fault``.
    found : str
        What was found.
    advice : str
        What to do; empty when all is well.
    where : str
        The node; empty for this machine.
    """

    check: str
    status: Status
    found: str
    advice: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        if (self.status == "ok") != (not self.advice):
            raise ValueError(f"{self.check}: advice goes with what is not ok, and only with that")


def judged(check: str, fact: Fact, judge: Callable[[Any], Finding]) -> Finding:
    """Judge a fact, or say that it could not be had."""
    if "value" in fact:
        return judge(fact["value"])
    return Finding(
        check,
        "warning",
        f"could not be checked: {fact['unknown']}",
        "Look yourself, or run `neurofleet doctor` on that machine as the user whom Ray runs as there.",
    )


def is_loopback(ip: str) -> bool:
    """Whether only programs on the same machine reach this address."""
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def place(ip: str) -> str:
    """An address as people write it."""
    if ip in ("0.0.0.0", "::"):
        return "*"
    return ip.removeprefix("::ffff:")


def counted(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number} {thing}{'s' * (number != 1)}"
