"""`cells: {from: cells.csv}` and `cells: {glob: "cells/*/*.nwb"}`: many cells named at once."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.errors import UsageError
from neurosim.faults import nearest

FROM, GLOB = "from", "glob"
LISTS = ("stimuli", "exclude_sweeps")
LIST_SEPARATOR = ";"
MORPHOLOGIES = (".swc", ".asc")


def expand_cells(cells: Mapping[str, Any], folder: Path, known: Sequence[str], source: str) -> list[dict]:
    """Return one mapping a cell, as if each stood in the job file.

    Parameters
    ----------
    cells : mapping
        What the job file has below ``cells:``: ``from`` (a CSV or Parquet file with a row a cell) or ``glob``
        (a pattern of recordings), and keys that all its cells share. A cell's own value goes first.
    folder : Path
        Where relative paths start: the job file's folder, also for paths that stand in the table.
    known : sequence of str
        The keys that a cell may have.
    source : str
        The job file, for messages.

    Raises
    ------
    UsageError
        The table or the pattern names no cells, or has columns that a cell does not.
    """
    shared = {key: value for key, value in cells.items() if key not in (FROM, GLOB)}
    if (FROM in cells) == (GLOB in cells):
        raise UsageError(
            f"{source}: cells: expected a list of cells, `from:` (a CSV or Parquet file) or `glob:` (a"
            f" pattern of recordings), found {', '.join(cells) or 'nothing'}."
        )
    if FROM in cells:
        place = f"{source}: cells.from {cells[FROM]}"
        rows = _read_table(folder / str(cells[FROM]), place)
        strange = dict.fromkeys(key for row in rows for key in row if key not in known)
        if strange:
            told = ", ".join(f"{key!r}{nearest(key, known)}" for key in strange)
            raise UsageError(
                f"{place}: unknown column {told}. A row is a cell; its columns are {', '.join(known)}."
            )
    else:
        place = f"{source}: cells.glob {cells[GLOB]}"
        rows = _match(str(cells[GLOB]), folder, shared, place)
    if not rows:
        raise UsageError(f"{place}: no cells found. Expected at least one row or one matching recording.")
    return [shared | row for row in rows]


def _read_table(path: Path, place: str) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                rows = pq.ParquetFile(path).read().to_pylist()
            except pa.ArrowException as error:
                raise UsageError(f"{place}: not readable as Parquet ({error}).") from error
        else:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                rows = list(reader)
            for line, row in enumerate(rows, 2):
                if None in row or None in row.values():
                    raise UsageError(
                        f"{place}: row {line} has another number of values than the header, which names "
                        f"{len(reader.fieldnames or ())} columns."
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{place}: cannot be read ({error}). Expected a CSV or Parquet file.") from error
    return [
        {key: _value(key, value) for key, value in row.items() if value not in (None, "")} for row in rows
    ]


def _value(key: str, value: Any) -> Any:
    if key in LISTS and isinstance(value, str):
        return [part.strip() for part in value.split(LIST_SEPARATOR)]
    return str(value) if key == "id" else value


def _match(pattern: str, folder: Path, shared: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    start = Path(pattern)
    if start.is_absolute():
        folder, pattern = Path(start.anchor), str(start.relative_to(start.anchor))
        found = sorted(folder.glob(pattern))
    else:
        found = [path.relative_to(folder) for path in sorted(folder.glob(pattern))]
    rows = []
    for recordings in found:
        row = {"id": recordings.stem, "recordings": str(recordings)}
        if "morphology" not in shared:
            row["morphology"] = str(_morphology_of(recordings, folder, place))
        rows.append(row)
    return rows


def _morphology_of(recordings: Path, folder: Path, place: str) -> Path:
    """The SWC or ASC file of the same name beside the recordings, or the only one there."""
    beside = sorted(
        path for path in (folder / recordings).parent.iterdir() if path.suffix.lower() in MORPHOLOGIES
    )
    same = [path for path in beside if path.stem == recordings.stem]
    found = same or beside
    if len(found) != 1:
        names = ", ".join(path.name for path in beside) or "none"
        raise UsageError(
            f"{place}: {recordings} needs one morphology beside it, {recordings.stem}.swc or .asc or the only"
            f" one in its folder; found {names}. Rename it, or name the cells in a table with `from:`."
        )
    return recordings.parent / found[0].name
