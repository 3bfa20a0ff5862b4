"""How many cells and units of what a reference lacks lie outside of it: a class, a technology, a species.

``python -m tests.benchmarks.held_back [--sets NAME,...]`` prints one JSON line, after a minute or two. Something is
held back, the distances of SIMS or HIPPIE are made of the rest, and everything farther than 95 % of the rest's own
held-out samples is outside: 5 % of what is like the rest should be, and are false alarms. No network is trained.

``caught``
    The share of what was held back that is outside.
``false_alarms``
    The share outside of samples that are like the reference and no part of it: a fifth of its cells; a fifth of its
    units, in whole animals where these are known, each fifth in turn.

Of classes the mean over those of at least 10 samples beside 50 others; ``each`` has what is caught of each. A
technology or species that was held back has mostly the same classes. Cells of another laboratory or species share some
genes only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")

from neurofleet.errors import CellsRefused
from neurofleet.learners.cells.cell_files import open_cells
from neurofleet.learners.cells.cell_labels import read_labels
from neurofleet.learners.cells.normalisation import check_query, recognise
from neurofleet.learners.hippie.trained_units import ALL, TrainedUnits
from neurofleet.learners.sims.labelled_reference import Reference, reference_of
from neurofleet.learners.sims.reference_space import reference_space
from neurofleet.learners.units.unit_files import open_units
from neurofleet.learners.units.units import MODALITIES, Units
from tests.benchmarks.hippie import DATA as UNITS
from tests.benchmarks.hippie import SETS as UNIT_SETS
from tests.benchmarks.sims_accuracy import DATA as CELLS
from tests.benchmarks.sims_accuracy import SETS as CELL_SETS

FEWEST, FEWEST_OTHERS = 10, 50
TECHNOLOGIES = {"pbmc_3tech_symphony": "donor"}
FOREIGN_CELLS = {
    "species": [("mouse_brain_merfish_1k", "pbmc_ctrl_stim_unlabelled")],
    "technology": [("osmfish_cortex_33genes", "mouse_brain_merfish_1k")],
    "laboratory": [("pbmc_3tech_symphony", "pbmc68k_reduced"), ("pbmc_3tech_symphony", "pbmc_ctrl_stim_unlabelled")],
}
NAMING, BY_COLUMN = "gene_name+ignore-case", {"mouse_brain_merfish_1k"}
FOREIGN_UNITS = {
    "technology": [("juxta", "cellexplorer"), ("cellexplorer", "juxta")],
    "species": [("juxta", "dandi"), ("cellexplorer", "dandi"), ("dandi", "juxta"), ("dandi", "cellexplorer")],
}

Outside = Callable[[Any], np.ndarray]


def fifths(groups: np.ndarray) -> list[np.ndarray]:
    """Return masks of about a fifth of the samples each, whole groups."""
    found, codes = np.unique(groups, return_inverse=True)
    part = (np.random.default_rng(0).permutation(len(found)) % 5)[codes]
    return [part == number for number in range(5)]


def measured(outside: Outside, held_back: Any, like: Any) -> dict[str, Any]:
    """Return the shares outside."""
    away, alarms = outside(held_back), outside(like)
    return {"caught": round(float(away.mean()), 3), "false_alarms": round(float(alarms.mean()), 3), "n": len(away)}


def mean_of(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of several measurements."""
    return {key: round(float(np.mean([one[key] for one in found])), 3) for key in ("caught", "false_alarms")}


def over_classes(names: np.ndarray, measure: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return what was measured of each class, and the mean."""
    known, counts = np.unique(names[names != ""], return_counts=True)
    enough = (counts >= FEWEST) & (len(names) - counts >= FEWEST_OTHERS)
    each = {str(name): measure(name) for name in known[enough]}
    return mean_of(list(each.values())) | {"each": {name: one["caught"] for name, one in each.items()}}


def cells_outside(reference: Reference, rows: np.ndarray) -> Outside:
    """Return what tells which cells, log-normalised, are outside of some of a reference's."""
    space = reference_space(reference.values, np.sort(rows), reference.labels, 0, make_map=lambda cells: cells[:, :2])
    assert space is not None
    return lambda values: space.distance.of(space.distances.coordinates(values.toarray())) > 1


def sims_set(name: str) -> dict[str, Any]:
    """Hold back each class of a set, and each technology."""
    cells = open_cells(CELLS / f"{name}.h5ad").in_memory()
    reference = reference_of(cells, read_labels(cells, "cell_type"))
    labels, rows = np.asarray(reference.classes, dtype=object)[reference.labels], np.arange(len(cells))
    like = fifths(rows)[0]

    def without(mask: np.ndarray) -> dict[str, Any]:
        outside = cells_outside(reference, rows[~mask & ~like])
        return measured(outside, reference.values(rows[mask]), reference.values(rows[~mask & like]))

    found = {"class": over_classes(labels, lambda each: without(labels == each))}
    if name in TECHNOLOGIES:
        groups = cells.obs[TECHNOLOGIES[name]].astype(str).to_numpy()
        found["technology"] = {each: without(groups == each) for each in np.unique(groups)}
    return found


def foreign_cells(name: str, other: str) -> dict[str, Any] | None:
    """Measure the cells of another set, by the genes that both have; None where these are too few."""
    files = [CELLS / f"{each}.h5ad" for each in (name, other)]
    naming = NAMING if {name, other} & BY_COLUMN else "ignore-case"
    try:
        cells = open_cells(files[0], query=files[1], gene_names=naming)
    except CellsRefused:
        return None
    reference = reference_of(cells, read_labels(cells, "cell_type"))
    (query,) = cells.queries
    ((part,), rows) = query.parts, np.arange(len(cells))
    how = check_query(reference.normalisation, recognise(query))
    over_all = reference.normalisation.totals == "all genes"
    theirs = part.source.read(np.arange(len(query)))
    values = how.apply(theirs)[:, part.columns] if over_all else how.apply(theirs[:, part.columns])
    like = fifths(rows)[0]
    outside = cells_outside(reference, rows[~like])
    return measured(outside, values, reference.values(rows[like])) | {"shared_genes": len(cells.genes)}


def units_of(name: str) -> tuple[Units, np.ndarray, np.ndarray | None]:
    """Return the units of a set, their classes, and their animals where these are known."""
    one = UNIT_SETS[name]
    units = open_units([str(UNITS / one["units"])], one["layout"])
    return units, units.column(one["label"]), units.column(one["group"]) if "group" in one else None


def units_outside(units: Units, groups: np.ndarray | None) -> Outside:
    """Return what tells which units are outside of some others."""
    modalities = [name for name, there in zip(MODALITIES, units.present.any(0), strict=True) if there]
    trained = TrainedUnits.of(units, modalities, groups, 0)
    assert trained is not None
    return lambda others: np.nan_to_num(trained.distances(others)[ALL]) > 1


def hippie_set(name: str) -> dict[str, Any]:
    """Hold back each class of a set."""
    units, labels, groups = units_of(name)

    def without(each: str) -> dict[str, Any]:
        return beside_units(units, groups, labels != each, units.take(labels == each))

    return {"class": over_classes(labels, without)}


def beside_units(units: Units, groups: np.ndarray | None, kept: np.ndarray, held_back: Units) -> dict[str, Any]:
    """Measure units that were held back beside those that are kept, each fifth of these left out in turn."""
    found = []
    for like in fifths(np.arange(len(units)) if groups is None else groups):
        known = kept & ~like
        outside = units_outside(units.take(known), None if groups is None else groups[known])
        found.append(measured(outside, held_back, units.take(kept & like)))
    return mean_of(found) | {"n": len(held_back)}


def foreign_units(name: str, other: str) -> dict[str, Any]:
    """Measure the units of another set."""
    units, _, groups = units_of(name)
    return beside_units(units, groups, np.ones(len(units), dtype=bool), units_of(other)[0])


def main() -> None:
    """Measure all, and print the line."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", default=",".join([*CELL_SETS, *UNIT_SETS]))
    wanted = parser.parse_args().sets.split(",")
    started = time.monotonic()
    line: dict[str, Any] = {"benchmark": "held_back", "sims": {}, "hippie": {}}
    line["sims"] = {name: sims_set(name) for name in CELL_SETS if name in wanted}
    for kind, pairs in FOREIGN_CELLS.items():
        for name, other in pairs:
            if name in wanted:
                line["sims"][name].setdefault(kind, {})[other] = foreign_cells(name, other)
    line["hippie"] = {name: hippie_set(name) for name in UNIT_SETS if name in wanted}
    for kind, pairs in FOREIGN_UNITS.items():
        for name, other in pairs:
            if name in wanted:
                line["hippie"][name].setdefault(kind, {})[other] = foreign_units(name, other)
    print(json.dumps(line | {"seconds": round(time.monotonic() - started)}))


if __name__ == "__main__":
    main()
