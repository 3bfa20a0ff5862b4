"""The tables of a sample: every draw, the accepted models, acceptance by target, correlations."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.outcome import Outcome
from cluster.schemas import PARAMETER_PREFIX
from jobs.sample.inputs import Sampling

DRAWS = "draws"
FEATURE_PREFIX = "feature."
FEWEST_FOR_CORRELATION = 10
_WORD = pa.dictionary(pa.int32(), pa.string())


def draws_table(sampling: Sampling, start: int, outcomes: Sequence[Outcome]) -> pa.Table:
    """Return one row a draw, numbered from `start`: its parameters, its e-features, and what became of it."""
    targets = sampling.model.targets.targets
    drawn = sampling.design.rows(start, start + len(outcomes))
    features = np.full((len(outcomes), len(targets)), np.nan)
    rejected: list[str | None] = []
    for i, outcome in enumerate(outcomes):
        by = None
        if outcome.ok:
            features[i] = outcome.value.features
            if outcome.value.rejected_by >= 0:
                by = targets[outcome.value.rejected_by].objective
        rejected.append(by)
    statuses = [outcome.status for outcome in outcomes]
    accepted = [s == "ok" and by is None for s, by in zip(statuses, rejected, strict=True)]
    columns = {
        "draw": pa.array(np.arange(start, start + len(outcomes)), pa.int64()),
        "status": pa.array(statuses).cast(_WORD),
        "reason": pa.array([outcome.reason for outcome in outcomes]).cast(_WORD),
        "seconds": pa.array([outcome.seconds for outcome in outcomes], pa.float64()),
        "accepted": pa.array(accepted, pa.bool_()),
        "rejected_by": pa.array(rejected, pa.string()).cast(_WORD),
    }
    for i, name in enumerate(sampling.design.space.names):
        columns[PARAMETER_PREFIX + name] = pa.array(drawn[:, i])
    for i, target in enumerate(targets):
        columns[FEATURE_PREFIX + target.objective] = pa.array(features[:, i])
    return pa.table(columns)


def acceptance_rows(sampling: Sampling, draws: pa.Table, within_z: float) -> list[dict[str, object]]:
    """Return one row a target: how many draws came to it, and how many of them were within it."""
    rows: list[dict[str, object]] = []
    first = draws["rejected_by"].cast(pa.string())
    for target in sampling.model.targets.targets:
        values = draws[FEATURE_PREFIX + target.objective].to_numpy()
        asked = np.isfinite(values)
        within = np.abs((values - target.mean) / target.std) <= within_z
        rows.append(
            {
                "cell": sampling.cell,
                "objective": target.objective,
                "mean": target.mean,
                "std": target.std,
                "with_value": int(asked.sum()),
                "within": int((asked & within).sum()),
                "rejected_first": pc.sum(pc.equal(first, target.objective)).as_py() or 0,
            }
        )
    return rows


def correlation_rows(sampling: Sampling, accepted: pa.Table) -> list[dict[str, object]]:
    """Return Spearman's correlation of each pair of conductances among the accepted models.

    Adjusted p are Benjamini and Hochberg's over the pairs of a cell. Without enough models there are no rows.
    """
    from scipy.stats import false_discovery_control, spearmanr

    from neurosim.population import conductances

    names = conductances(sampling.design.space.names)
    if len(accepted) < FEWEST_FOR_CORRELATION or len(names) < 2:
        return []
    values = np.column_stack([accepted[PARAMETER_PREFIX + name].to_numpy() for name in names])
    rows: list[dict[str, object]] = []
    for i, one in enumerate(names):
        for j in range(i + 1, len(names)):
            rho, p = spearmanr(values[:, i], values[:, j])
            rows.append({"cell": sampling.cell, "a": one, "b": names[j], "rho": float(rho), "p": float(p)})
    adjusted = false_discovery_control([row["p"] for row in rows])
    for row, p in zip(rows, adjusted, strict=True):
        row["p_adjusted"], row["models"] = float(p), len(accepted)
    return rows
