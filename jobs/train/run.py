"""The run of a training job, from a labelled reference to a model folder."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import Interrupted, UsageError
from jobs.progress import duration
from jobs.train.inputs import Inputs, digests, read_inputs
from jobs.train.spec import TrainSpec

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.train.trainings import Trainings

TRAININGS = "trainings"


@dataclass(frozen=True)
class Opened:
    """A training job whose input is read and whose folder is taken."""

    spec: TrainSpec
    inputs: Inputs
    notes: list[str]
    out: Path
    console: "Console"


def run_train(spec: TrainSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Train a model with everything kept in `out`, or go on with it there; raises as `carry_out` does.

    Parameters
    ----------
    folder : Path
        Of the job file.
    """
    carry_out(spec, folder, out, lambda run: train_model(run, address, cpus))


def carry_out(spec: TrainSpec, folder: Path, out: str, work: Callable[[Opened], None]) -> None:
    """Read and check a job's input, take its folder, and do its work.

    Parameters
    ----------
    work : callable
        Leaves a model in the folder; not called where one is there already.

    Raises
    ------
    UsageError, LearnerError
        The inputs or the folder cannot be used; said before anything is written.
    Interrupted
        Ctrl-C, or SIGTERM; the same command goes on from the last epoch.
    """
    # Threads that wait by spinning lose hundredfold where other work shares the cores; read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rich.console import Console

    from cluster.store import RunStore
    from jobs.provenance import open_run
    from learners.model_folder import DESCRIPTION
    from learners.sims.settings import RELEASED_WARNING

    if "://" in out:
        raise UsageError(f"A model folder is a path, found {out}. Give --out a folder that all machines see.")
    console = Console(stderr=True)
    inputs = read_inputs(spec, folder)
    notes = [*inputs.notes, *inputs.final.notes]
    if spec.preset.startswith("released"):
        notes.append(RELEASED_WARNING)
    for note in notes:
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    store = RunStore(out)
    started = time.monotonic()
    with store.locked():
        resumed = open_run(spec, digests(spec, folder), folder, store)
        store.append_event("resumed" if resumed else "started")
        if resumed and (Path(out) / DESCRIPTION).is_file():
            console.print(f"{spec.name}: finished already. The model is in {out}", soft_wrap=True)
            return
        try:
            work(Opened(spec, inputs, notes, Path(out), console))
        except KeyboardInterrupt:
            store.append_event("interrupted")
            raise Interrupted(
                f"interrupted. Finished epochs are kept in {out}; run the same command to go on."
            ) from None
        spent = time.monotonic() - started
        store.append_event("finished", seconds=round(spent, 1))
    console.print(f"{spec.name}: done after {duration(spent)}. The model is in {out}", soft_wrap=True)


def train_model(run: Opened, address: str | None, cpus: int | None) -> None:
    """Train, score and write the model of a job, on workers of a cluster where the job asks for them."""
    from cluster.session import connect
    from jobs.train.trainings import Trainings

    spec = run.spec
    workers = spec.workers if spec.workers is not None else (1 if address else 0)
    trainings = Trainings(
        spec,
        (run.out / TRAININGS).absolute(),
        run.inputs.sources,
        workers,
        epochs_in_all(spec, run.inputs),
        run.console,
    )
    with connect(address, None if address else cpus) if workers else nullcontext():
        _fit_and_write(run, trainings)


def epochs_in_all(spec: TrainSpec, inputs: Inputs) -> int:
    """Return how many epochs all trainings of a job have at most: fits, and their controls."""
    from learners.sims.fit import CONTROL_EPOCHS, is_trained_again

    settings, each = spec.chosen, 0
    for split in [inputs.final, *(inputs.splits if len(inputs.splits) > 1 else [])]:
        n_train, n_validation = len(split.rows("train")), len(split.rows("validation"))
        each += settings.epochs_for(n_train)
        if is_trained_again(split, settings):
            each += settings.epochs_for(n_train + n_validation)
        if len(split.rows("test")):
            each += min(CONTROL_EPOCHS, settings.epochs_for(n_train))
    if spec.unknown_curve:
        types = inputs.labels.classes if spec.unknown_curve is True else spec.unknown_curve
        each += len(types) * settings.epochs_for(n_train) * (2 if is_trained_again(split, settings) else 1)
    return each


def _fit_and_write(run: Opened, trainings: "Trainings") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.train.report import write_training_report
    from jobs.train.scores_table import print_scores
    from learners.sims.evaluation import cross_validate, facts, query_facts, score_split
    from learners.sims.fit import fit
    from learners.split_files import write_splits

    spec, inputs, out, console = run.spec, run.inputs, run.out, run.console
    write_splits(out / "split.parquet", inputs.splits)
    reference, settings, seed = inputs.reference, spec.chosen, spec.seed
    fitted = fit(reference, inputs.final, settings, trainings, seed)
    if len(inputs.splits) > 1:
        tested = cross_validate(reference, inputs.splits, settings, trainings, seed, spec.baselines)
    else:
        console.print("Scoring, with baselines under the same split …")
        tested = [score_split(fitted, reference, inputs.final, settings, trainings, seed, spec.baselines)]
    found = facts(tested, reference) | query_facts(fitted, reference, inputs.final, seed)
    found["notes"] = [*run.notes, *(note for note in fitted.notes if note not in run.notes)]
    if spec.unknown_curve:
        found["unknown_types"] = _unknown_types(run, trainings)
    model = replace(fitted.model, facts=found | _circumstances(run, len(fitted.model.inputs.columns)))
    history = pa.Table.from_pylist(trainings.history)
    pq.write_table(history, out / "history.parquet")
    write_training_report(out, model, history)
    model.save(out, run=_fingerprint(spec, inputs))
    print_scores(model.facts, console)


def _circumstances(run: Opened, n_genes_seen: int) -> dict[str, Any]:
    """Return what a model was trained on, and with what."""
    from jobs.provenance import versions
    from learners.splits import fingerprint

    spec, inputs = run.spec, run.inputs
    n_cells, n_genes = inputs.reference.cells.shape
    return {
        "name": spec.name,
        "preset": spec.preset,
        "seed": spec.seed,
        "data": {
            "files": [Path(path).name for path in inputs.sources["paths"]],
            "sha256": json.loads((run.out / "provenance.json").read_text())["inputs"],
            "n_cells": n_cells,
            "n_genes": n_genes,
            "n_genes_seen": n_genes_seen,
            "label": spec.label,
            "cells_of_class": dict(zip(inputs.labels.classes, inputs.labels.counts.tolist(), strict=True)),
            "normalisation": str(inputs.reference.normalisation),
        },
        "split": {
            "how": spec.split.model_dump(mode="json", exclude_none=True),
            "fingerprint": fingerprint(inputs.splits),
            "cells": _role_counts(inputs),
        },
        "versions": versions(),
    }


def _unknown_types(run: Opened, trainings: "Trainings") -> dict[str, dict[str, list[float | None]]]:
    """Return the curve of each type that was left out of training in turn, as plain JSON."""
    from learners.sims.unknown_types import leave_types_out

    spec, inputs = run.spec, run.inputs
    names = None if spec.unknown_curve is True else list(spec.unknown_curve or ())
    curves = leave_types_out(inputs.reference, inputs.splits[0], spec.chosen, trainings, spec.seed, names)
    return {
        name: {
            key: [None if value != value else float(value) for value in values]  # NaN is no JSON
            for key, values in vars(curve).items()
        }
        for name, curve in curves.items()
    }


def _fingerprint(spec: TrainSpec, inputs: Inputs) -> str:
    from learners.splits import fingerprint

    told = json.dumps(spec.identity(), sort_keys=True) + fingerprint(inputs.splits)
    return hashlib.sha256(told.encode()).hexdigest()


def _role_counts(inputs: Inputs) -> list[dict[str, int]]:
    roles = ("train", "validation", "test")
    return [{role: len(split.rows(role)) for role in roles} for split in inputs.splits]
