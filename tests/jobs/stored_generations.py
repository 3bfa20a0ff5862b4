"""The generations that a run has stored, whether they are files of their own or merged."""

from pathlib import Path

from neurofleet.cluster.store.generations import EVALUATIONS, FitKey, evaluation_files
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import Evaluations


def generations(out: Path) -> list[tuple[FitKey, int]]:
    """Which there are, by the names of the files."""
    by_fit = evaluation_files(RunStore(out).names(EVALUATIONS))
    return [(key, number) for key in sorted(by_fit) for numbers, _ in by_fit[key].to_read() for number in numbers]


def stored_rows(out: Path) -> dict[tuple[FitKey, int], Evaluations]:
    """What they hold."""
    store = RunStore(out)
    return {(key, rows.generation): rows for key in store.stored() for rows in store.read_generations(*key)}


def assert_not_evaluated_again(before: dict[tuple[FitKey, int], Evaluations], out: Path) -> None:
    """What took so long cannot have been computed twice."""
    after = stored_rows(out)
    for place, rows in before.items():
        assert rows.seconds.tolist() == after[place].seconds.tolist(), f"{place} was evaluated twice"


def assert_same_evaluations(out: Path, other: Path) -> None:
    """Two runs hold the same, but for the time it took."""
    ours, theirs = stored_rows(out), stored_rows(other)
    assert ours.keys() == theirs.keys()
    for place, rows in ours.items():
        table, expected = (each.to_table().drop(["seconds"]) for each in (rows, theirs[place]))
        assert table.schema == expected.schema
        assert repr(table.to_pylist()) == repr(expected.to_pylist()), place  # NaN is not equal to NaN
