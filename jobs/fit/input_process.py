"""The inputs of cells, read and checked ahead of their fits in a process of its own."""

import os
import signal
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from types import MappingProxyType, TracebackType

from neurofleet.errors import JobError, UsageError
from neurofleet.fresh_process import end_with
from neurofleet.jobs.fit.campaign_state import RecordedChoices
from neurofleet.jobs.fit.engine_choice import with_engines
from neurofleet.jobs.fit.fit_inputs import check_budgets, job_mechanisms, prepare_cell
from neurofleet.jobs.fit.fit_job import CellSpec, FitSpec
from neurofleet.jobs.fit.fit_problem import Subject

AHEAD = 2


class Preparation:
    """Hands out subjects in the order of the job; a few are prepared ahead, so that hosts need not wait.

    Parameters
    ----------
    spec : FitSpec
    folder : Path
        Where the job file's relative paths start.
    ready : mapping
        Cell -> subject, of those that are prepared already.
    cells : iterable of CellSpec
        Those that are to be prepared, in the order in which they will be asked for.
    recorded : mapping
        Cell -> the engines that its stages were begun with.
    """

    def __init__(
        self,
        spec: FitSpec,
        folder: Path,
        ready: Mapping[str, Subject],
        cells: Iterable[CellSpec],
        recorded: Mapping[str, RecordedChoices] = MappingProxyType({}),
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._ready = dict(ready)
        self._recorded = recorded
        self._left = {cell.id: cell for cell in cells}
        self._coming: dict[str, Future] = {}
        self._ended_by: set[str] = set()
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Preparation":
        self._go_ahead()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._executor is not None:
            for process in list((self._executor._processes or {}).values()):
                process.kill()
            self._executor.shutdown(wait=False, cancel_futures=True)

    def take(self, cell: str, timeout_s: float) -> Subject | None:
        """Return a cell's subject with its engines, None while it is being prepared.

        Raises
        ------
        InputError, UsageError
            The cell's inputs cannot be used.
        JobError
            The engine that it asks for cannot, or the process that read the inputs ended, and that of a second try.
        """
        if cell in self._ready:
            return self._ready.pop(cell)
        self._go_ahead()
        try:
            subject = self._coming[cell].result(timeout_s)
        except TimeoutError:
            return None
        except BrokenProcessPool:
            self._executor = None
            self._coming = {cell: self._coming[cell]}  # those that waited behind it are submitted again
            if cell not in self._ended_by:  # it may have been a signal from outside
                self._ended_by.add(cell)
                del self._coming[cell]
                self._go_ahead()
                return None
            self._taken(cell)
            raise JobError(f"cell {cell}: the process that read its inputs ended twice (out of memory?)") from None
        except Exception:
            self._taken(cell)
            raise
        self._taken(cell)
        return subject

    def _taken(self, cell: str) -> None:
        del self._coming[cell], self._left[cell]
        self._go_ahead()

    def _go_ahead(self) -> None:
        """Have the next cells prepared, one after the other in one process."""
        for id, cell in islice(self._left.items(), AHEAD):
            if id in self._coming:
                continue
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    1, mp_context=get_context("spawn"), initializer=_follow, initargs=(os.getpid(),)
                )
            try:
                begun_with = self._recorded.get(id, {})
                self._coming[id] = self._executor.submit(prepare_to_fit, cell, self._spec, self._folder, begun_with)
            except BrokenProcessPool:
                return  # by a cell that has not been taken yet


def prepare_to_fit(cell: CellSpec, spec: FitSpec, folder: Path, recorded: RecordedChoices) -> Subject:
    """Return one cell's subject with the engines of its stages."""
    subject = prepare_cell(cell, spec, folder, job_mechanisms(spec, folder))
    check_budgets(subject)
    try:
        return with_engines(subject, spec.engine, recorded)
    except UsageError as error:
        raise JobError(str(error)) from None  # of this cell, which it names


def _follow(driver: int) -> None:
    """Leave Ctrl-C to the driver, and end when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(driver)
