"""Run a fit job: all its cells over one pool, each generation stored before the next is asked for."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cell_fit import CellFit
from jobs.errors import JobError
from jobs.spec import FitSpec
from jobs.subjects import Subject

if TYPE_CHECKING:
    from cluster.pool import Pool
    from cluster.store import RunStore

POLL_S = 0.25
Watch = Callable[[Sequence[CellFit], "Pool"], None]


def run_fit(
    spec: FitSpec, folder: Path, subjects: Sequence[Subject], store: "RunStore", pool: "Pool", watch: Watch
) -> dict[str, str]:
    """Fit all subjects, or what the store says is left of them.

    Parameters
    ----------
    spec : FitSpec
    folder : Path
        Where the job file's relative paths start.
    subjects : sequence of Subject
    store : RunStore
        Locked by the caller.
    pool : Pool
    watch : callable
        Called a few times a second with the open fits and the pool, for display.

    Returns
    -------
    dict
        Cell -> reason, for the cells whose fit was set aside.
    """
    waiting = deque(subjects)
    fits: list[CellFit] = []
    failed: dict[str, str] = {}
    by_cell: dict[str, CellFit] = {}
    under_way = 0

    def submit(fit: CellFit, produce: Callable[[], list]) -> int:
        try:
            tasks = produce()
        except JobError as error:
            failed[fit.subject.id] = str(error)
            store.append_event("cell failed", cell=fit.subject.id, reason=str(error))
            return 0
        for task in tasks:
            pool.submit(task)
        return len(tasks)

    while waiting or under_way:
        # A further cell is opened as soon as the open ones leave hosts without work.
        while waiting and under_way < 2 * pool.hosts:
            fit = CellFit(waiting.popleft(), spec, folder, store)
            fits.append(fit)
            by_cell[fit.subject.id] = fit
            under_way += submit(fit, fit.start)
        for (key, individual), outcome in pool.completed(POLL_S):
            under_way -= 1
            fit = by_cell[key[0]]
            if fit.subject.id not in failed:
                under_way += submit(fit, partial(fit.take, key, individual, outcome))
        watch(fits, pool)
    watch(fits, pool)
    return failed
