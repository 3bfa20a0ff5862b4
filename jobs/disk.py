"""How much a fit will store, and whether there is room for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.errors import UsageError
from jobs.fit.subjects import Problem, StagePlan, Subject

if TYPE_CHECKING:
    from cluster.store import RunStore

BYTES_PER_FILE = 6_000  # Parquet's footer grows with the columns; random numbers do not compress
BYTES_PER_NUMBER = 8.0
SMALL_GENERATION = 32  # of strategy fast, which chooses its own sizes
ALWAYS_BYTES = 10e6  # the job, the models, the report


def stage_bytes(problem: Problem, stage: StagePlan) -> float:
    """Return about how many bytes a stage's generations take, all seeds together."""
    generations = stage.planned_evaluations / (stage.search.offspring or SMALL_GENERATION)
    numbers = len(problem.names) + len(problem.objectives) + 2
    return stage.planned_evaluations * numbers * BYTES_PER_NUMBER + generations * BYTES_PER_FILE


def check_room(subjects: Sequence[Subject], cells: int, store: "RunStore") -> None:
    """Refuse a run that its disk cannot hold; what is stored of it already counts as room.

    Of its `cells`, those that are not among `subjects` are taken as like them.

    Raises
    ------
    UsageError
    """
    room = store.room_bytes()
    if room is None or not subjects:
        return
    needed = ALWAYS_BYTES + cells / len(subjects) * sum(
        stage_bytes(subject.problem(number, None), stage)
        for subject in subjects
        for number, stage in enumerate(subject.stages)
    )
    if room < needed:
        raise UsageError(
            f"{store.root}: the run needs about {needed / 1e6:.0f} MB and its disk has {room / 1e6:.0f} MB "
            "left. Make room, or give a folder on another disk with --out."
        )
