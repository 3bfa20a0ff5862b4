"""A campaign on a cluster under random signals: what is lost, doubled, changed or left behind.

``python -m tests.benchmarks.soak --minutes 60 --signals 300`` prints one JSON line. The campaign fits copies of the
demo cell through three stages with the vector engine, on a cluster of a head and two workers on this machine. Signals
go at random to the driver, the process that reads its inputs, hosts, engines, the children that evaluate, raylets,
their agents and the GCS; in the last third no longer to the driver and to what it cannot outlive, so that its memory
can be measured. What ends is started again: nodes as a supervisor would, the driver by its own command.

``signals_by_target, signals_by_name``
    A SIGSTOP is followed by a SIGCONT after 1 s to longer than a deadline.
``driver_ended``
    Exit codes of the driver and their number, of drivers that a signal was sent to and of others.
``tracebacks``
    Of the driver.
``halls_of_fame, halls_of_fame_equal, generations_equal``
    How many have the bytes of an undisturbed run on an embedded Ray, and whether all evaluations equal its own, but for
    their seconds.
``rows_lost, rows_doubled, not_ok``
    Evaluations that are missing, that stand twice, and that are stored with another status than in the undisturbed
    run.
``left_by_driver, orphans``
    Processes of a run 60 s after its driver's end, and of the cluster 30 s after its own.
``driver_mb_per_h, driver_minutes, driver_mb_from``
    Slope of the memory of the last driver after its first two minutes, how many minutes it was measured, and where it
    began. It is the driver's own memory (USS): what it shares with Ray's object store is bounded by the store.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from neurofleet.cluster.ray.session import clean_up_folder
from neurofleet.cluster.store.run_store import POOLED, RunStore

SEEDS = [1, 2]
EVALUATIONS = {"passive": 64, "ih": 64, "active": 96}
LEFT_OUT = [*range(5, 10), *range(15, 25), *range(30, 35)]  # three of seven steps stay
DEADLINE_S = 60.0
WORKERS = 2

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT]
SIGNALS += [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGUSR1, signal.SIGPIPE, signal.SIGSTOP]
TARGETS = {"child": 24, "engine": 10, "host": 10, "raylet": 4, "agent": 1, "driver": 3, "inputs": 2, "gcs": 1}
SPARES_THE_DRIVER = ("child", "engine", "host", "raylet")
STOPPED_S = {"child": (1.0, 5.0, DEADLINE_S + 15), "engine": (1.0, 20.0), "raylet": (3.0, 40.0)}

LEFT_AFTER_S = 60.0
ORPHAN_AFTER_S = 30.0
PAUSE_S = 3.0
PATIENCE_S = 30.0  # until another target is chosen in place of one that is not there
WARM_S = 120.0


def write_job(folder: Path, cells: int) -> Path:
    """Write a job of so many copies of the demo cell, whose files are in the folder."""
    cell = {"morphology": "cell.swc", "recordings": "cell.nwb", "exclude_sweeps": LEFT_OUT}
    evolution = {"seeds": SEEDS, "offspring": 16, "evaluations": EVALUATIONS, "hall_of_fame": 4, "learn": False}
    job = {
        "kind": "fit",
        "name": f"soak-{cells}",
        "cells": [{"id": f"C{number:03d}", **cell} for number in range(1, cells + 1)],
        "recipe": "demo",
        "engine": "vector",
        "evolution": evolution,
        "deadline_s": DEADLINE_S,
    }
    path = folder / f"soak-{cells}.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def neurofleet(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "neurofleet", *map(str, arguments)]


@dataclass
class Supervised:
    """A process that is started again when it has ended.

    Attributes
    ----------
    command : list of str
    log : Path
        What it prints, of all starts.
    starts : int
    process : Popen or None
        None while it waits to be started.
    """

    command: list[str]
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen | None = None
    starts: int = 0
    _ended: float = 0.0

    def look_after(self) -> None:
        if self.process is not None and self.process.poll() is not None:
            self.process, self._ended = None, time.monotonic()
        if self.process is None and time.monotonic() > self._ended + PAUSE_S:
            self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def cluster_nodes(folder: Path, environment: dict[str, str]) -> tuple[str, list[Supervised]]:
    """Return the address of a cluster, and its nodes, the head first; none is started yet."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    ray += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}/r", "--object-store-memory=100000000"]
    head = [*ray, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
    worker = [*ray, f"--address=127.0.0.1:{port}", "--num-cpus=1"]
    address = f"127.0.0.1:{port}"
    commands = [head] + [worker] * WORKERS
    return address, [Supervised(c, folder / f"node-{i}.log", environment) for i, c in enumerate(commands)]


def kind_of(process: psutil.Process) -> str:
    """Return which part of a run or a cluster a process is; empty for others."""
    command = process.cmdline()
    text = " ".join(command)
    if command and command[0].startswith("ray::Host"):
        return "host"
    if "neurofleet.cluster.pool.child_processes" in text:
        parent = process.parent()
        return "child" if parent is not None and "child_processes" in " ".join(parent.cmdline()) else "engine"
    if "gcs_server" in text.split(" ")[0]:
        return "gcs"
    if text.split(" ")[0].endswith("/raylet"):
        return "raylet"
    if "ray/dashboard/agent.py" in text or "runtime_env/agent/main.py" in text:
        return "agent"
    return "inputs" if "multiprocessing.spawn" in text else ""


def marked(mark: str) -> list[psutil.Process]:
    """The processes that have the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("NEUROFLEET_SOAK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def by_kind(mark: str) -> dict[str, list[psutil.Process]]:
    kinds: dict[str, list[psutil.Process]] = {}
    for process in marked(mark):
        with suppress(psutil.Error):
            kinds.setdefault(kind_of(process), []).append(process)
    return kinds


@dataclass
class Soak:
    """The campaign, its cluster, and what is done to them.

    `signals` are sent within `minutes`, on average; the seed decides which.
    """

    driver: Supervised
    nodes: list[Supervised]
    mark: str
    minutes: float
    signals: int
    random: random.Random
    sent: Counter = field(default_factory=Counter)
    ended: Counter = field(default_factory=Counter)
    left: list[str] = field(default_factory=list)
    memory: list[tuple[int, float, float]] = field(default_factory=list)
    _stopped: list[tuple[float, psutil.Process]] = field(default_factory=list)
    _signalled: set[int] = field(default_factory=set)
    _begun: float = 0.0

    def run(self, limit_s: float) -> bool:
        """Disturb until the campaign is done, or return False at the limit."""
        for node in self.nodes:
            node.start()
        begun = self._begun = time.monotonic()
        next_signal, next_sample, ended_at = begun + 30.0, begun, 0.0
        target = ""
        while time.monotonic() < begun + limit_s:
            now = time.monotonic()
            for node in self.nodes:
                node.look_after()
            self._resume(now)
            driver = self.driver.process
            if driver is not None and driver.poll() is not None:
                self._note_end(driver)
                if driver.returncode == 0:
                    return True
                self.driver.process, ended_at = None, now
            if self.driver.process is None:
                self._restart(now, ended_at)
            elif now >= next_sample:
                next_sample = now + 5.0
                with suppress(psutil.Error):
                    own = psutil.Process(self.driver.process.pid).memory_full_info().uss / 2**20
                    self.memory.append((self.driver.starts, now - begun, own))
            if now >= next_signal and now < begun + 60 * self.minutes:
                target = target or self._next_target(now)
                with suppress(psutil.Error, ProcessLookupError):
                    if self._disturb(target, now):
                        next_signal = now + self.random.expovariate(self.signals / (60 * self.minutes))
                        target = ""
                    elif now > next_signal + PATIENCE_S:
                        target = ""
            time.sleep(0.25)
        return False

    def end(self) -> list[str]:
        """Stop everything, and return what is left of it."""
        for _, process in self._stopped:
            with suppress(psutil.Error):
                process.resume()
        self.driver.stop()
        for node in reversed(self.nodes):
            node.stop()
        give_up = time.monotonic() + ORPHAN_AFTER_S
        while (left := marked(self.mark)) and time.monotonic() < give_up:
            time.sleep(0.5)
        told = [_said(process) for process in left]
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        return told

    def _restart(self, now: float, ended_at: float) -> None:
        """Start the driver again, once nothing is left of the last one."""
        kinds = by_kind(self.mark)
        of_run = [p for kind in ("host", "engine", "child", "inputs") for p in kinds.get(kind, ())]
        if of_run and now < ended_at + LEFT_AFTER_S:
            return
        self.left += [_said(process) for process in of_run]
        if now > ended_at + PAUSE_S:
            self.driver.start()

    def _note_end(self, driver: subprocess.Popen) -> None:
        told = "signalled" if driver.pid in self._signalled else "other"
        self.ended[f"{told} {driver.returncode}"] += 1
        print(f"driver {self.driver.starts} ended: {driver.returncode} ({told})", file=sys.stderr, flush=True)

    def _disturb(self, target: str, now: float) -> bool:
        """Send a signal to a process of this kind; return False if there is none."""
        if target == "driver":
            driver = self.driver.process
            candidates = [] if driver is None else [psutil.Process(driver.pid)]
        else:
            candidates = by_kind(self.mark).get(target, [])
        if target == "raylet" and self._spares_the_driver(now):
            candidates = [process for process in candidates if "--head" not in process.cmdline()]
        if not candidates:
            return False
        number = self.random.choice(SIGNALS)
        process = self.random.choice(candidates)
        os.kill(process.pid, number)
        if number == signal.SIGSTOP:
            self._stopped.append((now + self.random.choice(STOPPED_S.get(target, (1.0, 20.0))), process))
        if target == "driver":
            self._signalled.add(process.pid)
        self.sent[f"{target} {number.name}"] += 1
        print(f"{number.name} to {target} {process.pid}", file=sys.stderr, flush=True)
        return True

    def _spares_the_driver(self, now: float) -> bool:
        return now > self._begun + 40 * self.minutes

    def _next_target(self, now: float) -> str:
        targets = SPARES_THE_DRIVER if self._spares_the_driver(now) else tuple(TARGETS)
        return self.random.choices(targets, [TARGETS[target] for target in targets])[0]

    def _resume(self, now: float) -> None:
        for due, process in [entry for entry in self._stopped if entry[0] <= now]:
            self._stopped.remove((due, process))
            with suppress(psutil.Error):
                process.resume()

    def memory_of_last_driver(self) -> dict[str, float]:
        if not self.memory:
            return {}
        last = self.memory[-1][0]
        samples = np.array([(at, own) for life, at, own in self.memory if life == last])
        samples = samples[samples[:, 0] > samples[0, 0] + WARM_S]
        if len(samples) < 3:
            return {}
        slope = float(np.polyfit(samples[:, 0] / 3600, samples[:, 1], 1)[0])
        minutes = float(samples[-1, 0] - samples[0, 0]) / 60
        return {"driver_mb_per_h": slope, "driver_minutes": minutes, "driver_mb_from": float(samples[0, 1])}


def _said(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:200]
    return str(process.pid)


def compared(out: RunStore, whole: RunStore, cells: int) -> dict[str, Any]:
    """Compare a run of many copies of a cell with one of the cell itself."""
    names = [f"C{number:03d}" for number in range(1, cells + 1)]
    lost = doubled = not_ok = 0
    same = True
    expected = RunStore(Path(whole.root).with_name("expected"))
    for cell in names:
        for seed in (*SEEDS, POOLED):
            hall = whole.read_hall_of_fame(names[0], seed)
            assert hall is not None
            expected.write_hall_of_fame(replace(hall, cell=cell), seed)
        for key in whole.stored():
            ours = out.read_generations(cell, key.stage, key.seed)
            theirs = whole.read_generations(names[0], key.stage, key.seed)
            rows = [Counter((g.generation, n) for g in stored for n in range(len(g))) for stored in (ours, theirs)]
            lost += len(rows[1] - rows[0])
            doubled += sum(rows[0].values()) - len(rows[0])
            for one, other in zip(ours, theirs, strict=False):
                not_ok += sum(a != b for a, b in zip(one.statuses, other.statuses, strict=False))
                same &= one.to_table().drop(["seconds"]).equals(other.to_table().drop(["seconds"]))
    halls = list(Path(expected.root).glob("**/*.parquet"))
    there = {hall: Path(out.root) / hall.relative_to(expected.root) for hall in halls}
    return {
        "halls_of_fame": len(halls),
        "halls_of_fame_equal": sum(t.is_file() and t.read_bytes() == hall.read_bytes() for hall, t in there.items()),
        "generations_equal": same and not lost,
        "rows_lost": lost,
        "rows_doubled": doubled,
        "not_ok": not_ok,
    }


def timed(function: Callable[[], Any]) -> float:
    begun = time.monotonic()
    function()
    return time.monotonic() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--signals", type=int, default=300)
    parser.add_argument("--cells", type=int, help="of the campaign; by default as many as take the minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for the runs and logs, which is kept")
    arguments = parser.parse_args()
    from neurofleet.jobs.demo import make_input

    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="nf-soak-"))
    ray_folder = Path(tempfile.mkdtemp(prefix="ns-", dir="/tmp"))
    make_input(folder)
    token = ray_folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    mark = secrets.token_hex(8)
    environment = os.environ | {"NEUROFLEET_SOAK": mark, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment["RAY_worker_niceness"] = "0"  # else deadlines pass where others work on this machine too
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    whole, out = RunStore(folder / "whole"), RunStore(folder / "run")
    command = neurofleet("run", write_job(folder, 1), "--out", whole.root, "--cpus", WORKERS)
    cell_s = timed(lambda: subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL))
    cells = arguments.cells or max(2, round(30 * arguments.minutes / cell_s))
    print(f"a cell takes {cell_s:.0f} s; {cells} cells", file=sys.stderr, flush=True)

    address, nodes = cluster_nodes(ray_folder, environment)
    command = neurofleet("run", write_job(folder, cells), "--out", out.root, "--address", address)
    driver = Supervised(command, folder / "driver.log", environment)
    soak = Soak(driver, nodes, mark, arguments.minutes, arguments.signals, random.Random(arguments.seed))
    begun = time.monotonic()
    try:
        finished = soak.run(180 * arguments.minutes)
    finally:
        orphans = soak.end()
    told = {
        "benchmark": "soak",
        "finished": finished,
        "minutes": (time.monotonic() - begun) / 60,
        "cells": cells,
        "signals": sum(soak.sent.values()),
        "signals_by_target": Counter[str](),
        "signals_by_name": Counter[str](),
        "driver_starts": driver.starts,
        "node_starts": [node.starts for node in nodes],
        "driver_ended": soak.ended,
        "tracebacks": driver.log.read_text().count("Traceback (most recent call last)"),
        **compared(out, whole, cells),
        "left_by_driver": soak.left,
        "orphans": orphans,
        **soak.memory_of_last_driver(),
    }
    for name, count in soak.sent.items():
        told["signals_by_target"][name.split()[0]] += count
        told["signals_by_name"][name.split()[1]] += count
    print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in told.items()}))
    clean_up_folder(ray_folder)
    if arguments.keep is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
