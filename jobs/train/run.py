"""The run of a training job, from a labelled reference to a model folder."""

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import Interrupted, UsageError
from jobs.progress import duration
from jobs.train.inputs import Inputs, digests, read_inputs
from jobs.train.spec import TrainSpec

if TYPE_CHECKING:
    from rich.console import Console

TRAININGS = "trainings"


def run_train(spec: TrainSpec, folder: Path, out: str, address: str | None, cpus: int | None) -> None:
    """Train a model with everything kept in `out`, or go on with it there.

    Parameters
    ----------
    folder : Path
        Of the job file.

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
            _train(spec, inputs, notes, Path(out), address, cpus, console)
        except KeyboardInterrupt:
            store.append_event("interrupted")
            raise Interrupted(
                f"interrupted. Finished epochs are kept in {out}; run the same command to go on."
            ) from None
        spent = time.monotonic() - started
        store.append_event("finished", seconds=round(spent, 1))
    console.print(f"{spec.name}: done after {duration(spent)}. The model is in {out}", soft_wrap=True)


def _train(
    spec: TrainSpec,
    inputs: Inputs,
    notes: list[str],
    out: Path,
    address: str | None,
    cpus: int | None,
    console: "Console",
) -> None:
    from cluster.session import connect
    from jobs.train.trainings import Trainings

    workers = spec.workers if spec.workers is not None else (1 if address else 0)
    trainings = Trainings(
        spec, (out / TRAININGS).absolute(), inputs.sources, workers, epochs_in_all(spec, inputs), console
    )
    if workers == 0:
        _fit_and_write(spec, inputs, notes, out, trainings, console)
        return
    with connect(address, None if address else cpus):
        _fit_and_write(spec, inputs, notes, out, trainings, console)


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
    return each


def _fit_and_write(
    spec: TrainSpec, inputs: Inputs, notes: list[str], out: Path, trainings: Any, console: "Console"
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs.provenance import versions
    from jobs.train.report import write_training_report
    from learners.sims.evaluation import cross_validate, facts, score_split
    from learners.sims.fit import fit
    from learners.split_files import write_splits
    from learners.splits import fingerprint

    write_splits(out / "split.parquet", inputs.splits)
    told = json.dumps(spec.identity(), sort_keys=True) + fingerprint(inputs.splits)
    run = hashlib.sha256(told.encode()).hexdigest()
    reference, settings, seed = inputs.reference, spec.chosen, spec.seed
    fitted = fit(reference, inputs.final, settings, trainings, seed)
    if len(inputs.splits) > 1:
        tested = cross_validate(reference, inputs.splits, settings, trainings, seed, spec.baselines)
    else:
        console.print("Scoring, with baselines under the same split …")
        tested = [score_split(fitted, reference, inputs.final, settings, trainings, seed, spec.baselines)]
    n_cells, n_genes = reference.cells.shape
    described: dict[str, Any] = facts(tested, reference) | {
        "name": spec.name,
        "preset": spec.preset,
        "seed": spec.seed,
        "notes": [*notes, *(note for note in fitted.notes if note not in notes)],
        "data": {
            "files": [Path(path).name for path in inputs.sources["paths"]],
            "sha256": json.loads((out / "provenance.json").read_text())["inputs"],
            "n_cells": n_cells,
            "n_genes": n_genes,
            "n_genes_seen": len(fitted.model.inputs.columns),
            "label": spec.label,
            "cells_of_class": dict(zip(inputs.labels.classes, inputs.labels.counts.tolist(), strict=True)),
            "normalisation": str(reference.normalisation),
        },
        "split": {"fingerprint": fingerprint(inputs.splits), "cells": _role_counts(inputs)},
        "versions": versions(),
    }
    table = pa.Table.from_pylist(trainings.history)
    pq.write_table(table, out / "history.parquet")
    model = replace(fitted.model, facts=described)
    write_training_report(out, model, table)
    model.save(out, run=run)
    _print_scores(described, console)


def _role_counts(inputs: Inputs) -> list[dict[str, int]]:
    roles = ("train", "validation", "test")
    return [{role: len(split.rows(role)) for role in roles} for split in inputs.splits]


def _print_scores(described: dict[str, Any], console: "Console") -> None:
    from rich.table import Table

    table = Table(title=f"Scores on {described['role']} cells")
    table.add_column("")
    for name in ("accuracy", "95 % interval", "macro-F1"):
        table.add_column(name, justify="right")
    for name, scores in described["scores"].items():
        interval = f"{scores['accuracy_low']:.3f} – {scores['accuracy_high']:.3f}"
        label = name if name == "sims" else f"  its {name} alone"
        table.add_row(label, f"{scores['accuracy']:.3f}", interval, f"{scores['macro_f1']:.3f}")
    for name, baseline in described["baselines"].items():
        if "accuracy" in baseline:
            table.add_row(name, f"{baseline['accuracy']:.3f}", "", f"{baseline['macro_f1']:.3f}")
    control = described["control"]
    if control is not None:
        table.add_row("shuffled labels", f"{control['accuracy']:.3f}", f"≤ {control['limit']:.3f}", "")
    console.print(table)
    if control is not None and not control["valid"]:
        console.print(
            "INVALID: a model of shuffled labels does better than chance. Labels leak into the cells' values;"
            " no score of this run can be trusted.",
            style="red",
        )
