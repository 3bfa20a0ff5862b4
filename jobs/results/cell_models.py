"""The models of a cell's hall of fame as its run stores them: parameters inside their bounds, scores, e-features."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from neurofleet.cluster.store.generations import checked_folder_name
from neurofleet.cluster.store.run_store import POOLED, RunStore
from neurofleet.cluster.store.schemas import FEATURES, HallOfFameRows
from neurofleet.jobs.fit.campaign_state import STAGE_STARTED
from neurofleet.jobs.results.parameters_at_bounds import Bounds, positions


@dataclass(frozen=True)
class CellModels:
    """A pooled hall of fame.

    Attributes
    ----------
    rows : HallOfFameRows
    bounds : mapping
        Parameter -> (lower, upper) of the last stage's search; empty where the folder does not tell.
    names : tuple of str
        The free parameters, P.
    places : list of list of float, (n, P)
        Between 0 on the lower bound and 1 on the upper; conductances on a log axis.
    features : list of dict
        ``rank``, ``objective``, ``value``, ``mean``, ``std``; empty for runs of older versions.
    """

    rows: HallOfFameRows
    bounds: Bounds
    names: tuple[str, ...]
    places: list[list[float]]
    features: list[dict[str, Any]]


def stored_of_cell(store: RunStore, kind: str, cell: str) -> pa.Table | None:
    """Return what was stored of a cell when it ended: `TRACES`, `FEATURES`, `RATES` or `MORPHOLOGY`; None without."""
    return store.table(f"{kind}/cell={checked_folder_name(cell)}/part.parquet")


def cell_models(store: RunStore, cell: str) -> CellModels | None:
    """Return the models of a cell, None before it is finished."""
    rows = store.read_hall_of_fame(checked_folder_name(cell), POOLED)
    if rows is None:
        return None
    started = [e for e in store.read_events() if e.get("cell") == cell and e["event"] == STAGE_STARTED]
    bounds = started[-1].get("bounds", {}) if started else {}
    names, places = positions(rows, bounds)
    features = stored_of_cell(store, FEATURES, cell)
    return CellModels(rows, bounds, names, places.tolist(), [] if features is None else features.to_pylist())
