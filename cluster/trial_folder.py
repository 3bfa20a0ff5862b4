"""The folder of one trial: what it is, what it has reported, how it ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.folder import LocalFolder
from cluster.trial_table import TrialRow, TrialStatus

Report = dict[str, float]
"""A trial's metrics after an epoch, with ``epoch`` (from 1) and ``elapsed_s``, the time it has worked."""

_SETTING, _REPORTS, _RESULT = "trial.json", "reports.jsonl", "result.json"


class TrialFolder:
    """Written by the driver before the trial runs, by its process while it does, by either when it ends.

    Parameters
    ----------
    sweep : str or Path
        The sweep's folder.
    index : int
    """

    def __init__(self, sweep: str | Path, index: int) -> None:
        self.name = f"trial-{index:05d}"
        self.path = Path(sweep) / self.name
        self._folder = LocalFolder(self.path)

    def set(self, parameters: dict[str, Any], seed: int) -> None:
        """Say what the trial is."""
        self._write(_SETTING, {"parameters": parameters, "seed": seed})

    def parameters(self) -> dict[str, Any] | None:
        """What `set` was told; None before."""
        setting = self._read(_SETTING)
        return None if setting is None else setting["parameters"]

    def report(self, report: Report) -> None:
        """Add an epoch's metrics."""
        self._folder.append(_REPORTS, json.dumps(report).encode() + b"\n")

    def reports(self) -> list[Report]:
        """The reports in the order of their epochs, of each epoch the last one."""
        lines = (self._folder.read(_REPORTS) or b"").split(b"\n")
        by_epoch = {report["epoch"]: report for report in map(json.loads, filter(None, lines[:-1]))}
        return [by_epoch[epoch] for epoch in sorted(by_epoch)]

    def set_reports(self, reports: Sequence[Report]) -> None:
        """Replace all reports."""
        self._folder.write(_REPORTS, "".join(json.dumps(r) + "\n" for r in reports).encode())

    def end(
        self,
        status: TrialStatus,
        error: str = "",
        scores: dict[str, float] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Say how it ended. Without scores, those of the last report stand."""
        reports = self.reports()
        last = reports[-1] if reports else {}
        if scores is None:
            scores = {name: value for name, value in last.items() if name not in ("epoch", "elapsed_s")}
        result = {
            "status": status,
            "error": error,
            "scores": scores,
            "epochs": int(last.get("epoch", 0)),
            "seconds": max(seconds, last.get("elapsed_s", 0.0)),
        }
        self._write(_RESULT, result)

    def row(self) -> TrialRow | None:
        """The trial as it ended; None as long as it has not."""
        result = self._read(_RESULT)
        return None if result is None else TrialRow(trial=self.name, **self._read(_SETTING), **result)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        self._folder.write(name, json.dumps(content).encode())

    def _read(self, name: str) -> Any:
        content = self._folder.read(name)
        return None if content is None else json.loads(content)
