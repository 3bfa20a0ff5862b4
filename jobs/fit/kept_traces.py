"""What finalists do is kept when they are scored, until it is known which of them are in the hall of fame."""

import pickle
import sqlite3

import numpy as np

from neurofleet.jobs.fit.engines import ModelTraces
from neurofleet.jobs.run_log import fit_logger


class KeptTraces:
    """The traces of finalists, of all cells that are being fitted.

    In a database without a name, which takes little memory and, when it grows, space in ``TMPDIR`` (by default
    ``/var/tmp``). What a cell takes can be used again when it is dropped; all is gone when this process ends, however
    it does.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = MEMORY")
        self._database.execute("CREATE TABLE kept (cell, parameters, traces, PRIMARY KEY (cell, parameters))")
        self._told = False

    def put(self, cell: str, parameters: np.ndarray, traces: ModelTraces) -> None:
        """Keep what a model did; where the disk is full, nothing is kept."""
        row = (cell, parameters.tobytes(), pickle.dumps(traces))
        try:
            self._database.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", row)
        except sqlite3.Error as error:
            if not self._told:
                self._told = True
                fit_logger(cell=cell).warning("traces of finalists are not kept (%s): some are simulated twice", error)

    def get(self, cell: str, parameters: np.ndarray) -> ModelTraces | None:
        """Return what the model of exactly these parameters did, shape (P,); None where that is not kept."""
        query = "SELECT traces FROM kept WHERE cell = ? AND parameters = ?"
        row = self._database.execute(query, (cell, parameters.tobytes())).fetchone()
        return None if row is None else pickle.loads(row[0])  # written by this process, and no other can reach it

    def drop(self, cell: str) -> None:
        """Forget a cell."""
        self._database.execute("DELETE FROM kept WHERE cell = ?", (cell,))
