"""What draws of a posterior do at steps that no stage of the fit was trained on, beside what was recorded there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import ndtr

from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.jobs.fit.fit_problem import CellSubject, Problem
from neurofleet.jobs.studies.measurements import Block, measure_engine
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.features.step_protocols import TargetSet
from neurofleet.neurosim.recordings.recording import RecordingSource
from neurofleet.neurosim.studies.cell_models import CellModels
from neurofleet.neurosim.studies.generalisation import generalisation_targets
from neurofleet.neurosim.studies.parameter_sampling import SampleMeasure

PREDICTED = "predicted"
QUANTILES = (5, 25, 50, 75, 95)


def unseen_targets(subject: CellSubject, problem: Problem, recording: RecordingSource | None) -> TargetSet | None:
    """Return the e-features at steps of the recording that no stage was scored at, None where there are none."""
    model = problem.final_model
    if recording is None or model is None:
        return None
    trained = {step.name: step for targets in subject.targets for step in targets.protocols.values()}
    none = np.empty(0, int)
    models = CellModels(subject.id, model, np.empty((0, len(model.free))), none, none, (*trained.values(),), recording)
    return generalisation_targets(models)


def predictions_block(
    cell: str, model: FitModel, unseen: TargetSet, values: np.ndarray, name: str, max_steps: int | None
) -> Block:
    """Return the measurement of draws (n, P) at unseen steps, stored as file `name`."""
    measure = SampleMeasure(replace(model, targets=unseen), within_z=math.inf, stop_early=False, max_steps=max_steps)
    objectives = [target.objective for target in unseen.targets]

    def table(outcomes: Sequence[Outcome]) -> pa.Table:
        rows = [
            {"rank": rank, "status": outcome.status, "reason": outcome.reason, "values": _values(outcome, objectives)}
            for rank, outcome in enumerate(outcomes, 1)
        ]
        kinds = [("rank", pa.int32()), ("status", pa.string()), ("reason", pa.string())]
        return pa.Table.from_pylist(rows, pa.schema([*kinds, ("values", pa.map_(pa.string(), pa.float64()))]))

    engine = measure_engine(f"{cell}-predictions", measure)
    return Block(name, cell, engine, len(values), lambda: list(values), table, len(unseen.protocols))


def _values(outcome: Outcome, objectives: Sequence[str]) -> list[tuple[str, float]]:
    features = outcome.value.features if outcome.ok else np.full(len(objectives), np.nan)
    return list(zip(objectives, features.tolist(), strict=True))


def prediction_rows(cell: str, unseen: TargetSet, measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each e-feature at an unseen step: where the draws' values lie, and the recorded one among them.

    `recorded_at` is the share of what draws predict that is below the recorded value, with the noise of the recording.
    """
    of_draws = [dict(row["values"]) for row in measured if row["status"] == "ok"]
    rows = []
    for target in unseen.targets:
        values = np.array([of_draw[target.objective] for of_draw in of_draws], float)
        found = values[np.isfinite(values)]
        quantiles = np.quantile(found, np.array(QUANTILES) / 100) if len(found) else [None] * len(QUANTILES)
        at = float(ndtr((target.mean - found) / target.std).mean()) if len(found) else None
        rows.append(
            {
                "cell": cell,
                "protocol": target.protocol,
                "amplitude_nA": unseen.protocols[target.protocol].amplitude_nA,
                "feature": target.feature,
                "recorded": target.mean,
                "recorded_std": target.std,
                "draws": len(of_draws),
                "missing": len(of_draws) - len(found),
                **{f"q{q:02d}": None if v is None else float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
                "recorded_at": at,
            }
        )
    return sorted(rows, key=lambda row: (row["feature"], row["amplitude_nA"]))
