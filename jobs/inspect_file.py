"""``neurofleet inspect FILE``: what a file of a lab holds and what looks odd about it, in numbers and in a picture."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from neurofleet.errors import InputError
from neurofleet.jobs.new_files import check_new, new_files
from neurofleet.jobs.reports.drawing import png
from neurofleet.jobs.reports.tables import ReportTable, print_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


KINDS: tuple[FileKind, ...] = ()
"""The first that recognises a file inspects it."""


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
    console = Console()
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
    if not file.is_file():
        raise InputError(f"{file}: no such file. Give the name of a recording or of a morphology.")
    kind = next((kind for kind in KINDS if kind.recognises(file)), None)
    if kind is None:
        raise InputError(f"{file}: expected {' or '.join(kind.name for kind in KINDS)}, found neither.")
    return kind.inspect(file, options or InspectOptions())
