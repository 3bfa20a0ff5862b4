"""A folder of morphologies: which are accepted, which are refused and why, compared with MorphIO and NeuroM.

Run as ``python -m tests.benchmarks.morphologies FOLDER [--reference PYTHON] [--table FILE.csv]``; one JSON line on
stdout, a row for each file in the table. ``--reference`` is an interpreter in which ``neurom`` (which brings
``morphio``) is installed, by default this one; without them only this project's part is measured.

``files``, ``accepted``, ``refused``, ``written_anew``
    ``written_anew``: NEURON is given another file than the user's.
``s_each``
    Wall time for a file, NEURON's reading included.
``refused_because``
    Part of the message -> number of files.
``accepted_by_both``, ``refused_by_both``, ``refused_alone``, ``accepted_alone``
    With MorphIO.
``length``, ``area``
    Of axon, dendrites and apical dendrite in the files that both accept: the relative difference to MorphIO, as its
    median, its 90th percentile and the largest, with that file. NEURON connects a branch to a soma of several points
    with a piece of cable, and begins a branch of an ASC file as thick as its first point.
``soma_area``
    The same to NeuroM, by how the soma is drawn.
``equal_section_counts``
    Part of the files. MorphIO keeps sections that have no branch between them, NEURON's SWC reader joins them.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.morphology import SWC_TYPES
from neurofleet.neurosim.cells.morphology_check import check_morphologies
from neurofleet.neurosim.cells.morphology_measures import MorphologySummary
from neurofleet.neurosim.file_endings import MORPHOLOGY_SUFFIXES

REASONS = (
    "in micrometres",
    "radius above zero",
    "has the diameter",
    "diameter above zero",
    "expected type 1",
    "a tree marked",
    "expected a soma",
    "expected one soma",
    "cell bodies that lie apart",
    "enclose",
    "disconnected",
    "one connected tree",
    "marker file",
    "seven numbers",
    "a number of its own",
    "parentheses",
    "MorphIO's HDF5",
    "expected a table",
    "one soma (one row",
    "the first column of /structure",
    "NEURON cannot read",
    "is empty",
    "to the end",
)

REFERENCE = """
import json, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
import morphio, neurom
morphio.set_maximum_warnings(0)
KINDS = {2: "axon", 3: "dend", 4: "apic"}
for path in json.load(sys.stdin):
    try:
        cell = morphio.Morphology(path)
        made = {"length": {}, "area": {}, "sections": {}}
        for section in cell.iter():
            kind = KINDS.get(int(section.type), "other")
            points, radii = np.asarray(section.points, float), np.asarray(section.diameters, float) / 2
            steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
            area = np.pi * ((radii[1:] + radii[:-1]) * np.hypot(steps, np.diff(radii))).sum()
            for name, value in (("length", steps.sum()), ("area", area), ("sections", 1)):
                made[name][kind] = made[name].get(kind, 0) + float(value)
        try:
            made["soma"] = float(neurom.get("soma_surface_area", neurom.load_morphology(path)))
        except Exception:
            made["soma"] = None
    except Exception as error:
        made = {"error": str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__}
    print(json.dumps(made), flush=True)
"""


def reference_measures(interpreter: str, paths: list[Path]) -> list[dict[str, Any]] | None:
    """Return what MorphIO and NeuroM make of each file; None where they are not installed."""
    missing = subprocess.run([interpreter, "-c", "import morphio, neurom"], capture_output=True).returncode
    if missing:
        return None
    names = json.dumps([str(path) for path in paths])
    done = subprocess.run([interpreter, "-c", REFERENCE], input=names, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def reason(error: InputError) -> str:
    return next((words for words in REASONS if words in str(error)), "other")


def difference(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(theirs, 1e-9)


def spread(differences: dict[str, float]) -> dict[str, Any]:
    """Return the median, the 90th percentile, the largest, and whose that is."""
    if not differences:
        return {}
    values = np.array(list(differences.values()))
    worst = max(differences, key=lambda name: differences[name])
    return {
        "files": len(values),
        "median": float(np.median(values)),
        "p90": float(np.quantile(values, 0.9)),
        "largest": float(values.max()),
        "of": worst,
    }


def compared(made: dict[str, MorphologySummary | InputError], theirs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return how the measures of files that both accept differ, and who refuses what alone."""
    both, alone = {}, {"refused_alone": 0, "accepted_alone": 0, "refused_by_both": 0}
    for name, ours in made.items():
        refused = isinstance(ours, InputError)
        if "error" in theirs[name]:
            alone["refused_by_both" if refused else "accepted_alone"] += 1
        elif refused:
            alone["refused_alone"] += 1
        else:
            both[name] = (ours, theirs[name])
    kinds = [kind for kind in SWC_TYPES.values() if kind != "soma"]
    somata: dict[str, dict[str, float]] = {}
    for name, (ours, other) in both.items():
        if other["soma"]:
            somata.setdefault(ours.soma_drawn_as, {})[name] = difference(ours.soma_area_um2, other["soma"])
    equal = [all(o.n_sections[k] == t["sections"].get(k, 0) for k in kinds) for o, t in both.values()]
    return {
        "accepted_by_both": len(both),
        **alone,
        "length": spread({n: difference(o.total_length_um, sum(t["length"].values())) for n, (o, t) in both.items()}),
        "area": spread(
            {
                n: difference(o.total_area_um2 - o.soma_area_um2, sum(t["area"].values()))
                for n, (o, t) in both.items()
                if t["area"]
            }
        ),
        "soma_area": {drawn: spread(values) for drawn, values in somata.items()},
        "equal_section_counts": float(np.mean(equal)) if equal else None,
    }


def write_table(
    path: Path, made: dict[str, MorphologySummary | InputError], theirs: dict[str, dict[str, Any]] | None
) -> None:
    """Write a row for each file."""
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["file", "accepted", "reason", "written_anew", "soma_um2", "length_um", "area_um2", "sections", "odd"]
            + ["morphio", "neurom_soma_um2", "morphio_length_um", "morphio_area_um2", "morphio_sections"]
        )
        for name, ours in made.items():
            other = (theirs or {}).get(name, {})
            right: list[Any] = [other.get("error", "accepted" if other else ""), other.get("soma")]
            right += [sum(other[key].values()) if key in other else "" for key in ("length", "area", "sections")]
            if isinstance(ours, InputError):
                rows.writerow([name, "no", str(ours), "", "", "", "", "", "", *right])
                continue
            sections = sum(ours.n_sections.values()) - 1
            numbers = [ours.soma_area_um2, ours.total_length_um, ours.total_area_um2 - ours.soma_area_um2, sections]
            odd = "; ".join((*ours.notes, *ours.warnings))
            rows.writerow([name, "yes", "", ours.file.converted, *numbers, odd, *right])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reference", default=sys.executable)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    paths = sorted(
        path for path in options.folder.rglob("*") if path.suffix.lower() in MORPHOLOGY_SUFFIXES and path.is_file()
    )
    names = [str(path.relative_to(options.folder)) for path in paths]
    started = time.monotonic()
    made = dict(zip(names, check_morphologies(paths), strict=True))
    seconds = time.monotonic() - started
    refused = {name: error for name, error in made.items() if isinstance(error, InputError)}
    result: dict[str, Any] = {
        "files": len(made),
        "accepted": len(made) - len(refused),
        "refused": len(refused),
        "written_anew": sum(not isinstance(m, InputError) and m.file.converted for m in made.values()),
        "s_each": seconds / max(len(made), 1),
        "refused_because": dict(Counter(map(reason, refused.values())).most_common()),
    }
    measured = reference_measures(options.reference, paths)
    theirs = None if measured is None else dict(zip(names, measured, strict=True))
    if theirs is not None:
        result |= compared(made, theirs)
    if options.table is not None:
        write_table(options.table, made, theirs)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
