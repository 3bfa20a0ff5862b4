"""The measurements of a job over populations, on the pool."""

from collections.abc import Sequence

from jobs.carrying_out import Opened
from jobs.count_progress import CountProgress
from jobs.populations.blocks import Block, measure_blocks, missing
from jobs.populations.status import PLANNED


def measure(run: Opened, blocks: Sequence[Block], doing: str, address: str | None, cpus: int | None) -> None:
    """Measure and store all blocks that are not stored yet; nothing is started when there are none.

    Parameters
    ----------
    run : Opened
        Of a `jobs.populations.spec.PopulationSpec`.
    blocks : sequence of Block
        All of the job, in folders of one name.
    doing : str
        Such as ``simulating``.
    """
    left = missing(blocks, run.store)
    if not left:
        return
    from cluster.pool import Pool
    from cluster.session import connect

    run.store.append_event(PLANNED, blocks=len(blocks), folder=blocks[0].name.split("/")[0])
    spec = run.spec
    with (
        connect(address, None if address else cpus),
        Pool(hosts=cpus, memory_limit_mb=spec.memory_limit_mb, run=spec.name) as pool,
        CountProgress(doing, sum(block.size for block in left), "models", run.console) as progress,
    ):
        measure_blocks(left, pool, run.store, spec.deadline_s, progress)
