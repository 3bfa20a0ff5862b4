"""What the models of a cell's pooled hall of fame do is stored when the cell ends, beside what was recorded.

``OUT/traces/cell=ID/part.parquet``, and the same below ``features``, ``rates`` and ``morphology``.
"""

from typing import Any

import numpy as np

from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import FEATURES, MORPHOLOGY, RATES, TRACES, HallOfFameRows, table_of
from neurofleet.jobs.fit.campaign_state import FINAL
from neurofleet.jobs.fit.engines import engine_spec
from neurofleet.jobs.fit.fit_problem import CellSubject, Problem, Subject
from neurofleet.jobs.fit.kept_traces import KeptTraces
from neurofleet.jobs.fit.stage_search import Limits
from neurofleet.jobs.run_log import fit_logger
from neurofleet.neurosim.cells.fit_model import FitModel, recording_name
from neurofleet.neurosim.cells.morphology_readers import read_reconstruction
from neurofleet.neurosim.cells.user_model import UserModel
from neurofleet.neurosim.features.step_protocols import StepProtocol

STAGE = "traces"


class HallOfFameTraces:
    """Stores what the models of a pooled hall of fame do; those of which it is not kept are simulated again.

    Parameters
    ----------
    subject : Subject
    problem : Problem
        Of the last stage.
    models : HallOfFameRows
    store : RunStore
    limits : Limits
    kept : KeptTraces

    Attributes
    ----------
    seconds : float
        Spent on simulations.
    """

    def __init__(
        self,
        subject: Subject,
        problem: Problem,
        models: HallOfFameRows,
        store: RunStore,
        limits: Limits,
        kept: KeptTraces,
    ) -> None:
        self._subject, self._store, self._limits = subject, store, limits
        self._model = problem.final_model or problem.model
        columns = [list(models.parameter_names).index(name) for name in problem.names]
        self._parameters = models.parameters[:, columns]
        found = ((i, kept.get(subject.id, row)) for i, row in enumerate(self._parameters))
        self._done = {i: traces for i, traces in found if traces is not None}
        self._failed: dict[int, str] = {}
        self.seconds = 0.0

    @property
    def complete(self) -> bool:
        """Whether all that is to be had is there."""
        return len(self._done) + len(self._failed) == len(self._parameters)

    def tasks(self) -> list[EvaluationTask]:
        """Return a task a model to be simulated; `take` wants the outcome of each. None where they are not NEURON's."""
        if not isinstance(self._model, FitModel | UserModel):
            return []
        cell, deadline = self._subject.id, self._limits.deadline.fresh()
        name = f"{cell}-{self._subject.stages[-1].name}{FINAL}"  # the finalists' engine, which hosts may still have
        engine = engine_spec(name, self._model, self._limits.max_steps, traces=True)
        about = {"cell": cell, "stage": STAGE}
        return [
            self._limits.task(((cell, STAGE, 0), i), engine, row, deadline, about)
            for i, row in enumerate(self._parameters)
            if i not in self._done
        ]

    def take(self, individual: int, outcome: Outcome) -> None:
        """Take in what became of one model."""
        self.seconds += outcome.seconds
        if outcome.ok:
            self._done[individual] = outcome.value
        else:
            self._failed[individual] = outcome.reason

    def write(self) -> None:
        """Store what is there."""
        cell = self._subject.id
        if self._failed:
            fit_logger(cell=cell).warning(
                "%d of %d models of the hall of fame could not be simulated again for their traces (%s)",
                len(self._failed),
                len(self._parameters),
                "; ".join(sorted(set(self._failed.values()))),
            )
        if not self._done:
            return
        steps = self._model.targets.protocols if isinstance(self._model, FitModel) else {}
        by_recording = {recording_name(step.name): step for step in steps.values()}
        traces, features, rates = self._recorded()
        for i, model in sorted(self._done.items()):
            rank = i + 1
            for name, (time_ms, voltage_mV) in model.traces.items():
                step = by_recording.get(name)
                if step is not None or not steps:
                    traces.append(_trace(name if step is None else step.name, step, rank, None, time_ms, voltage_mV))
            for objective, found in model.features.items():
                features.append({"rank": rank, "objective": objective, **vars(found)})
            for name, rate_Hz in model.rates_Hz.items():
                rates.append({"rank": rank, "amplitude_nA": steps[name].amplitude_nA, "rate_Hz": rate_Hz})
        sections = self._sections()
        for kind, rows in ((TRACES, traces), (FEATURES, features), (RATES, rates), (MORPHOLOGY, sections)):
            self._store.write_table(f"{kind}/cell={cell}/part.parquet", table_of(kind, rows, cell))

    def _sections(self) -> list[dict[str, Any]]:
        if not isinstance(self._subject, CellSubject):
            return []
        cell = read_reconstruction(self._subject.morphology.unpacked())
        sections = [_section(each.kind, each.parent, each.points) for each in cell.sections]
        return [_section("soma", None, cell.soma.points), *sections]

    def _recorded(self) -> tuple[list[dict], list[dict], list[dict[str, Any]]]:
        """Return what was recorded, in the same form."""
        recorded = self._subject.recorded if isinstance(self._subject, CellSubject) else None
        if recorded is None:
            return [], [], []
        traces = [
            _trace(each.protocol.name, each.protocol, None, each.sweep, each.time_ms, each.voltage_mV)
            for each in recorded.sweeps
        ]
        rates = [
            {"rank": None, "sweep": rate.sweep, "amplitude_nA": rate.amplitude_nA, "rate_Hz": rate.rate_Hz}
            for rate in recorded.rates
        ]
        return traces, [], rates


def _section(kind: str, parent: int | None, points: np.ndarray) -> dict[str, Any]:
    columns = dict(zip(("x_um", "y_um", "z_um", "diameter_um"), np.asarray(points, np.float32).T, strict=True))
    return {"kind": kind, "parent": parent, **columns}


def _trace(
    protocol: str, step: StepProtocol | None, rank: int | None, sweep: int | None, time_ms: np.ndarray, mV: np.ndarray
) -> dict[str, Any]:
    return {
        "rank": rank,
        "sweep": sweep,
        "protocol": protocol,
        "amplitude_nA": None if step is None else step.amplitude_nA,
        "start_ms": None if step is None else step.start_ms,
        "stop_ms": None if step is None else step.stop_ms,
        "time_ms": np.asarray(time_ms, np.float32),
        "voltage_mV": np.asarray(mV, np.float32),
    }
