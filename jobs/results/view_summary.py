"""What a view holds, found without reading its rows."""

from collections.abc import Collection
from dataclasses import dataclass

from jobs.results.places import Place
from jobs.results.scanning import Scanned
from jobs.results.sql import Database


@dataclass(frozen=True)
class ViewSummary:
    """What a view holds.

    Attributes
    ----------
    view : str
    rows : int
    runs : tuple of str
        Those that have a part in it.
    unfinished : tuple of str
        Those of them that have not come to their end.
    columns : tuple of (str, str)
        Names and types.
    notes : tuple of str
    """

    view: str
    rows: int
    runs: tuple[str, ...]
    unfinished: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def summary_of(
    view: str, made: Scanned, database: Database, place: Place, unfinished: Collection[str]
) -> ViewSummary:
    """Return what a view holds; of its files, only what they say at their ends is read.

    Raises
    ------
    JobError
        One of them is damaged.
    """
    try:
        rows = sum(
            part.count_rows() if hasattr(part, "count_rows") else part.num_rows for part in made.datasets
        )
    except (OSError, ValueError):
        place.refuse_damaged(part.name for part in made.parts)
        raise
    return ViewSummary(
        view,
        rows,
        tuple(made.runs),
        tuple(run for run in made.runs if run in unfinished),
        tuple(database.columns(view)),
        tuple(made.notes),
    )
