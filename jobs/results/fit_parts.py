"""The tables of a fit's run: which files they are in."""

import re
from typing import TYPE_CHECKING

from cluster.generation_files import EVALUATIONS, evaluation_files
from cluster.store import HALLS_OF_FAME, POOLED
from jobs.results.places import Place
from jobs.results.scanning import RUN, Part
from jobs.results.united_columns import plain

if TYPE_CHECKING:
    import pyarrow as pa

HALL_OF_FAME = "hall_of_fame"
FIT_VIEWS = (EVALUATIONS, HALL_OF_FAME, POOLED)

_HALL_OF_FAME_FILE = re.compile(rf"^{HALLS_OF_FAME}/cell=[^/]+/(seed=\d+|{POOLED})\.parquet$")


def fit_parts(place: Place, view: str, folder: str = "", run: str | None = None) -> list[Part]:
    """Return the files of one of the `FIT_VIEWS`, as far as the run has come.

    Parameters
    ----------
    folder : str
        Of the run, below the place's root; ends in a slash, or is empty.
    run : str, optional
        What column ``run`` is to say.
    """
    if view == EVALUATIONS:
        return _evaluations(place, folder, run)
    names = [name.removeprefix(folder) for name in place.names(f"{folder}{HALLS_OF_FAME}")]
    matches = [match for name in names if (match := _HALL_OF_FAME_FILE.match(name))]
    return [
        Part(f"{folder}{match[0]}", run, kind=HALL_OF_FAME)
        for match in matches
        if (match[1] == POOLED) == (view == POOLED)
    ]


def _evaluations(place: Place, folder: str, run: str | None) -> list[Part]:
    names = [name.removeprefix(folder) for name in place.names(f"{folder}{EVALUATIONS}")]
    parts = []
    for key, files in evaluation_files(names).items():
        keys = {name: str(value) for name, value in key._asdict().items()}
        for _, name in files.to_read():  # all files of one seed have the same columns
            parts.append(Part(folder + name, run, keys, kind=EVALUATIONS, alike=folder + key.folder))
    return parts


def empty(view: str, several_runs: bool = False) -> "pa.Schema":
    """Return the columns of a view where nothing is stored."""
    import numpy as np
    import pyarrow as pa

    from cluster.schemas import Evaluations, HallOfFameRows

    none, nobody = np.empty((0, 0)), np.empty(0, int)
    first = [pa.field(RUN, pa.string())] if several_runs else []
    if view == EVALUATIONS:
        table = Evaluations(0, (), (), none, none, np.empty(0), (), (), np.empty(0)).to_table()
        first += [pa.field("cell", pa.string()), pa.field("stage", pa.string()), pa.field("seed", pa.int64())]
    else:
        table = HallOfFameRows("", nobody, nobody, nobody, (), (), none, none, np.empty(0)).to_table()
    return pa.schema([*first, *plain(table.schema)])
