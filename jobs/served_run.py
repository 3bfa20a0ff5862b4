"""A run that a server of runs shows (``neurofleet serve``), read over its REST interface."""

import os
from functools import cached_property
from typing import Any
from urllib.parse import quote, urlsplit

import pandas as pd
import pyarrow as pa
import requests

from neurofleet.cluster.store.run_store import POOLED
from neurofleet.errors import UsageError
from neurofleet.jobs.opened_run import Run
from neurofleet.jobs.results.runs_found import FIT

TOKEN = "NEUROFLEET_SERVE_TOKEN"
"""Variable of the environment: the token that the server prints, or ``NAME:PASSWORD`` of a user."""

PAGE_ROWS = 100_000
WAIT_S = 120.0


class ServedRun(Run):
    """A run behind an address such as ``http://127.0.0.1:8700/runs/fits/rat``, that of its page.

    It has the state, the job and the tables of `Run`; its files stay where they are.

    Parameters
    ----------
    address : str

    Raises
    ------
    UsageError
        No such run, no server, or it refuses us.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        place, is_run, run = parts.path.partition("/runs/")
        if not is_run or not run.strip("/"):
            raise UsageError(
                f"{address}: expected the address of a run's page, such as {parts.scheme}://{parts.netloc}/runs/NAME."
            )
        self.folder = address
        self._run = run.strip("/")
        self._server = f"{parts.scheme}://{parts.netloc}{place}/api"
        self._session = requests.Session()
        token = os.environ.get(TOKEN, "")
        name, colon, password = token.partition(":")
        if colon:
            self._session.auth = (name, password)
        elif token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._told()

    @cached_property
    def job(self) -> dict[str, Any]:
        """The keys and values of the job."""
        return self._told()["job"]

    @property
    def name(self) -> str:
        """The job's name."""
        return self._told()["name"]

    @property
    def kind(self) -> str:
        """The kind of its job."""
        return self._told()["kind"]

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``unfinished``, or ``failed`` where the job has ended and some cells have not."""
        return self._told()["progress"]["state"]

    @property
    def tables(self) -> dict[str, int]:
        """The tables that `sql` and `table` know, with their numbers of rows."""
        return self._told()["tables"]

    def table(self, name: str) -> pd.DataFrame:
        """Return one of the `tables` as a DataFrame.

        Raises
        ------
        UsageError
            If there is none of this name.
        """
        parts: list[pa.Table] = []
        while not parts or parts[-1].num_rows == PAGE_ROWS:
            asked = {"limit": PAGE_ROWS, "offset": PAGE_ROWS * len(parts), "format": "arrow"}
            parts.append(_table(self._asked("GET", f"table/{quote(name, safe='')}", params=asked)))
        return pa.concat_tables(parts).to_pandas()

    def sql(self, query: str) -> pd.DataFrame:
        """Return the result of one SELECT over the `tables`; it needs the role ``predict``."""
        return _table(self._asked("POST", "sql", params={"format": "arrow"}, json={"query": query})).to_pandas()

    def hall_of_fame(self, cell: str | None = None, seed: int | str = POOLED) -> pd.DataFrame:
        """Return the best models of a fit, as `Run.hall_of_fame` does."""
        cell = self._cell(cell)
        table = self.table(POOLED if seed == POOLED else "hall_of_fame")
        rows = table[(table["cell"] == cell) & ((seed == POOLED) | (table["seed"] == seed))]
        if rows.empty:
            raise UsageError(f"{self.folder}: cell {cell} has no hall of fame of seed {seed} yet.")
        return rows.dropna(axis=1, how="all").reset_index(drop=True)

    def findings(self) -> dict[str, Any]:
        raise self._elsewhere("findings")

    def model(self) -> Any:
        raise self._elsewhere("model")

    def report(self) -> str:
        raise self._elsewhere("report")

    def export(self, *args: Any, **settings: Any) -> Any:
        raise self._elsewhere("export")

    def _elsewhere(self, what: str) -> UsageError:
        return UsageError(f"{what} of a run needs its folder, and this one is on a server: {self.folder}.")

    def _require_fit(self) -> None:
        if self.kind != FIT:
            raise UsageError(f"{self.folder} is a run of kind {self.kind}, not a fit.")

    def _told(self) -> dict[str, Any]:
        return self._asked("GET", "run").json()

    def _asked(self, method: str, what: str, **settings: Any) -> requests.Response:
        address = f"{self._server}/{what}/{self._run}"
        try:
            answer = self._session.request(method, address, timeout=WAIT_S, **settings)
        except requests.RequestException as error:
            reason = type(error).__name__
            raise UsageError(f"{self.folder}: no answer ({reason}). Is `neurofleet serve` running there?") from error
        if answer.status_code < 400:
            return answer
        try:
            reason = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            reason = f"the server answers {answer.status_code}"
        hint = f" Set {TOKEN} to the token, or to NAME:PASSWORD." if answer.status_code == 401 else ""
        raise UsageError(f"{self.folder}: {reason}{hint}")


def _table(answer: requests.Response) -> pa.Table:
    return pa.ipc.open_stream(answer.content).read_all()
