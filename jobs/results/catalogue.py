"""Which tables runs of each kind have, and under which name SQL sees them."""

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from jobs.results.fit_parts import FIT_VIEWS, fit_parts
from jobs.results.found_runs import ENDING, FIT, MODEL, Found, FoundRun
from jobs.results.scanning import Part, keys_of

if TYPE_CHECKING:
    import pyarrow as pa

PREDICTIONS, EMBEDDINGS, SCORES = "predictions", "embeddings", "scores"
OF_LOOSE = (PREDICTIONS, EMBEDDINGS)
SIMS = "sims"
OF_LEARNERS = {
    PREDICTIONS: "predictions.parquet",
    EMBEDDINGS: "embeddings.parquet",
    SCORES: "scores.parquet",
    "history": "history.parquet",
    "split": "split.parquet",
    "stability": "stability.parquet",
    "trials": "trials/trials.parquet",
}
"""The tables of trainings, sweeps and evaluations; those of several data sets are in NAME/set=SET/."""

Parts = Callable[[], list[Part]]


def loose_tables(found: Found) -> list[str]:
    """Return the Parquet files that no run has written for itself, below the root."""
    names = []
    for run, name in found.tables:
        own = run is not None and run.family != FIT and (run.family != MODEL or name in OF_LEARNERS.values())
        if not own:
            names.append(name if run is None else run.prefix + name)
    return sorted(names)


def tables_of(run: FoundRun) -> dict[str, Parts]:
    """Return the views that a run has a part in, each with what finds its files."""
    if run.family == FIT:
        return {view: partial(fit_parts, run.place, view, run.prefix, run.run) for view in FIT_VIEWS}
    if run.family == MODEL:
        return _of_learner(run)
    found: dict[str, Parts] = {}
    for name in run.files:
        if name.endswith(ENDING) and not name.startswith("."):
            found[_view(run.kind, name.removesuffix(ENDING))] = partial(_one, run, name)
    for name in run.partitioned:
        found[_view(run.kind, name)] = partial(_below, run, name)
    return found


def _of_learner(run: FoundRun) -> dict[str, Parts]:
    found: dict[str, Parts] = {}
    for view, name in OF_LEARNERS.items():
        folder, _, file = name.rpartition("/")
        if name in run.files:
            found[view] = partial(_one, run, name)
        elif not folder and view in run.folders:
            found[view] = partial(_below, run, view)
        elif folder in run.folders and file in run.place.entries(run.prefix + folder)[1]:
            found[view] = partial(_one, run, name)
    if run.learner == SIMS:  # its scores are in its model.json
        found.setdefault(SCORES, list)
    return found


def _below(run: FoundRun, folder: str) -> list[Part]:
    names = run.place.names(run.prefix + folder)
    parts = [Part(name, run.run, keys_of(name.removeprefix(run.prefix).split("/")[:-1])) for name in names]
    return [part for part in parts if part.keys and part.name.endswith(ENDING)]


def _one(run: FoundRun, name: str) -> list[Part]:
    return [Part(run.prefix + name, run.run)]


def _view(kind: str, name: str) -> str:
    return re.sub(r"\W", "_", f"{kind}_{name}").lower()


def view_of_loose(schema: "pa.Schema") -> str | None:
    """Return where a table that `neurofleet predict` or `embed` has written belongs; None for any other."""
    from jobs.predict.table import ABOUT

    if ABOUT in (schema.metadata or {}):
        return PREDICTIONS
    is_map = {"umap_0", "umap_1"} <= set(schema.names) and schema.names[0] in ("unit_id", "neuron_id")
    return EMBEDDINGS if is_map else None


def sims_scores(run: FoundRun) -> "pa.Table":
    """Return the scores that stand in a SIMS model, which has no file of them: a row a method, none before
    the model has any."""
    import pyarrow as pa

    from jobs.sims.results import scores_rows
    from jobs.train.folder import FACTS

    numbers = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1")
    schema = pa.schema([("method", pa.string()), *((name, pa.float64()) for name in numbers)])
    facts = run.description().get("description", {}).get("facts", {})
    rows = []
    if set(FACTS) <= facts.keys():
        for method, row in zip([*facts["scores"], *facts["baselines"]], scores_rows(facts), strict=True):
            low, high = row.interval or (None, None)
            rows.append((method, row.accuracy, low, high, row.macro_f1))
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)
