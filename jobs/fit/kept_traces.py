"""What finalists do is kept when they are scored, until it is known which of them are in the hall of fame."""

import pickle
import sqlite3
from contextlib import suppress
from typing import Any

import numpy as np

from neurofleet.jobs.fit.engines import ModelTraces
from neurofleet.jobs.run_log import fit_logger


class KeptTraces:
    """The traces of finalists, of all cells that are being fitted.

    In a database without a name, which takes little memory and, when it grows, space in ``TMPDIR`` (by default
    ``/var/tmp``). What a cell takes can be used again when it is dropped; all is gone when this process ends, however
    it does, and when that space is full.
    """

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = MEMORY")
        self._database.execute("CREATE TABLE kept (cell, parameters, traces, PRIMARY KEY (cell, parameters))")

    def put(self, cell: str, parameters: np.ndarray, traces: ModelTraces) -> None:
        """Keep what a model did."""
        row = cell, parameters.tobytes(), pickle.dumps(traces)
        self._execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", row)

    def get(self, cell: str, parameters: np.ndarray) -> ModelTraces | None:
        """Return what the model of exactly these parameters did, shape (P,); None where that is not kept."""
        query = "SELECT traces FROM kept WHERE cell = ? AND parameters = ?"
        rows = self._execute(query, (cell, parameters.tobytes()))
        return pickle.loads(rows[0][0]) if rows else None  # written by this process, and no other can reach it

    def drop(self, cell: str) -> None:
        """Forget a cell."""
        self._execute("DELETE FROM kept WHERE cell = ?", (cell,))

    def _execute(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if self._database is None:
            return []
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            fit_logger(cell=values[0]).warning(
                "traces of finalists are not kept any more (%s): models of the hall of fame are simulated again", error
            )
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None  # after a failed write, nothing can be read either
            return []
