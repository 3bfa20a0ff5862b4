"""``neurofleet inspect FILE``: what a file of a lab holds and what looks odd about it, in numbers and in a picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from neurofleet.errors import InputError
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.jobs.reports.drawing import FAINT, INK, MODEL, SEEDS, WIDTH_IN, grid, png, thinned
from neurofleet.jobs.reports.tables import ReportTable, print_line, table_of_recording
from neurofleet.jobs.terminal import terminal
from neurofleet.learners.neuprint.array_sessions import suite2p_planes
from neurofleet.learners.units.sorter_folders import ALF_SORTED, ANALYZER, CELL_METRICS, CELLEXPLORER, SORTED
from neurofleet.neurosim.cells.morphology import Reconstruction
from neurofleet.neurosim.cells.morphology_check import check_morphologies
from neurofleet.neurosim.cells.morphology_readers import ending_of, is_hdf5_morphology, read_reconstruction
from neurofleet.neurosim.recordings.recording import Recording, RecordingSource, electrode_names
from neurofleet.neurosim.recordings.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND_NAMES = {"soma": "soma", "dend": "basal", "apic": "apical", "axon": "axon"}
KIND_COLOURS = {"soma": INK, "dend": SEEDS[2], "apic": SEEDS[3], "axon": SEEDS[0]}
SHOWN_FAMILIES, SHOWN_SWEEPS = 6, 12


@dataclass(frozen=True)
class Inspection:
    """What is said of a file.

    Attributes
    ----------
    lines : tuple of str
        What it is, in numbers; shown above the table.
    tables : tuple of ReportTable
    warnings : tuple of str
        What looks odd.
    height_in : float
        Of the picture.
    draw : callable or None
        Draws the picture on an empty figure.
    """

    lines: tuple[str, ...]
    tables: tuple[ReportTable, ...] = ()
    warnings: tuple[str, ...] = ()
    height_in: float = 5.0
    draw: "Callable[[Figure], None] | None" = None


@dataclass(frozen=True)
class InspectOptions:
    """What is asked of a file.

    Attributes
    ----------
    electrode : str or None
        Name or pattern of the electrode of a recording with several.
    junction_potential_mV : float
        Subtracted from the voltage of a recording.
    """

    electrode: str | None = None
    junction_potential_mV: float = 14.0


@dataclass(frozen=True)
class FileKind:
    """A kind of file that can be inspected.

    Attributes
    ----------
    name : str
    recognises : callable
        Whether a file is of this kind; asked in the order of `KINDS`.
    inspect : callable
        Raises InputError for a file that cannot be used.
    """

    name: str
    recognises: Callable[[Path], bool]
    inspect: Callable[[Path, InspectOptions], Inspection]


def inspect_command(file: Path, out: Path | None, options: InspectOptions, overwrite: bool) -> None:
    """Print what a file holds, and write a picture of it.

    Parameters
    ----------
    out : Path, optional
        The picture (PNG); by default the file's name with ``.inspect.png`` in the working folder, where an earlier
        one is replaced.

    Raises
    ------
    InputError
        The file cannot be used.
    UsageError
        The picture cannot be written.
    """
    picture = Path(f"{file.name}.inspect.png") if out is None else out
    check_new([picture], overwrite or out is None, [file])
    inspection = inspect_file(file, options)
    console = terminal()
    for line in inspection.lines:
        print_line(console, line)
    for table in inspection.tables:
        table.print(console)
    for warning in inspection.warnings:
        print_line(console, f"warning: {warning}")
    if inspection.draw is not None:
        with new_files([picture]) as partial:
            partial[picture].write_bytes(png(inspection.height_in, inspection.draw))
        print_line(console, f"picture: {picture}")


def inspect_file(file: Path, options: InspectOptions | None = None) -> Inspection:
    """Return what a file holds.

    Raises
    ------
    InputError
        There is no such file, or it is of no kind that can be inspected, or cannot be used.
    """
    if not file.exists():
        raise InputError(f"{file}: no such file. Give the name of a recording or of a morphology.")
    kind = next((kind for kind in KINDS if kind.recognises(file)), None)
    if kind is None:
        raise InputError(f"{file}: expected {' or '.join(kind.name for kind in KINDS)}, found neither.")
    try:
        return kind.inspect(file, options or InspectOptions())
    except InputError as error:
        learner = _learner_of(file)
        if learner is None:
            raise
        raise InputError(
            f"{error} It holds {LEARNERS[learner]}: `neurofleet new {learner} {file}` looks at it."
        ) from error


LEARNERS = {"hippie": "spike-sorted units", "neuprint": "a recording of a population"}
"""Learner -> what the files that it reads hold."""


def _learner_of(file: Path) -> str | None:
    """Return which learner reads a file or folder, by the names in it."""
    if file.is_dir():
        sorted_units = (SORTED, ALF_SORTED, ANALYZER, f"*{CELL_METRICS}")
        if any(any(file.glob(f"{depth}{name}")) for name in sorted_units for depth in ("", "*/")):
            return "hippie"
        return "neuprint" if suite2p_planes(file) else None
    if file.name.endswith(CELLEXPLORER):
        return "hippie"
    if not h5py.is_hdf5(file):
        return None
    with h5py.File(file) as content:
        if "units" in content:
            return "hippie"
        traces = content.get("processing/ophys", {})
        return "neuprint" if {"DfOverF", "Fluorescence"} & set(traces) else None


def _inspect_recording(file: Path, options: InspectOptions) -> Inspection:
    names: tuple[str | None, ...] = (options.electrode,)
    if options.electrode is None:
        names = electrode_names(file) if len(electrode_names(file)) > 1 else (None,)
    recordings = [
        RecordingSource(file, options.junction_potential_mV, ("*",), electrode=electrode).look() for electrode in names
    ]
    tables = [recording.table for recording in recordings]
    lines = [line for table in tables for line in (table.summary, *(f"note: {note}" for note in table.notes))]
    lines.append(f"voltages with a junction potential of {options.junction_potential_mV:g} mV subtracted")
    warnings = [warning for table in tables for warning in table.warnings]
    if len(names) > 1:
        warnings.insert(0, f"{len(names)} electrodes: a fit of this file needs `electrode:` in its cell")
    families = _families(recordings)
    return Inspection(
        tuple(lines),
        tuple(map(table_of_recording, tables)),
        tuple(warnings),
        height_in=0.6 + 2.2 * len(families),
        draw=(lambda figure: _draw_sweeps(figure, families)) if families else None,
    )


def _families(recordings: list[Recording]) -> dict[str, list[Sweep]]:
    """Title -> some sweeps of one stimulus of one electrode, from the weakest to the strongest step."""
    families: dict[str, list[Sweep]] = {}
    for recording in recordings:
        for sweep in sorted(recording.sweeps, key=lambda sweep: sweep.amplitude_nA):
            families.setdefault(" ".join(filter(None, (sweep.electrode, sweep.stimulus_name))), []).append(sweep)
    shown = dict(list(families.items())[:SHOWN_FAMILIES])
    return {
        f"{title}: {min(len(sweeps), SHOWN_SWEEPS)} of {len(sweeps)} sweeps": _spread(sweeps)
        for title, sweeps in shown.items()
    }


def _spread(sweeps: list[Sweep]) -> list[Sweep]:
    if len(sweeps) <= SHOWN_SWEEPS:
        return sweeps
    return [sweeps[round(i * (len(sweeps) - 1) / (SHOWN_SWEEPS - 1))] for i in range(SHOWN_SWEEPS)]


def _draw_sweeps(figure: "Figure", families: dict[str, list[Sweep]]) -> None:
    """Draw voltage and current of each stimulus, coloured from the weakest to the strongest step."""
    from matplotlib import colormaps

    panels = figure.subplots(len(families), 2, squeeze=False, width_ratios=(3, 1))
    for (voltage, current), (title, sweeps) in zip(panels, families.items(), strict=True):
        for i, sweep in enumerate(sweeps):
            colour = colormaps["viridis"](0.85 * i / max(len(sweeps) - 1, 1))
            voltage.plot(*thinned(sweep.time_ms, sweep.voltage_mV), color=colour, linewidth=0.7)
            current.plot(*thinned(sweep.time_ms, 1000.0 * sweep.current_nA), color=colour, linewidth=0.7)
        voltage.set_title(title)
        voltage.set_ylabel("mV")
        current.set_ylabel("pA")
        for axes in (voltage, current):
            axes.axvline(sweeps[0].start_ms, color=FAINT, linewidth=0.4)
            axes.axvline(sweeps[0].stop_ms, color=FAINT, linewidth=0.4)
            grid(axes, "y")
    for axes in panels[-1]:
        axes.set_xlabel("ms")


def _is_morphology(file: Path) -> bool:
    return ending_of(file) in (".swc", ".asc") or is_hdf5_morphology(file)


def _inspect_morphology(file: Path, _: InspectOptions) -> Inspection:
    (summary,) = check_morphologies([file])
    if isinstance(summary, InputError):
        raise summary
    points = f"{summary.n_points:,} points, soma drawn as {summary.soma_drawn_as}"
    lines = [f"{summary.line()} ({points})", *(f"note: {note}" for note in summary.notes)]
    if summary.file.converted and not summary.notes:
        lines.append(f"note: NEURON imports {summary.file.name}, the same points as it can read them")
    warnings = list(summary.warnings)
    if summary.behind_axon:
        behind = ", ".join(summary.behind_axon[:5])
        warnings.append(f"{behind} grow from its axon: only a fit with axon: full can have this cell")
    rows = [
        (
            name,
            summary.n_trees[kind],
            summary.n_sections[kind],
            f"{summary.length_um[kind]:,.0f}",
            f"{summary.area_um2[kind]:,.0f}",
            "{:.2g} ({:.2g} to {:.2g})".format(summary.diameter_um[kind], *summary.diameters_um[kind]),
            f"{summary.reach_um[kind]:,.0f}" if kind != "soma" else "",
        )
        for kind, name in KIND_NAMES.items()
        if summary.n_sections[kind]
    ]
    head = ("kind", "trees", "sections", "length µm", "area µm²", "diameters µm", "reach µm")
    cell = read_reconstruction(file)
    points_um = np.concatenate([cell.soma.points, *(section.points for section in cell.sections)])[:, :3]
    width, height, depth = np.maximum(np.ptp(points_um, axis=0), 1.0)
    return Inspection(
        tuple(lines),
        (ReportTable(head, rows, range(1, len(head)), no_wrap=range(len(head)), compact=True),),
        tuple(warnings),
        height_in=float(np.clip(1.0 + WIDTH_IN * 0.9 * height / (width + depth), 3.0, 12.0)),
        draw=lambda figure: _draw_tree(figure, cell, (width, depth)),
    )


def _draw_tree(figure: "Figure", cell: Reconstruction, widths: tuple[float, float]) -> None:
    """Draw a cell from the front and from the side, lines as thick as the branches where that can be seen."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle

    shares = np.clip(np.array(widths) / sum(widths), 0.2, None)
    panels = figure.subplots(1, 2, sharey=True, width_ratios=list(shares))
    for axes, across, label in zip(panels, (0, 2), ("x (µm)", "z (µm)"), strict=True):
        for kind in ("axon", "dend", "apic"):
            sections = [section for section in cell.sections if section.kind == kind]
            pieces = [np.stack([s.points[:-1, [across, 1]], s.points[1:, [across, 1]]], axis=1) for s in sections]
            thick = [np.minimum(0.3 + 0.3 * s.points[1:, 3], 4.0) for s in sections]
            if pieces:
                lines = LineCollection(
                    list(np.concatenate(pieces)),
                    linewidths=np.concatenate(thick),
                    colors=KIND_COLOURS[kind],
                    capstyle="round",
                )
                axes.add_collection(lines, autolim=True)
        for *place, diameter in cell.soma.points:
            axes.add_patch(Circle((place[across], place[1]), diameter / 2, color=KIND_COLOURS["soma"]))
        for outline in cell.soma.contours:
            axes.plot(*np.vstack([outline, outline[:1]])[:, [across, 1]].T, color=MODEL, linewidth=0.8)
        axes.autoscale_view()
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(label)
    panels[0].set_ylabel("y (µm)")
    there = [kind for kind in KIND_NAMES if kind == "soma" or any(s.kind == kind for s in cell.sections)]
    handles = [Line2D([], [], color=KIND_COLOURS[kind], label=KIND_NAMES[kind]) for kind in there]
    panels[0].legend(handles=handles, loc="best")


KINDS: tuple[FileKind, ...] = (
    FileKind("a morphology", _is_morphology, _inspect_morphology),
    FileKind("a recording", lambda file: True, _inspect_recording),
)
"""The first that recognises a file inspects it."""
