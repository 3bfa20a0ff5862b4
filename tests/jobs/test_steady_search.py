"""The search without generations: what it stores, and that the stored order leads to the same individuals."""

import logging
import random
from dataclasses import replace

import numpy as np
import pytest

from neurofleet.cluster.log_records import fields_of
from neurofleet.cluster.pool.outcome import Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.store.schemas import Evaluations
from neurofleet.errors import ClusterError, JobError
from neurofleet.jobs.fit.fit_problem import Problem, StagePlan
from neurofleet.jobs.fit.stage_search import GENERATION_STORED, Deadline, Limits
from neurofleet.jobs.fit.steady_search import SMALLEST_BLOCK, SteadySearch
from neurofleet.neurosim.cells.fit_model import MAX_SCORE
from neurofleet.neurosim.evolution import SteadyConfig, spread_of, tolerated_total
from neurofleet.neurosim.evolution.diverse_selection import DEFAULT_TOLERANCE

NAMES = ("cm.soma", "gbar_A.soma", "gbar_B.soma")
OBJECTIVES = ("width", "rate")
BUDGET = 200
SEED = 3


def problem(final: bool) -> Problem:
    """A problem whose models are only names; nothing here builds an engine."""
    return Problem(
        names=NAMES,
        lower=(0.5, 0.0, 0.0),
        upper=(5.0, 1.0, 2.0),
        fixed={"e_pas.all": -80.0},
        objectives=OBJECTIVES,
        model="loose",  # type: ignore[arg-type]
        final_model="tight" if final else None,  # type: ignore[arg-type]
        mechanisms_told="The mechanisms in the cell are pas (all)",
    )


def search(
    store, *, in_flight=7, final=False, patience=None, evaluations=BUDGET, seed=SEED, tolerance=DEFAULT_TOLERANCE
) -> SteadySearch:
    config = SteadyConfig(evaluations=evaluations, tolerance=tolerance)
    stage = StagePlan("active", (seed,), config, finalists=evaluations // 10 if final else 0)
    limits = Limits(Deadline(300.0), patience=patience)
    return SteadySearch("c", stage, seed, problem(final), store, in_flight=in_flight, hall_of_fame=4, limits=limits)


def scores_of(parameters, tight=False):
    share = np.log10(np.maximum(parameters[1:] / [1.0, 2.0], 1e-6)) + 2.0
    return np.array([abs(parameters[0] - 2.0) + abs(share[0]), abs(share).sum()]) * (1.1 if tight else 1.0)


class Arrivals:
    """Stands for the pool: every task has one outcome, in an order of its own."""

    def __init__(self, order: int, failing: float = 0.1) -> None:
        self._random = random.Random(order)
        self._failing = failing
        self.open: list = []
        self.most_open = 0
        self.seen: dict[int, np.ndarray] = {}

    def take_in(self, tasks) -> None:
        ids = [task.id for task in self.open]
        assert not set(ids) & {task.id for task in tasks}
        self.open += tasks
        self.seen |= {task.id[1]: task.individual for task in tasks}
        self.most_open = max(self.most_open, len(self.open))

    def lead(self, found: SteadySearch, arrivals: int | None = None) -> int:
        """Bring outcomes until the search wants no more, or so many; return how many it brought."""
        self.take_in(found.start())
        brought = 0
        while self.open and brought != arrivals:
            task = self.open.pop(self._random.randrange(len(self.open)))
            key, number = task.id
            assert key == ("c", "active", found.seed)
            self.take_in(found.take(number, self._outcome(task)))
            brought += 1
        return brought

    def _outcome(self, task) -> Outcome:
        if self._random.random() < self._failing:
            return Outcome("crash", "signal 11", 0.5)
        tight = "_final" in task.engine.key
        return Outcome("ok", "", self._random.uniform(0.1, 1.0), scores_of(task.individual, tight))


@pytest.fixture
def store(tmp_path):
    with RunStore(tmp_path / "run").locked() as locked:
        yield locked


def stored(store, stage="active", seed=SEED) -> list[Evaluations]:
    return store.read_generations("c", stage, seed)


def joined(blocks, name):
    return np.concatenate([getattr(block, name) for block in blocks])


def copy_blocks(store, root, count=None):
    """A run with the first blocks of another."""
    other = RunStore(root)
    for block in stored(store)[:count]:
        other.write_generation("c", "active", SEED, block)
    return other


def test_every_evaluation_is_stored_in_the_order_of_arrival(store):
    found, pool = search(store), Arrivals(1)
    assert pool.lead(found) == BUDGET
    assert found.finished
    assert found.start() == []
    assert pool.most_open == 7
    blocks = stored(store)
    assert [len(block) for block in blocks] == [SMALLEST_BLOCK] * 6 + [8]
    asked, in_flight = joined(blocks, "asked"), joined(blocks, "in_flight")
    assert sorted(asked) == list(range(BUDGET))
    assert (asked != np.sort(asked)).any()
    assert (np.abs(asked - np.arange(BUDGET)) > 7).any()
    np.testing.assert_array_equal(in_flight, np.minimum(7, BUDGET - np.arange(BUDGET)))
    for block in blocks:
        for i, status in enumerate(block.statuses):
            expected = scores_of(block.parameters[i]) if status == "ok" else np.full(2, MAX_SCORE)
            np.testing.assert_array_equal(block.scores[i], expected)
    crashes = sum(block.statuses.count("crash") for block in blocks)
    assert found.state.outcomes == {"ok": BUDGET - crashes, "crash": crashes}
    assert crashes > 0
    assert found.state.generation == 7


def test_recorded_arrivals_lead_to_the_same_individuals(store, tmp_path):
    first = search(store)
    Arrivals(1).lead(first)
    again = search(copy_blocks(store, tmp_path / "copy"))
    assert again.finished
    assert again.replayed_unlike == 0
    assert again.state.replayed == BUDGET
    one, other = first.hall_of_fame(), again.hall_of_fame()
    assert one.to_table().equals(other.to_table())
    # another order leads elsewhere, so that the equality above means something
    with RunStore(tmp_path / "other").locked() as elsewhere:
        Arrivals(2).lead(search(elsewhere))
        assert not np.array_equal(joined(stored(elsewhere), "parameters"), joined(stored(store), "parameters"))


def test_a_changed_record_is_noticed(store, tmp_path):
    Arrivals(1).lead(search(store))
    other = copy_blocks(store, tmp_path / "copy", 6)
    last = stored(store)[6]
    nudged = last.parameters.copy()
    nudged[3, 0] = np.nextafter(nudged[3, 0], 2.0)
    other.write_generation("c", "active", SEED, replace(last, parameters=nudged))
    assert search(other).replayed_unlike == 1
    other.write_generation("c", "active", SEED, replace(last, objective_names=("width", "depth")))
    with pytest.raises(JobError, match=r"generation 6 of active .* 2 objectives.*\(only there depth; only here rate\)"):
        search(other)
    other.write_generation("c", "active", SEED, replace(last, asked=last.asked[::-1] + 1))
    with pytest.raises(JobError, match="answers ask"):
        search(other)
    other.write_generation("c", "active", SEED, replace(last, asked=None, in_flight=None))
    with pytest.raises(JobError, match="columns"):
        search(other)


@pytest.mark.parametrize("kills", [[40], [10, 31, 33, 60, 100]])
def test_a_killed_search_asks_again_for_what_was_under_way(store, kills):
    """Whatever was not in a whole block is asked for again: the same individuals as before the kill."""
    before_kill: dict[int, np.ndarray] = {}
    repeated = 0
    for number, arrivals in enumerate([*kills, None]):
        blocks = stored(store)
        found, pool = search(store), Arrivals(number)
        tasks = found.start()
        arrived = joined(blocks, "asked").tolist() if blocks else []
        assert len(tasks) == min(7, BUDGET - len(arrived))
        assert sorted(arrived + [task.id[1] for task in tasks]) == list(range(len(arrived) + len(tasks)))
        for task in tasks if before_kill else []:
            np.testing.assert_array_equal(task.individual, before_kill[task.id[1]])
            repeated += 1
        pool.lead(found, arrivals)
        before_kill = pool.seen | {k: v for k, v in before_kill.items() if k not in pool.seen}
    assert repeated == 7 * len(kills)
    assert found.finished
    assert sorted(joined(stored(store), "asked")) == list(range(BUDGET))
    assert search(store).replayed_unlike == 0


def test_going_on_with_another_number_under_way(store, tmp_path):
    Arrivals(1).lead(search(store, in_flight=20), 70)
    wider = search(store, in_flight=40)
    pool = Arrivals(2)
    pool.lead(wider, 60)
    assert pool.most_open == 40
    narrower = search(store, in_flight=3)
    pool = Arrivals(3)
    pool.lead(narrower)
    in_flight = joined(stored(store), "in_flight")
    assert in_flight[:64].tolist() == [20] * 64
    assert in_flight[64:104].tolist() == [40] * 40
    assert in_flight[104:].tolist() == [*range(39, 3, -1), *[3] * 58, 2, 1]
    again = search(copy_blocks(store, tmp_path / "copy"), in_flight=1)
    assert again.finished
    assert again.replayed_unlike == 0


def test_a_number_changed_on_the_way_is_recorded(store, tmp_path):
    found, pool = search(store, in_flight=5), Arrivals(4)
    pool.take_in(found.start())
    for number in range(BUDGET):
        found.in_flight = 30 if 50 < number < 120 else 5
        task = pool.open.pop(0)
        pool.take_in(found.take(task.id[1], Outcome("ok", "", 0.1, scores_of(task.individual))))
    assert found.finished
    assert pool.most_open == 30
    assert search(copy_blocks(store, tmp_path / "copy")).replayed_unlike == 0


def test_finalists_are_scored_again_and_traced_to_their_row(store, caplog):
    caplog.set_level(logging.INFO, "neurofleet")
    found = search(store, final=True, in_flight=50)
    pool = Arrivals(5, failing=0.0)
    assert pool.lead(found, BUDGET) == BUDGET
    assert not found.finished
    assert found.state.phase == "finalists"
    assert {task.engine.key.split("-")[1] for task in pool.open} == {"active_final"}
    resumed = search(store, final=True, in_flight=50)
    assert Arrivals(6, failing=0.0).lead(resumed) == 6  # half as many again as the hall of fame holds
    assert resumed.finished
    assert search(store, final=True).finished
    (final,) = stored(store, "active_final")
    assert final.asked is None
    logged = [fields_of(record) for record in caplog.records if record.msg == GENERATION_STORED]
    assert [(each["stage"], each["best"]) for each in logged][-1] == ("active_final", final.totals.min())
    hall, blocks = resumed.hall_of_fame(), stored(store)
    assert [len(block) for block in blocks] == [50] * 4
    assert len(hall) == 4
    assert hall.parameter_names == (*NAMES, "e_pas.all")
    assert hall.generations.max() > 0
    for rank in range(4):
        row = blocks[hall.generations[rank]].parameters[hall.individuals[rank]]
        np.testing.assert_array_equal(row, hall.parameters[rank, :3])
        np.testing.assert_array_equal(hall.scores[rank], scores_of(row, tight=True))


class Surprises(Arrivals):
    """Most of the first finalists are far worse when they are scored again."""

    def _outcome(self, task) -> Outcome:
        worse = 100.0 if task.about["stage"] == "active_final" and task.about["generation"] == 0 and task.id[1] else 1.0
        return Outcome("ok", "", 0.1, worse * scores_of(task.individual))


def test_more_finalists_are_scored_again_until_they_fill_the_hall_of_fame(store):
    found = search(store, final=True)
    Surprises(5).lead(found)
    assert found.finished
    first, others = stored(store, "active_final")
    assert (len(first), len(others)) == (6, 14)  # together a tenth of the search
    hall = found.hall_of_fame()
    assert set(hall.totals[1:]) <= set(others.totals)
    assert search(store, final=True).finished
    np.testing.assert_array_equal(search(store, final=True).hall_of_fame().parameters, hall.parameters)


def test_hall_of_fame_without_finalists_is_of_the_best_of_all(store):
    found = search(store, tolerance=0.0)
    Arrivals(7).lead(found)
    blocks = stored(store)
    totals = np.sort(joined(blocks, "totals"))
    np.testing.assert_array_equal(found.hall_of_fame().totals, totals[:4])
    different = search(store)  # the same search, read again
    assert different.hall_of_fame().totals[0] == totals[0]
    assert different.hall_of_fame().totals[-1] <= tolerated_total(totals[0], 2, DEFAULT_TOLERANCE)
    spreads = [spread_of(different.space.to_unit(s.hall_of_fame().parameters[:, :3])) for s in (found, different)]
    assert spreads[1].distinct == 4 > spreads[0].distinct
    for hall in (found.hall_of_fame(), different.hall_of_fame()):
        for rank in range(4):
            block = blocks[hall.generations[rank]]
            assert block.totals[hall.individuals[rank]] == hall.totals[rank]


def test_patience_ends_the_search_after_what_is_under_way(store, tmp_path):
    found, pool = search(store, patience=30, evaluations=5000), Arrivals(8)
    told = pool.lead(found)
    assert 30 < told < 2000
    assert found.finished
    again = search(copy_blocks(store, tmp_path / "copy"), patience=30, evaluations=5000)
    assert again.finished
    assert again.replayed_unlike == 0


def test_a_model_that_fails_is_given_up_after_the_first_block(store):
    with pytest.raises(JobError, match="half of the first generation failed: crash: signal 11.*in the cell are pas"):
        Arrivals(9, failing=0.8).lead(search(store))
    with pytest.raises(JobError, match="more than half"):
        search(store)


def test_the_order_of_arrivals_is_stored_only_of_a_search_without_generations(store):
    Arrivals(1).lead(search(store), SMALLEST_BLOCK)
    (block,) = stored(store)
    plain = replace(block, asked=None, in_flight=None)
    assert block.to_table().schema == plain.to_table().schema
    assert Evaluations.from_table(block.to_table()).asked.tolist() == block.asked.tolist()
    assert Evaluations.from_table(plain.to_table()).asked is None
    with pytest.raises(ClusterError, match="in order"):
        Evaluations.from_table(block.to_table().take(block.asked % SMALLEST_BLOCK))
