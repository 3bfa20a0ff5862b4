"""The inputs of cells, read and checked ahead of their fits in a process of its own."""

from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

from jobs.errors import JobError
from jobs.prepare import prepare_cell
from jobs.spec import CellSpec, FitSpec
from jobs.subjects import Subject

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
    """

    def __init__(
        self, spec: FitSpec, folder: Path, ready: Mapping[str, Subject], cells: Iterable[CellSpec]
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._ready = dict(ready)
        self._left = deque(cells)
        self._coming: dict[str, Future] = {}
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
        """Return a cell's subject, None while it is being prepared.

        Raises
        ------
        InputError
            The cell's inputs cannot be used.
        JobError
            The process that read them ended.
        """
        if cell in self._ready:
            return self._ready.pop(cell)
        self._go_ahead()
        try:
            subject = self._coming[cell].result(timeout_s)
        except NotYet:
            return None
        except BrokenProcessPool:
            self._executor = None
            del self._coming[cell]
            raise JobError(f"cell {cell}: the process that read its inputs ended (out of memory?)") from None
        except Exception:
            del self._coming[cell]
            raise
        del self._coming[cell]
        self._go_ahead()
        return subject

    def _go_ahead(self) -> None:
        while self._left and len(self._coming) < AHEAD:
            if self._executor is None:
                self._executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
            cell = self._left.popleft()
            self._coming[cell.id] = self._executor.submit(prepare_cell, cell, self._spec, self._folder)
