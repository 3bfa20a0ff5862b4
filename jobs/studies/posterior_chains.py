"""The chain of particles of one cell: blocks of steps as they are stored, and the evaluations that come next."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from neurofleet.cluster.pool.outcome import EvaluationTask, Outcome
from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import JobError
from neurofleet.jobs.fit.campaign_state import Engine
from neurofleet.jobs.fit.engines import engine_spec, residuals_of, scores_of, task_deadline_s, vector_spec
from neurofleet.jobs.fit.fit_problem import Problem
from neurofleet.neurosim.cells.fit_model import MAX_SCORE, FitModel
from neurofleet.neurosim.evolution import ParameterSpace
from neurofleet.neurosim.features.step_protocols import TargetSet
from neurofleet.neurosim.studies.posterior_sampling import (
    PosteriorSampler,
    Step,
    drawn_steps,
    effective_draws,
    half_shift,
    largest_rhat,
)

BLOCK_STEPS = 20
LARGEST_RHAT = 1.05
LARGEST_SHIFT = 0.2
"""Standard deviations; the halves of converged chains with 1,000 effective draws of 20 parameters are this close."""

BLOCK_STORED = "block stored"
_STATE = b"neurofleet_state"
_FAILED_SHOWN = 5
MOST_FAILED = 0.9


CHAINS = "chains"


def chain_folder(cell: str) -> str:
    """Return the folder with the blocks of a cell's chain."""
    return f"{CHAINS}/cell={cell}"


@dataclass(frozen=True, eq=False)
class CellToSample:
    """A cell that is sampled.

    Attributes
    ----------
    cell : str
    problem : Problem
        Of the last stage of its fit.
    engine : {"neuron", "vector"}
        What searched that stage.
    space : ParameterSpace
    particles : int
    best : ndarray, shape (k, P)
        The models of its hall of fame, best first, in the unit cube.
    best_total : float
    unseen : TargetSet or None
        E-features at steps that no stage was trained on.
    known : mapping of str to float
        The true parameters, of a made cell.
    """

    cell: str
    problem: Problem
    engine: Engine
    space: ParameterSpace
    particles: int
    best: np.ndarray
    best_total: float
    unseen: TargetSet | None = None
    known: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_z(self) -> float:
        """The mean score of its best model."""
        return self.best_total / len(self.problem.objectives)


@dataclass(frozen=True, eq=False)
class Drawn:
    """Steps of a chain that are draws.

    Attributes
    ----------
    first : int
        Number of the first step.
    unit : ndarray, shape (n, N, P)
    scores : ndarray, shape (n, N, M)
    accepted : ndarray of bool, shape (n, N)
    """

    first: int
    unit: np.ndarray
    scores: np.ndarray
    accepted: np.ndarray


@dataclass
class StoredChain:
    """The blocks of a cell's chain.

    Attributes
    ----------
    steps : list of Step
    blocks : int
    seconds : float
        Spent on evaluations.
    outcomes : Counter
        Status -> evaluations.
    last_outcomes : Counter
        Of those in the last stage.
    """

    steps: list[Step] = field(default_factory=list)
    blocks: int = 0
    seconds: float = 0.0
    outcomes: Counter = field(default_factory=Counter)
    last_outcomes: Counter = field(default_factory=Counter)

    @classmethod
    def read(cls, cell: str, store: RunStore) -> "StoredChain":
        """Read what is stored of a cell."""
        chain = cls()
        for name in sorted(store.names(chain_folder(cell))):
            table = store.table(name)
            assert table is not None
            chain.steps += steps_of(table, chain.steps[-1] if chain.steps else None)
            chain.blocks += 1
        stored = [event for event in store.read_events() if event["event"] == BLOCK_STORED and event["cell"] == cell]
        for event in {event["block"]: event for event in stored}.values():
            chain.seconds += event["seconds"]
            chain.outcomes.update(event["outcomes"])
            chain.last_outcomes.update(event.get("last_stage", {}))
        return chain

    @property
    def evaluations(self) -> int:
        """Evaluations of all steps."""
        return sum(len(step.unit) for step in self.steps)

    @property
    def drawn(self) -> Drawn:
        """The steps that are draws."""
        steps = drawn_steps(self.steps)
        shaped = steps or self.steps[:1]
        unit, scores, accepted = (
            np.stack([getattr(step, name) for step in shaped])[: len(steps)] for name in ("unit", "scores", "accepted")
        )
        scores = np.abs(scores)
        return Drawn(steps[0].number if steps else len(self.steps), unit, scores, accepted)

    def is_converged(self, draws: int) -> bool:
        """Return whether every parameter has so many effective draws, an R-hat of at most 1.05, and halves alike."""
        steps = drawn_steps(self.steps)
        if not steps:
            return False
        unit = np.stack([step.unit for step in steps])
        alike = bool(half_shift(unit).max() <= LARGEST_SHIFT)
        return alike and bool(effective_draws(unit).min() >= draws) and largest_rhat(unit) <= LARGEST_RHAT


def block_table(steps: list[Step]) -> pa.Table:
    """Return steps as they are stored: a row for each evaluated model; their stages in the metadata."""
    particles = len(steps[0].unit)
    state = {"stages": [(step.stage, step.power, step.last) for step in steps]}
    columns = {
        "step": pa.array(np.repeat([step.number for step in steps], particles), pa.int32()),
        "particle": pa.array(np.tile(np.arange(particles), len(steps)), pa.int32()),
        "parent": pa.array(np.concatenate([step.parents for step in steps]), pa.int32()),
        "accepted": pa.array(np.concatenate([step.accepted for step in steps])),
        "unit": _lists(np.concatenate([step.proposed for step in steps])),
        "scores": _lists(np.concatenate([step.proposed_scores for step in steps])),
    }
    return pa.table(columns).replace_schema_metadata({_STATE: json.dumps(state)})


def steps_of(table: pa.Table, before: Step | None) -> list[Step]:
    """Return the steps that `block_table` has stored, which follow another, the first of all None."""
    stages = json.loads(table.schema.metadata[_STATE])["stages"]
    count, rows = len(stages), len(table)
    proposed, scores = (_flat(table[name]).reshape(count, rows // count, -1) for name in ("unit", "scores"))
    parents, accepted = (table[name].to_numpy().reshape(count, -1) for name in ("parent", "accepted"))
    steps: list[Step] = []
    for i, (stage, power, last) in enumerate(stages):
        before = Step.after(
            before,
            stage=stage,
            power=power,
            last=last,
            parents=parents[i],
            proposed=proposed[i],
            proposed_scores=scores[i],
            accepted=accepted[i],
        )
        steps.append(before)
    return steps


def _lists(rows: np.ndarray) -> pa.Array:
    values = pa.array(rows.ravel().astype(np.float32))  # all of their digits: see `Step`
    return pa.FixedSizeListArray.from_arrays(values, rows.shape[1]).cast(pa.list_(pa.float32()))


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    values: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return values


class Chain:
    """The chain of one cell while it is sampled; it goes on from the blocks that are stored.

    The steps are in memory from the first `tasks` until it is finished.

    Parameters
    ----------
    cell : CellToSample
    store : RunStore
        Locked by the caller.
    seed, sweeps
        See `PosteriorSampler`.
    draws, most_evaluations : int
        Where it ends.
    deadline_s : float
    max_steps : int or None

    Attributes
    ----------
    finished : bool
    evaluations_left, most_blocks : int
        How many evaluations were left at most when it was made, and how many blocks there will be at most.
    """

    def __init__(
        self,
        cell: CellToSample,
        store: RunStore,
        *,
        seed: int,
        sweeps: int,
        draws: int,
        most_evaluations: int,
        deadline_s: float,
        max_steps: int | None,
    ) -> None:
        self.cell = cell
        self._store = store
        self._draws, self._most_evaluations = draws, most_evaluations
        name, model = f"{cell.cell}-posterior", cell.problem.model
        if cell.engine == "vector":
            assert isinstance(model, FitModel)
            self.engine = vector_spec(name, model)
        else:
            self.engine = engine_spec(name, model, max_steps)
        self._deadline_s = task_deadline_s(self.engine, deadline_s)
        self._seed, self._sweeps = seed, sweeps
        self._stored = StoredChain()
        self._sampler: PosteriorSampler | None = None
        self._steps: list[Step] = []
        self._outcomes: dict[int, Outcome] = {}
        self._asked = np.empty((0, 0))
        self._seconds, self._statuses, self._last = 0.0, Counter[str](), Counter[str]()
        stored = StoredChain.read(cell.cell, store)
        self.finished = bool(stored.steps) and self._is_done(stored)
        self.evaluations_left = 0 if self.finished else max(0, most_evaluations - stored.evaluations)
        self.most_blocks = stored.blocks + math.ceil(self.evaluations_left / (BLOCK_STEPS * cell.particles))

    def tasks(self) -> list[EvaluationTask]:
        """Return the evaluations that can be done now."""
        if self._sampler is None:
            self._stored = StoredChain.read(self.cell.cell, self._store)
            shape = (self.cell.particles, len(self.cell.space))
            self._sampler = PosteriorSampler(*shape, self._seed, self._stored.steps, self._sweeps)
        self._asked = self._sampler.ask()
        about = {"cell": self.cell.cell}
        return [
            EvaluationTask((self.cell.cell, i), self.engine, values, self._deadline_s, about=about)
            for i, values in enumerate(self.cell.space.from_unit(self._asked))
        ]

    def take(self, individual: int, outcome: Outcome) -> list[EvaluationTask]:
        """Take in an outcome; return the evaluations that can now be done, none while others are awaited.

        Raises
        ------
        JobError
            Nearly all of the models that were drawn from the bounds have failed.
        """
        self._outcomes[individual] = outcome
        if len(self._outcomes) < len(self._asked):
            return []
        outcomes = [self._outcomes[i] for i in range(len(self._asked))]
        self._outcomes = {}
        if not self._stored.steps and not self._steps:
            self._check_first(outcomes)
        assert self._sampler is not None
        step = self._sampler.tell(np.array([self._scores(outcome) for outcome in outcomes]))
        self._steps.append(step)
        self._seconds += sum(outcome.seconds for outcome in outcomes)
        statuses = Counter(outcome.status for outcome in outcomes)
        self._statuses.update(statuses)
        self._last.update(statuses if step.last else {})
        if len(self._steps) == BLOCK_STEPS:
            self._write(self._steps)
            self._steps = []
            if self._is_done(self._stored):
                self.finished = True
                self._stored, self._sampler = StoredChain(), None
                return []
        return self.tasks()

    def _scores(self, outcome: Outcome) -> np.ndarray:
        objectives = self.cell.problem.objectives
        if not outcome.ok:
            return np.full(len(objectives), MAX_SCORE)
        scores = scores_of(outcome.value, objectives)
        return np.where(residuals_of(outcome.value, objectives) < 0.0, -scores, scores)

    def _write(self, steps: list[Step]) -> None:
        number = self._stored.blocks
        self._store.append_event(  # before the block: should the run be killed in between, that of the next try counts
            BLOCK_STORED,
            cell=self.cell.cell,
            block=number,
            seconds=round(self._seconds, 3),
            outcomes=dict(self._statuses),
            last_stage=dict(self._last),
        )
        self._store.write_table(f"{chain_folder(self.cell.cell)}/block-{number:06d}.parquet", block_table(steps))
        self._stored.steps += steps
        self._stored.blocks += 1
        self._seconds, self._statuses, self._last = 0.0, Counter(), Counter()

    def _is_done(self, stored: StoredChain) -> bool:
        return stored.evaluations >= self._most_evaluations or stored.is_converged(self._draws)

    def _check_first(self, outcomes: list[Outcome]) -> None:
        failed = Counter(f"{outcome.status}: {outcome.reason}" for outcome in outcomes if not outcome.ok)
        if failed.total() > MOST_FAILED * len(outcomes):
            shown = "; ".join(f"{why} ({n} of {len(outcomes)})" for why, n in failed.most_common(_FAILED_SHOWN))
            told = f"cell {self.cell.cell}: nearly all models that were drawn from its bounds have failed: {shown}."
            if any(why.startswith(("timeout", "error: MemoryError")) for why in failed):
                told += " Raise the limits (deadline_s, max_steps, memory_limit_mb), and give another --out."
            if any(why.startswith(("crash", "error")) for why in failed) and self.cell.problem.mechanisms_told:
                told += f" {self.cell.problem.mechanisms_told}."
            raise JobError(told)
