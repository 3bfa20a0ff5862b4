"""What the models of a cell's pooled hall of fame do is stored when the cell ends, beside what was recorded.

``OUT/traces/cell=ID/part.parquet``, and the same below ``features``, ``rates`` and ``morphology``.
"""

from typing import Any

import numpy as np

from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import FEATURES, MORPHOLOGY, RATES, TRACES, HallOfFameRows, table_of
from neurofleet.jobs.fit.engines import ModelTraces, traces_spec
from neurofleet.jobs.fit.fit_problem import CellSubject, Problem, Subject
from neurofleet.jobs.fit.stage_search import Limits
from neurofleet.jobs.run_log import fit_logger
from neurofleet.neurosim.cells.fit_model import FitModel, recording_name
from neurofleet.neurosim.cells.morphology_readers import read_reconstruction
from neurofleet.neurosim.cells.user_model import UserModel
from neurofleet.neurosim.features.step_protocols import StepProtocol

STAGE = "traces"


class HallOfFameTraces:
    """Simulates the models of a pooled hall of fame once more on the pool, and stores what they do.

    Parameters
    ----------
    subject : Subject
    problem : Problem
        Of the last stage.
    models : HallOfFameRows
    store : RunStore
    limits : Limits
    """

    def __init__(
        self, subject: Subject, problem: Problem, models: HallOfFameRows, store: RunStore, limits: Limits
    ) -> None:
        self._subject, self._problem, self._models, self._store = subject, problem, models, store
        self._limits = limits
        self._model = problem.final_model or problem.model
        self._outcomes: dict[int, Outcome] = {}

    def tasks(self) -> list[EvaluationTask]:
        """Return a task a model; `take` wants the outcome of each. None where the models are not NEURON's."""
        if not isinstance(self._model, FitModel | UserModel):
            return []
        engine = traces_spec(self._subject.id, self._model, self._limits.max_steps)
        columns = [list(self._models.parameter_names).index(name) for name in self._problem.names]
        about = {"cell": self._subject.id, "stage": STAGE}
        return [
            self._limits.task(((self._subject.id, STAGE, 0), i), engine, row, self._limits.deadline.fresh(), about)
            for i, row in enumerate(self._models.parameters[:, columns])
        ]

    def take(self, individual: int, outcome: Outcome) -> None:
        """Take in what became of one model; when all are there, store them."""
        self._outcomes[individual] = outcome
        if len(self._outcomes) == len(self._models):
            self._write()

    def _write(self) -> None:
        cell = self._subject.id
        done = {i: o.value for i, o in sorted(self._outcomes.items()) if isinstance(o.value, ModelTraces)}
        if len(done) < len(self._models):
            reasons = sorted({outcome.reason for outcome in self._outcomes.values() if not outcome.ok})
            fit_logger(cell=cell).warning(
                "%d of %d models of the hall of fame could not be simulated again for their traces (%s)",
                len(self._models) - len(done),
                len(self._models),
                "; ".join(reasons),
            )
        if not done:
            return
        steps = self._model.targets.protocols if isinstance(self._model, FitModel) else {}
        by_recording = {recording_name(step.name): step for step in steps.values()}
        traces, features, rates = self._recorded()
        for i, model in done.items():
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
