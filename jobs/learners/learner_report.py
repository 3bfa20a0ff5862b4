"""How a learner's job is shown from its folder: its status, its scores on the terminal and as JSON, and its page."""

import json
import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.faults import place_in_words
from neurofleet.input_paths import is_url, place_of
from neurofleet.jobs.job_folder import job_folder_of
from neurofleet.jobs.learners.learner_figures import confusion_figure, embedding_map_figure
from neurofleet.jobs.learners.learner_folder import EVALUATION, JOB, learner_job_state, refuse_unfinished
from neurofleet.jobs.learners.trials_report import Trials, trials_json, trials_section
from neurofleet.jobs.quick import quick_lines
from neurofleet.jobs.reports import html
from neurofleet.jobs.terminal import print_json, terminal
from neurofleet.learners.model_folder import StoredModel, read_model

PAGE = "report.html"
T = TypeVar("T")


class LearnerReport(ABC):
    """The scores of a job that has ended, and how they are shown."""

    learner: ClassVar[str]

    use: ClassVar[str] = "embed {out} FILE --out embeddings.parquet"
    """What is typed to use the model that was trained."""

    @classmethod
    @abstractmethod
    def read(cls, out: str | Path) -> Self:
        """Return what the folder of a job holds.

        Raises
        ------
        UsageError
            The job has not ended, or the model was written without scores.
        ModelRefused
            The folder holds a damaged model, or one of another learner.
        """

    @classmethod
    @abstractmethod
    def stored(cls, out: str | Path) -> dict[str, Any]:
        """Return the scores as the folder keeps them, plain JSON; raises as `read` does."""

    @abstractmethod
    def job_name(self) -> str:
        """Return the name of the job."""

    @abstractmethod
    def print_tables(self, console: Console) -> None:
        """Print tables of the scores, and what a reader must know of them."""

    @abstractmethod
    def verdict(self) -> list[str]:
        """Return a few lines: how good, how sure, what is wrong."""

    @classmethod
    def verdict_of(cls, out: str | Path) -> list[str]:
        """Return the verdict on a finished job, and what to type next."""
        following = f"next: neurofleet {cls.use.format(out=out, query=_query_of(RunStore(out)))}"
        if (Path(out) / EVALUATION).is_file():
            following = f"next: neurofleet results {out}"
        return [*_trials_verdict(Trials.read(RunStore(out))), *cls.read(out).verdict(), following]

    @abstractmethod
    def body(self, store: RunStore) -> list[str]:
        """Return the page without its title; tables of the run are read from its folder."""

    def write(self, out: str | Path) -> str:
        """Write ``report.html`` into the folder, and return where it is."""
        store = RunStore(out)
        trials = Trials.read(store)
        top = [html.heading(1, self.job_name()), *html.alarms(quick_lines(store.root))]
        top += map(html.paragraph, [*_trials_verdict(trials), *self.verdict()])
        if trials:
            top += [*trials_section(trials), html.heading(2, "The best setting, trained again")]
        store.write_text(PAGE, html.page(f"{self.job_name()}: report", [*top, *self.body(store)]))
        return f"{store.root.rstrip('/')}/{PAGE}"

    @classmethod
    def rewrite_report(cls, out: str | Path) -> str:
        """Write ``report.html`` from what the folder of a finished job holds, and return where it is."""
        return cls.read(out).write(out)

    @classmethod
    def print_results(cls, out: str, as_json: bool) -> None:
        """Print the scores of a finished job, of a sweep its trials too: tables, or all that is known as JSON."""
        trials = Trials.read(RunStore(out))
        if as_json:
            print_json(cls.stored(out) | ({"trials": trials_json(trials)} if trials else {}))
            return
        report, console = cls.read(out), terminal()
        if trials:
            trials.print(console)
        report.print_tables(console)

    @classmethod
    def print_status(cls, out: str, as_json: bool, console: Console) -> None:
        """Print how far the job in `out` is; with its scores once it has ended."""
        state = learner_job_state(out)
        if as_json:
            print_json(asdict(state))
            return
        for line in state.lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if state.finished:
            cls.read(out).print_tables(console)


def _query_of(store: RunStore) -> str:
    """Return the cells that a job's model is for as they are typed after `predict`, a placeholder without any."""
    job = yaml.safe_load(store.read_text(JOB) or "") or {}
    if not (query := job.get("query")):
        return "QUERY.h5ad"
    places = [place_of(path, job_folder_of(store)) for path in ([query] if isinstance(query, str) else query)]
    options = {"--layer": job.get("query_layer") or job.get("layer", "X"), "--gene-names": job.get("gene_names")}
    given = [word for name, value in options.items() if value not in (None, "X") for word in (name, value)]
    return shlex.join([*(place if is_url(place) else os.path.relpath(place) for place in places), *given])


def _trials_verdict(trials: Trials | None) -> list[str]:
    return trials.verdict() if trials else []


def stored_model(out: str | Path, learner: str, facts: Collection[str]) -> StoredModel:
    """Return the model of a training.

    Parameters
    ----------
    facts : collection of str
        What a training job of the learner, unlike a fit from Python, writes into its model.

    Raises
    ------
    UsageError
        If the training has not ended, or the model was written without scores.
    ModelRefused
        If the folder holds no model of that learner, or a damaged one.
    """
    refuse_unfinished(out)
    model = read_model(Path(out), learner=learner)
    if not set(facts) <= model.description.get("facts", {}).keys():
        raise _without_scores(out)
    return model


def stored_evaluation(out: str | Path) -> dict[str, Any] | None:
    """Return what an evaluation has left, as plain JSON; None where the folder is a training's.

    Raises
    ------
    UsageError
        If the job has not ended.
    """
    refuse_unfinished(out)
    file = Path(out) / EVALUATION
    return json.loads(file.read_text()) if file.is_file() else None


def typed(kind: type[T], content: Any, out: str | Path = "") -> T:
    """Return stored scores as the dataclass `kind`; keys that it does not name are left out.

    Raises
    ------
    UsageError
        Something is missing or is of another type.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        places = ", ".join(place_in_words(fault["loc"], content) for fault in error.errors()[:5])
        raise _without_scores(out, f"; missing or unreadable: {places}") from error


def _without_scores(out: str | Path, why: str = "") -> UsageError:
    return UsageError(
        f"{out or 'the model'}: expected a model with its scores, as a training job writes it, found one without{why}. "
        "Train it with `neurofleet run JOB.yaml` (kind: train)."
    )


def print_sentences(remarks: Sequence[str], invalid: Sequence[str], console: Console) -> None:
    """Print remarks below a table, and in red why its scores are invalid."""
    for sentence in remarks:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    for sentence in invalid:
        console.print(sentence, style="bold red", markup=False, highlight=False, soft_wrap=True)


def scores_section(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    numbers: Sequence[int],
    remarks: Sequence[str],
    invalid: Sequence[str],
) -> list[str]:
    """Return a table of scores with what makes them invalid above, and what is remarkable below."""
    return [
        *(html.paragraph(sentence, "alarm") for sentence in invalid),
        html.table(head, rows, numbers=numbers),
        *(html.paragraph(sentence, "note") for sentence in remarks),
    ]


def notes_section(notes: Sequence[str], level: int = 2) -> list[str]:
    """Return the notes of a job below a heading; nothing without any."""
    return [html.heading(level, "Notes"), *(html.paragraph(note) for note in notes)] if notes else []


def provenance_section(
    store: RunStore, versions: Mapping[str, str], folder: str = "folder", more: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """Return where a page comes from: the folder, `more` rows, the versions, and the job file."""
    rows = [
        (folder, store.root),
        ("scores", f"neurofleet results {store.root}"),
        *more,
    ]
    parts = [html.heading(2, "Where this comes from"), html.table(("", ""), rows), html.versions(versions)]
    if job := store.read_text(JOB):
        parts.append(html.details("The job", html.code(job)))
    return parts


def confusion_matrix(classes: Sequence[str], predictions: pd.DataFrame, caption: str) -> str:
    """Return the confusion matrix of a table with columns ``true`` and ``predicted``."""
    number = {name: place for place, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (predictions["true"].map(number), predictions["predicted"].map(number)), 1)
    return html.figure(confusion_figure(classes, counts.tolist()), caption)


def map_figure(
    table: pa.Table, names: np.ndarray | Mapping[str, np.ndarray], label: str, caption: str, nameless: str = "no class"
) -> str:
    """Return the map of a table of embeddings, coloured by `names`; several, by their titles, are side by side.

    `label` is for readers who cannot see it; `nameless` is what points without a name are called.
    """
    method = "t-SNE" if "tsne_0" in table.column_names else "UMAP"
    flat = np.stack([table[f"{method.replace('-', '').lower()}_{number}"].to_numpy() for number in (0, 1)], 1)
    panels = names if isinstance(names, Mapping) else {"": names}
    return html.figure(embedding_map_figure(flat, panels, label, nameless, method), caption)
