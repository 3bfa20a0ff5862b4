"""The trials of a sweep that have ended as a study in an Optuna journal file, which optuna-dashboard opens.

It is written from the trials' folders and never read by a sweep, whatever its method: `OptunaSettings` proposes from a
study of its own.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

from neurofleet.cluster.sweeps.parameter_sweep import ParameterSweep
from neurofleet.cluster.sweeps.search_space import ChoiceDimension, optuna_distribution
from neurofleet.cluster.sweeps.trial_records import TrialFolder, TrialRow
from neurofleet.errors import ClusterError


class OptunaJournal:
    """A study with a trial for each row of the sweep's table, in the order in which they ended.

    Parameters
    ----------
    path : Path
        Is made, or added to. One process at a time writes it.
    plan : ParameterSweep
    name : str
        Of the study.

    Raises
    ------
    ClusterError
        If the file is no journal.
    """

    def __init__(self, path: Path, plan: ParameterSweep, name: str) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = path.absolute()  # Optuna's lock is a link to it, from the folder that it is in
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_cut_line(path)
        Path(f"{path}.lock").unlink(missing_ok=True)  # of a driver that was killed while it wrote
        self._metric = plan.metric
        self._space = plan.space()
        self._distributions = {
            name: optuna.distributions.CategoricalDistribution([_plain(value) for value in dimension.values])
            if isinstance(dimension, ChoiceDimension)
            else optuna_distribution(dimension)
            for name, dimension in self._space.dimensions.items()
        }
        try:
            self._study = optuna.create_study(
                storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
                study_name=name,
                direction="minimize" if plan.mode == "min" else "maximize",
                load_if_exists=True,
            )
            self._there = {trial.user_attrs.get("trial") for trial in self._study.get_trials(deepcopy=False)}
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{path} was expected to be an Optuna journal, and cannot be read as one ({error}). Remove it: it is"
                " written again from the trials."
            ) from error
        if not self._there:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Optuna calls this experimental
                self._study.set_metric_names([plan.metric])

    def add(self, row: TrialRow, folder: TrialFolder) -> None:
        """Add a trial that has ended, unless it is there.

        Parameters
        ----------
        row : TrialRow
        folder : TrialFolder
            Its own.
        """
        if row.trial in self._there:
            return
        from optuna.trial import TrialState, create_trial

        score = row.scores.get(self._metric, math.nan)
        states = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
        state = states[row.status] if math.isfinite(score) else TrialState.FAIL
        fixed = {name: _plain(row.parameters.get(name)) for name in self._space.fixed}
        about = {"trial": row.trial, "seed": row.seed, "epochs": row.epochs, "seconds": row.seconds}
        trial = create_trial(
            state=state,
            value=None if state == TrialState.FAIL else score,
            params={
                name: _plain(row.parameters[name])
                if isinstance(dimension, ChoiceDimension)
                else dimension.clip(row.parameters[name])
                for name, dimension in self._space.dimensions.items()
            },
            distributions=self._distributions,
            user_attrs={**about, **fixed, **row.scores} | ({"error": row.error} if row.error else {}),
            intermediate_values={
                int(report["epoch"]): report[self._metric]
                for report in folder.reports()
                if math.isfinite(report.get(self._metric, math.nan))
            },
        )
        ended = folder.ended_at()
        trial.datetime_start, trial.datetime_complete = ended - timedelta(seconds=row.seconds), ended
        self._study.add_trial(trial)
        self._there.add(row.trial)


def _plain(value: Any) -> Any:
    """Return a value that Optuna can store; a list is text."""
    return value if value is None or isinstance(value, bool | int | float | str) else json.dumps(value)


def _drop_cut_line(path: Path) -> None:
    """Drop a last line that a driver did not write to its end: all that comes behind it could not be read."""
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
