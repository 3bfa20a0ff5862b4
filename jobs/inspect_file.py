"""``neurofleet inspect FILE``: what a file of a lab holds and what looks odd about it, in numbers and in a picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neurofleet.errors import InputError
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.jobs.reports.drawing import FAINT, grid, png, thinned
from neurofleet.jobs.reports.tables import ReportTable, print_line, table_of_recording
from neurofleet.jobs.terminal import terminal
from neurofleet.neurosim.recordings.recording import Recording, RecordingSource, electrode_names
from neurofleet.neurosim.recordings.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MORPHOLOGIES = (".swc", ".asc")
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
    return kind.inspect(file, options or InspectOptions())


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


KINDS: tuple[FileKind, ...] = (
    FileKind("a recording", lambda file: file.suffix.lower() not in MORPHOLOGIES, _inspect_recording),
)
"""The first that recognises a file inspects it."""
