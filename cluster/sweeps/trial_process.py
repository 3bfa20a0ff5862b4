"""What runs in the process of a trial: its function, and the reports to Ray Tune."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import socket
import time
import traceback
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune

from neurofleet.cluster.sweeps.trial_records import EpochReport, TrialFolder
from neurofleet.errors import ClusterError
from neurofleet.scratch import scratch_folder

_ORIGIN_FILE = "origin.json"
_CHECKPOINTS = "checkpoints"


class TimeLimitReached(BaseException):
    """No `Exception`, so that the trial's function does not catch it by mistake."""


def run_trial(config: Mapping[str, Any]) -> None:
    """Run a trial, or go on with one.

    An exception of the trial's function is its outcome, and written to its folder. Ray, which would begin the trial
    again, only learns of processes that died.

    Parameters
    ----------
    config : mapping
        ``sweep``, which all trials have in common, and ``trial``: its ``index``, ``parameters`` and ``seed``.
    """
    sweep, setting = config["sweep"], trial_setting(config, tune.get_context().get_trial_id())
    driver_id = Path(sweep["folder"]) / ".driver"
    if not driver_id.exists() or driver_id.read_text() != sweep["driver_id"]:
        raise ClusterError(
            f"The trial on {socket.gethostname()} does not see the folder {sweep['folder']} of the driver's"
            " machine. Give a folder that all machines of the cluster share."
        )
    trial = _RunningTrial(sweep, setting)
    if trial.folder.row() is not None:
        return
    module, _, function = sweep["factory"].partition(":")
    try:
        trial.continue_from_records()
        scores = getattr(importlib.import_module(module), function)(
            dict(sweep["payload"]),
            dict(setting["parameters"]),
            setting["seed"],
            trial.folder.path,
            trial.report,
        )
        trial.end(scores)
    except TimeLimitReached:
        trial.folder.end("stopped", f"over its time limit of {sweep['time_limit_s']:g} s")
    except Exception as error:  # noqa: BLE001  a process border: every failure is a trial's outcome
        (trial.folder.path / "error.txt").write_text("".join(traceback.format_exception(error)))
        trial.folder.end("failed", f"{type(error).__name__}: {error}", {}, trial.elapsed_s())


def trial_setting(config: Mapping[str, Any], trial_id: str) -> dict[str, Any]:
    """The index, parameters and seed of a trial.

    In a population, a trial that takes over another's state gets the other's configuration as well. Its own number is
    then only in Ray's id of it.
    """
    starts = config["sweep"].get("starts")
    own = starts[int(trial_id.rpartition("_")[2])] if starts else {}
    return {**config["trial"], **own, "parameters": config["trial"]["parameters"]}


class _RunningTrial:
    def __init__(self, sweep: Mapping[str, Any], setting: Mapping[str, Any]) -> None:
        self._sweep = sweep
        self._setting = setting
        self._metric = self._sweep["metric"]
        self.folder = TrialFolder(self._sweep["folder"], setting["index"])
        self._reports: list[EpochReport] = []
        self._spent_s = 0.0
        self._begun = time.monotonic()

    def elapsed_s(self) -> float:
        """Time that the trial has taken, in earlier processes as well."""
        return self._spent_s + time.monotonic() - self._begun

    def continue_from_records(self) -> None:
        """Read what an earlier process of this trial, or the trial that it is to copy, has done."""
        if self._sweep["population"]:
            self._copy_checkpoint()
            self.folder.set(self._setting["parameters"], self._setting["seed"])
        self._reports = self.folder.reports()
        self.folder.set_reports(self._reports)
        if self._reports:
            self._spent_s = self._reports[-1]["elapsed_s"]
        if not self._sweep["population"]:
            for report in self._reports:  # for the scheduler, which may be new
                self._report_to_tune(report)

    def report(self, metrics: Mapping[str, Any]) -> None:
        """Report the metrics of an epoch; this ends the trial if the scheduler stops it."""
        last = int(self._reports[-1]["epoch"]) if self._reports else 0
        report: EpochReport = {
            **{n: float(v) for n, v in metrics.items() if n not in ("epoch", "seconds")},
            "epoch": int(metrics.get("epoch", last + 1)),
            "elapsed_s": self.elapsed_s(),
        }
        self._check(report, "reports")
        self._reports.append(report)
        self.folder.report(report)
        limit_s = self._sweep["time_limit_s"]
        if limit_s is not None and report["elapsed_s"] > limit_s:
            raise TimeLimitReached
        self._report_to_tune(report)

    def end(self, scores: Any) -> None:
        """Store what the trial's function returned."""
        if not isinstance(scores, Mapping):
            raise ClusterError(f"{self._sweep['factory']} should return its scores; it returned {scores!r}.")
        scores = {name: float(score) for name, score in scores.items()}
        self._check(scores, "returns")
        self.folder.end("done", "", scores, self.elapsed_s())

    def _check(self, metrics: Mapping[str, float], does: str) -> None:
        if self._metric not in metrics:
            raise ClusterError(
                f"The sweep goes by the metric {self._metric!r}; {self._sweep['factory']} {does}"
                f" {', '.join(n for n in metrics if n not in ('epoch', 'elapsed_s')) or 'none'}."
            )

    def _report_to_tune(self, report: EpochReport) -> None:
        score = report[self._metric]
        if not math.isfinite(score):  # the worst score: schedulers cannot compare nan
            score = {"min": math.inf, "max": -math.inf}[self._sweep["mode"]]
        reported = {"epoch": int(report["epoch"]), self._metric: score}
        if self._sweep["population"] and report["epoch"] % self._sweep["population"] == 0:
            with self._checkpoint_to_copy(report) as checkpoint:
                tune.report(reported, checkpoint=checkpoint)
        else:
            tune.report(reported)

    @contextmanager
    def _checkpoint_to_copy(self, report: EpochReport) -> Any:
        """The trial's last checkpoint, for others to copy."""
        with scratch_folder() as parent:
            folder = parent / "checkpoint"
            folder.mkdir()
            for file in sorted((self.folder.path / _CHECKPOINTS).glob("epoch-*.ckpt"))[-1:]:
                shutil.copy(file, folder)
            origin = {"index": self._setting["index"], "reports": self.folder.reports()}
            (folder / _ORIGIN_FILE).write_text(json.dumps(origin))
            yield tune.Checkpoint.from_directory(folder)

    def _copy_checkpoint(self) -> None:
        """Replace this trial's checkpoint by that of another, once, if the scheduler has chosen one."""
        if (checkpoint := tune.get_checkpoint()) is None:
            return
        with checkpoint.as_directory() as folder:
            text = (Path(folder) / _ORIGIN_FILE).read_text()
            origin, taken = json.loads(text), self.folder.path / "inherited.json"
            if origin["index"] == self._setting["index"] or (taken.exists() and taken.read_text() == text):
                return
            own = self.folder.path / _CHECKPOINTS
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            for file in Path(folder).glob("*.ckpt"):
                shutil.copy(file, own)
            self.folder.set_reports(origin["reports"])
            taken.write_text(text)
