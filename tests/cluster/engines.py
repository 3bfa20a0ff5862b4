"""Engines that misbehave on purpose. Imported by the pool's engine processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.cluster.pool.outcome import Budget, BudgetExceeded, EngineSpec, Failure


def square(x: float) -> float:
    return float(x) ** 2


def hang_in_c() -> None:
    """Hold the interpreter lock in a C call, as a simulator does."""
    ctypes.PyDLL(None).usleep(2**31)


def segfault() -> None:
    ctypes.string_at(0)


def exhaust_memory() -> None:
    hoard = []
    while True:
        hoard.append(np.ones(2**20))


def print_for_ever() -> None:
    while True:
        os.write(1, b"x" * 4096)


def leave_a_grandchild() -> None:
    """Start a process that would outlive its parent, in a session of its own."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # grandchild"], start_new_session=True)


def raise_unusual() -> None:
    raise KeyError("no such section")


def give_up() -> None:
    raise BudgetExceeded("more than 1000 steps")


def check_the_clock(budget: Budget) -> None:
    while True:
        time.sleep(0.01)
        budget.check()


def kill_the_host() -> None:
    engine_process = os.getppid()
    status = Path(f"/proc/{engine_process}/status").read_text()
    os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGKILL)
    time.sleep(60)


DEEDS = {
    "hang": hang_in_c,
    "segfault": segfault,
    "exit": lambda: os._exit(3),
    "exit quietly": lambda: os._exit(0),
    "system exit": sys.exit,
    "abort": os.abort,
    "memory": exhaust_memory,
    "print": print_for_ever,
    "raise": raise_unusual,
    "give up": give_up,
    "stop itself": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "kill itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "interrupt itself": lambda: os.kill(os.getpid(), signal.SIGINT),
    "alarm itself": lambda: os.kill(os.getpid(), signal.SIGALRM),
    "kill the engine process": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "kill the host": kill_the_host,
    "grandchild": leave_a_grandchild,
    "close its pipes": lambda: os.closerange(3, 1000) or time.sleep(600),
    "last words": lambda: (os.write(2, b"first\nhoc: the end is near\n"), os.abort()),
}


class Misbehaving:
    """Squares numbers; a string names a deed to do instead."""

    isolation = "individual"

    def __init__(self, pause_s: float = 0.0) -> None:
        self._pause_s = pause_s
        self._evaluated = 0

    def evaluate(self, batch: Sequence[Any], budget: Budget) -> Iterator[float]:
        for individual in batch:
            self._evaluated += 1
            if individual == "how many":
                yield self._evaluated
            elif individual == "clock":
                check_the_clock(budget)
            elif individual == "process":
                yield os.getpid()
            elif individual == "unpicklable":
                yield threading.Lock()
            elif individual == "nothing":
                return
            elif isinstance(individual, tuple):  # ("once", path, deed): only the first time
                _, path, deed = individual
                if not Path(path).exists():
                    Path(path).touch()
                    DEEDS[deed]()
                yield square(7)
            elif isinstance(individual, str):
                DEEDS[individual]()
                yield -1.0
            else:
                time.sleep(self._pause_s)
                yield square(individual)


class Together(Misbehaving):
    """Works on the whole batch before it yields the first value, and tells how large it was.

    An individual called "fail" has no value.
    """

    isolation = "batch"

    def evaluate(self, batch: Sequence[Any], budget: Budget) -> Iterator[tuple[float, int] | Failure]:
        sound = [individual for individual in batch if individual != "fail"]
        values = super().evaluate(sound, budget)
        yield from [Failure("ran away") if x == "fail" else (next(values), len(batch)) for x in batch]


class Streaming(Misbehaving):
    """Gets whole batches and yields one value after the other."""

    isolation = "batch"


def build(payload: dict[str, Any]) -> Misbehaving:
    kind = {"together": Together, "streaming": Streaming}.get(payload.get("kind", ""), Misbehaving)
    if "build_log" in payload:
        with open(payload["build_log"], "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    if payload.get("fail"):
        raise RuntimeError("the morphology has no soma")
    if payload.get("hang"):
        time.sleep(600)
    if payload.get("segfault"):
        segfault()
    if "signal" in payload and not Path(payload["mark"]).exists():  # only in the first build
        Path(payload["mark"]).touch()
        os.kill(os.getpid(), payload["signal"])
    return kind(payload.get("pause_s", 0.0))


def spec(key: str = "plain", lanes: int = 1, **payload: Any) -> EngineSpec:
    return EngineSpec("tests.cluster.engines:build", payload, key, lanes)


class BrokenHost:
    """A host that does not come up, as on a machine without this package."""

    def __init__(self, *_: Any) -> None:
        raise ModuleNotFoundError("No module named 'neurofleet'")

    def hello(self) -> None:
        """Never called."""
