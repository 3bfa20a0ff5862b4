"""The folder of a sweep."""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import RunFolderRefused
from cluster.folder import LocalFolder
from cluster.sweeps import TABLE, Sweep, SweepFailed, Swept
from cluster.trial_search import Listed, Optuna, Proposer, Random, Trials
from cluster.trial_table import TrialRow, to_table

_PLAN, _WORD = "sweep.json", ".driver"


class SweepFiles:
    """A sweep's folder, taken up where an earlier run left it.

    Parameters
    ----------
    path : Path
    plan : Sweep

    Raises
    ------
    RunFolderRefused
        If the folder holds another sweep.
    """

    def __init__(self, path: Path, plan: Sweep) -> None:
        self.path = path
        self._plan = plan
        self._folder = LocalFolder(path)
        found = self._folder.read(_PLAN)
        if found is not None and found.decode() != plan.fingerprint:
            raise RunFolderRefused(
                f"{path} holds another sweep: {found.decode()} there, {plan.fingerprint} asked for. Give a"
                " new folder, or the same sweep again."
            )
        settings = plan.number_of_settings()
        self.trials = Trials(path, _proposer(plan), settings, plan.repeats, plan.seed, plan.metric)
        self._settings = settings
        self._folder.write(_PLAN, plan.fingerprint.encode())
        self.word = uuid.uuid4().hex
        self._folder.write(_WORD, self.word.encode())
        self.write_table()

    def write_table(self) -> None:
        """Write the table of the trials that have ended."""
        sink = pa.BufferOutputStream()
        pq.write_table(to_table(self._rows()), sink, compression="zstd")
        self._folder.write(TABLE, sink.getvalue().to_pybytes())

    def result(self) -> Swept:
        """The sweep's best setting.

        Raises
        ------
        SweepFailed
            If no trial has a score.
        """
        by_setting = [(setting, self.trials.of_setting(setting)) for setting in range(self._settings)]
        for wanted in (all, any, lambda done: True):
            scored = [
                (score, setting)
                for setting, rows in by_setting
                if rows
                and wanted([row.status == "done" for row in rows])
                and not math.isnan(score := self._score(rows))
            ]
            if scored:
                break
        else:
            first = next((row for _, rows in by_setting for row in rows), None)
            raise SweepFailed(
                f"No trial of the sweep in {self.path} has a score. The first of them:"
                f" {first.error if first else 'there is none'}"
            )
        score, setting = min(scored, key=lambda s: (self._worth(s[0]), s[1]))
        rows = [r for r in self.trials.of_setting(setting) if not math.isnan(self._score([r]))]
        best = min(rows, key=lambda row: self._worth(self._score([row])))
        return Swept(best.parameters, score, best.trial, self._rows())

    def _rows(self) -> list[TrialRow]:
        return [row for _, row in sorted(self.trials.rows.items())]

    def _score(self, rows: Sequence[TrialRow]) -> float:
        """The mean metric of those that are done; of others only where none is."""
        counted = [row for row in rows if row.status == "done"] or rows
        scores = [row.scores[self._plan.metric] for row in counted if self._plan.metric in row.scores]
        return float(np.mean(scores)) if scores else math.nan

    def _worth(self, score: float) -> float:
        return score if self._plan.mode == "min" else -score


def _proposer(plan: Sweep) -> Proposer:
    space = plan.space()
    if not space.dimensions:
        return Listed([space.fixed])
    if plan.method == "grid":
        return Listed(space.grid())
    if plan.method == "optuna":
        return Optuna(space, plan.seed, plan.mode)
    return Random(space, plan.seed)
