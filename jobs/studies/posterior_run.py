"""Chains of several cells on one pool, and the checks of their draws."""

from collections.abc import Callable, Sequence

from neurofleet.cluster.pool.pool import Pool
from neurofleet.cluster.ray.session import connect
from neurofleet.errors import JobError
from neurofleet.jobs.progress import CountProgress
from neurofleet.jobs.run_folder import JobRun
from neurofleet.jobs.studies.blocks import POLL_S, measure_blocks, missing_blocks
from neurofleet.jobs.studies.findings import PLANNED
from neurofleet.jobs.studies.measurements import Block
from neurofleet.jobs.studies.posterior_chains import CHAINS, Chain


def sample_on_pool(
    run: JobRun, chains: Sequence[Chain], checks: Callable[[], Sequence[Block]], address: str | None, cpus: int | None
) -> None:
    """Sample all chains to their ends and measure the checks of their draws; start nothing when all is stored.

    Parameters
    ----------
    run : JobRun
        Its job has `deadline_s` and `memory_limit_mb`.
    chains : sequence of Chain
    checks : callable
        Returns the checks, once the chains have ended.

    Raises
    ------
    JobError
        A cell cannot be built, or its models fail.
    """
    left = [chain for chain in chains if not chain.finished]
    if not left and not missing_blocks(checks(), run.store):
        return
    spec = run.spec
    with (
        connect(address, None if address else cpus),
        Pool(hosts=cpus, memory_limit_mb=spec.memory_limit_mb, run=spec.name) as pool,
    ):
        if left:
            run.store.append_event(PLANNED, blocks=sum(chain.most_blocks for chain in chains), folder=CHAINS)
            most = sum(chain.evaluations_left for chain in left)
            with CountProgress("sampling", most, "evaluations at most", run.console) as progress:
                sample(left, pool, progress)
        missing = missing_blocks(checks(), run.store)
        if missing:
            with CountProgress("checking", sum(block.size for block in missing), "draws", run.console) as progress:
                measure_blocks(missing, pool, run.store, spec.deadline_s, progress)


def sample(chains: Sequence[Chain], pool: Pool, progress: CountProgress) -> None:
    """Sample all chains to their ends, several at a time: as many as keep the pool busy.

    Raises
    ------
    JobError
        A cell cannot be built, or its models fail.
    """
    waiting = list(reversed(chains))
    open_chains: dict[str, Chain] = {}
    submitted = 0

    while waiting or submitted:
        while waiting and (not open_chains or pool.idle):
            chain = waiting.pop()
            open_chains[chain.cell.cell] = chain
            for task in chain.tasks():
                pool.submit(task)
                submitted += 1
        completed = pool.completed(POLL_S)
        failed = pool.statistics().engines_failed if completed else {}
        for (cell, individual), outcome in completed:
            chain = open_chains[cell]
            if failure := failed.get(chain.engine.key):
                raise JobError(f"cell {cell}: {failure}")
            tasks = chain.take(individual, outcome)
            submitted += len(tasks) - 1
            for task in tasks:
                pool.submit(task)
            if chain.finished:
                del open_chains[cell]
                pool.forget(chain.engine.key)
        progress.add(len(completed))
