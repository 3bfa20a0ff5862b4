"""Blocks of measurements on the pool; a block that is stored is not measured again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome
from neurofleet.cluster.pool.pool import Pool
from neurofleet.cluster.ray.session import connect
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import JobError
from neurofleet.jobs.progress import CountProgress
from neurofleet.jobs.run_folder import JobRun
from neurofleet.jobs.studies.findings import PLANNED
from neurofleet.jobs.studies.measurements import Block

POLL_S = 0.25
AHEAD_PER_HOST = 16
"""Measurements for each host that are submitted before more blocks are opened."""


@dataclass
class _OpenBlock:
    block: Block
    outcomes: dict[int, Outcome] = field(default_factory=dict)


def missing_blocks(blocks: Sequence[Block], store: RunStore) -> list[Block]:
    """Return the blocks that are not stored yet."""
    folders = {block.name.split("/")[0] for block in blocks}
    stored = {name for folder in folders for name in store.names(folder)}
    return [block for block in blocks if block.name not in stored]


def measure_blocks(
    blocks: Sequence[Block], pool: Pool, store: RunStore, deadline_s: float, progress: CountProgress
) -> None:
    """Measure and store all blocks, in order; several are under way at a time.

    Parameters
    ----------
    blocks : sequence of Block
        Those that are not stored yet.
    pool : Pool
    store : RunStore
        Locked by the caller.
    deadline_s : float
        Of each measurement, unless a block allows for more.
    progress : CountProgress
        Counts measurements.

    Raises
    ------
    JobError
        A cell cannot be built; nothing is stored of it.
    """
    under_way: dict[int, _OpenBlock] = {}
    submitted = 0
    engines = [block.engine.key for block in blocks]
    for task in _tasks(blocks, under_way, deadline_s):
        pool.submit(task)
        submitted += 1
        while submitted >= AHEAD_PER_HOST * max(pool.hosts, 1):
            submitted -= _store_completed(pool, under_way, store, engines, progress)
    while submitted:
        submitted -= _store_completed(pool, under_way, store, engines, progress)


def _tasks(blocks: Sequence[Block], under_way: dict[int, _OpenBlock], deadline_s: float) -> Iterator[EvaluationTask]:
    for number, block in enumerate(blocks):
        under_way[number] = _OpenBlock(block)
        about, limit_s = {"cell": block.cell}, block.deadlines * deadline_s
        for i, individual in enumerate(block.individuals()):
            yield EvaluationTask((number, i), block.engine, individual, limit_s, rank=number, about=about)


def _store_completed(
    pool: Pool,
    under_way: dict[int, _OpenBlock],
    store: RunStore,
    engines: list[str],
    progress: CountProgress,
) -> int:
    """Wait for outcomes, store the blocks that are complete, and return the number of outcomes."""
    completed = pool.completed(POLL_S)
    for (number, i), outcome in completed:
        opened = under_way[number]
        opened.outcomes[i] = outcome
        if len(opened.outcomes) == opened.block.size:
            block = under_way.pop(number).block
            if failure := pool.statistics().engines_failed.get(block.engine.key):
                raise JobError(f"cell {block.cell}: {failure}")
            store.write_table(block.name, block.table([opened.outcomes[k] for k in range(block.size)]))
            engines.remove(block.engine.key)
            if block.engine.key not in engines:
                pool.forget(block.engine.key)
    progress.add(len(completed))
    return len(completed)


def measure_on_pool(run: JobRun, blocks: Sequence[Block], doing: str, address: str | None, cpus: int | None) -> None:
    """Measure and store all blocks that are not stored yet; start nothing when there are none.

    Parameters
    ----------
    run : JobRun
        Its job has `deadline_s` and `memory_limit_mb`.
    blocks : sequence of Block
        All blocks of the job; their file names begin with the same folder.
    doing : str
        Such as ``simulating``.
    """
    missing = missing_blocks(blocks, run.store)
    if not missing:
        return
    run.store.append_event(PLANNED, blocks=len(blocks), folder=blocks[0].name.split("/")[0])
    spec = run.spec
    with (
        connect(address, None if address else cpus),
        Pool(hosts=cpus, memory_limit_mb=spec.memory_limit_mb, run=spec.name) as pool,
        CountProgress(doing, sum(block.size for block in missing), "models", run.console) as progress,
    ):
        measure_blocks(missing, pool, run.store, spec.deadline_s, progress)
