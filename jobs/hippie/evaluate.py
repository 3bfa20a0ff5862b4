"""The run of an evaluation: one table of methods for each data set, with controls and pictures."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.carrying_out import Opened, carry_out, refuse_missing
from jobs.hippie.evaluations import Evaluated, Plan, evaluate
from jobs.hippie.inputs import Labelled, read_labelled, read_units
from jobs.hippie.pieces import folds_of
from jobs.hippie.pretraining import methods_of, pretrained_on, trainings_of
from jobs.hippie.spec import EvaluateSpec
from jobs.train.folder import EVALUATION
from jobs.train.pieces import keep
from jobs.train.workers import connected, most, workers_of

if TYPE_CHECKING:
    import pyarrow as pa

    from learners.units.units import Units


@dataclass(frozen=True)
class Inputs:
    """An evaluation's input.

    Attributes
    ----------
    sets : list of Labelled
        In the order of the job.
    pool : list of Units
        For pretraining, besides the other sets.
    """

    sets: list[Labelled]
    pool: "list[Units]"


def run_evaluate(spec: EvaluateSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Evaluate methods with everything kept in `out`, or go on with it there; raises as `carry_out` does."""
    carry_out(
        spec,
        folder,
        out,
        lambda: read_inputs(spec, folder),
        lambda run: _evaluate(run, folder, address, cpus),
        EVALUATION,
    )


def read_inputs(spec: EvaluateSpec, folder: Path) -> tuple[Inputs, list[str]]:
    """Open all sets and check that each can be split.

    Raises
    ------
    UsageError, LearnerError
        Naming the set.
    """
    from learners.errors import LearnerError
    from learners.hippie.pretraining import refuse_shared

    refuse_missing(spec, folder)
    found, notes = [], []
    for one in spec.sets:
        try:
            opened = read_labelled(one, folder)
            folds_of(opened, spec.folds, spec.repeats, spec.seed)
        except LearnerError as error:
            raise LearnerError(f"set {one.name}: {error}") from error
        found.append(opened)
        notes += [f"{one.name}: {note}" for note in opened.notes]
    inputs = Inputs(found, [read_units(one, folder) for one in spec.pool])
    for number, labelled in enumerate(found):
        pool = pool_for(spec, inputs, number)
        name = spec.sets[number].name
        notes += [f"{name}: {note}" for note in methods_of(spec, pool is not None)[1]]
        if pool is not None:
            try:
                refuse_shared(pool, labelled.units)
            except LearnerError as error:
                raise LearnerError(f"set {name}: {error}") from error
    return inputs, notes


def pool_for(spec: EvaluateSpec, inputs: Inputs, number: int) -> "Units | None":
    """Return the units that a network for one set is pretrained on; None where there are none."""
    from learners.units.units import joined

    others = [found.units for i, found in enumerate(inputs.sets) if i != number and spec.pretrain_on_others]
    pools = [*inputs.pool, *others]
    return joined(pools) if pools else None


def _evaluate(run: Opened, folder: Path, address: str | None, cpus: int | None) -> None:
    from jobs.hippie.report import write_evaluation_report
    from jobs.hippie.results import print_evaluation
    from jobs.hippie.tables import embeddings_table

    spec, inputs = run.spec, run.inputs
    workers = workers_of(spec, address)
    trainings = trainings_of(
        spec, run.out, workers, len(spec.sets) * spec.chosen.pretrain_epochs, run.console
    )
    with connected(workers, address, cpus):
        plans = []
        for number, one in enumerate(spec.sets):
            pool = pool_for(spec, inputs, number)
            kept = pretrained_on(pool, inputs.sets[number].units, spec, trainings, one.name, run.out)
            plans.append(
                Plan(
                    one.name,
                    one,
                    inputs.sets[number],
                    spec.chosen.model_dump(mode="json"),
                    methods_of(spec, pool is not None)[0],
                    spec.folds,
                    spec.repeats,
                    spec.shuffles,
                    spec.seed,
                    kept[1] if kept else None,
                )
            )
        found = evaluate(plans, folder, run.out, most(workers), run.console)
    write_tables(run.out, plans, found)
    for plan in plans:
        _write_part(run.out / "embeddings", plan.name, embeddings_table(plan))
    _write_evaluation(run, plans, found)
    write_evaluation_report(run.out)
    print_evaluation(json.loads((run.out / EVALUATION).read_text()), run.console)


def write_tables(out: Path, plans: list[Plan], found: list[Evaluated]) -> None:
    """Write predictions of all sets, and their scores, as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.hippie.tables import predictions_table, scores_table

    for plan, one in zip(plans, found, strict=True):
        _write_part(out / "predictions", plan.name, predictions_table(plan, one))
    tables = [scores_table(plan.name, one.comparison) for plan, one in zip(plans, found, strict=True)]
    pq.write_table(pa.concat_tables(tables), out / "scores.parquet")


def _write_part(folder: Path, name: str, table: "pa.Table") -> None:
    import pyarrow.parquet as pq

    place = folder / f"set={name}" / "part.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, place)


def _write_evaluation(run: Opened, plans: list[Plan], found: list[Evaluated]) -> None:
    from jobs.provenance import versions

    sets = [facts(plan, one) for plan, one in zip(plans, found, strict=True)]
    told: dict[str, Any] = {"name": run.spec.name, "sets": sets, "notes": run.notes, "versions": versions()}
    keep(run.out / EVALUATION, told, indent=1)


def facts(plan: Plan, found: Evaluated) -> dict[str, Any]:
    """Return what is known of one evaluation, as plain JSON."""
    return {
        "set": plan.name,
        "files": [path.name for path in plan.labelled.units],
        "group": plan.labelled.group,
        "comparison": found.comparison.to_dict(),
        "shuffled": found.shuffled,
        "permuted": found.permuted,
        "chosen": found.chosen,
        "pretrained": plan.pretrained is not None,
    }
