"""The trials of a hyperparameter sweep: on the terminal, as JSON, and on the page."""

import json
import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import yaml
from rich.console import Console

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.cluster.sweeps.search_space import ChoiceDimension, SearchSpace, optuna_distribution, parse_space
from neurofleet.cluster.sweeps.trial_records import TrialRow, trials_from_table
from neurofleet.jobs.job_file import named
from neurofleet.jobs.learners import specs_of
from neurofleet.jobs.learners.learner_folder import JOB, TRIALS
from neurofleet.jobs.learners.learner_spec import metric_in_words
from neurofleet.jobs.learners.trials_figures import choice_of, history_figure, importances_figure, parallel_figure
from neurofleet.jobs.reports import html
from neurofleet.jobs.reports.tables import ReportTable, print_line

SHOWN_ON_PAGE, SHOWN_IN_TERMINAL = 20, 10
FEWEST_SCORED = 4
"""With fewer scored settings, no importances."""

EVALUATORS = {"fANOVA": "FanovaImportanceEvaluator", "PED-ANOVA": "PedAnovaImportanceEvaluator"}
"""What is drawn of `optuna.importance`."""

UNCERTAIN = 20
"""With fewer scored settings than this, importances change from sweep to sweep, and the page says so."""


@dataclass(frozen=True)
class Trials:
    """The trials of a sweep, the best first.

    Attributes
    ----------
    rows : list of TrialRow
    space : SearchSpace
    metric : str
        What they are compared by.
    mode : {'min', 'max'}
    scheduler : str
    repeats : int
        How many trials each setting has.
    """

    rows: list[TrialRow]
    space: SearchSpace
    metric: str
    mode: Literal["min", "max"]
    scheduler: str
    repeats: int

    @classmethod
    def read(cls, store: RunStore) -> "Trials | None":
        """Return the trials that a folder holds; None where it is no sweep's, or no trial has ended."""
        table, job = store.table(TRIALS), yaml.safe_load(store.read_text(JOB) or "")
        if table is None or not len(table) or not isinstance(job, dict) or job.get("kind") != "sweep":
            return None
        spec = named(specs_of("sweep")[job["learner"]]).model_validate(job)
        metric, mode = spec.metric
        rows = sorted(trials_from_table(table), key=lambda row: _place(row, metric, mode))
        return cls(rows, parse_space(spec.search), metric, mode, spec.trials.scheduler, spec.trials.repeats)

    @property
    def done(self) -> list[TrialRow]:
        """Trials that were trained to their end, and have a score."""
        return [
            row for row in self.rows if row.status == "done" and math.isfinite(row.scores.get(self.metric, math.nan))
        ]

    @property
    def scored(self) -> list[TrialRow]:
        """Trials with a score, those that were stopped with that of their last epoch."""
        return [row for row in self.rows if math.isfinite(row.scores.get(self.metric, math.nan))]

    def verdict(self) -> list[str]:
        """Return how many trials there were, and how far apart the best and the others are."""
        counts = [
            f"{n} {name}"
            for name in ("done", "stopped", "failed")
            if (n := sum(row.status == name for row in self.rows))
        ]
        line = f"{len(self.rows)} trials ({', '.join(counts)})"
        if done := self.done:
            scores = [row.scores[self.metric] for row in done]
            line += f": {metric_in_words(self.metric)} {scores[0]:.3f} at best, median {np.median(scores):.3f},"
            line += " of those that are done"
        return [line]

    def table(self) -> ReportTable:
        """Return a row for each trial: parameters, scores, epochs, how it ended."""
        names = [*self.space.dimensions, *self.space.fixed]
        others = list(dict.fromkeys(name for row in self.rows for name in row.scores if name != self.metric))
        seed = ["seed"] if self.repeats > 1 else []
        measured, *more = map(metric_in_words, [self.metric, *others])
        head = ["trial", measured, *names, *seed, "ended", "epochs", "seconds", *more]
        rows = [
            [
                row.number,
                _score(row, self.metric),
                *(_value(row.parameters.get(name)) for name in names),
                *([row.seed] if seed else []),
                row.status if row.status == "done" or not row.error else f"{row.status}: {row.error}",
                row.epochs,
                f"{row.seconds:.3g}",
                *(_score(row, name) for name in others),
            ]
            for row in self.rows
        ]
        ended = head.index("ended")
        numbers = [column for column in range(1, len(head)) if column != ended]
        return ReportTable(head, rows, numbers=numbers, title=f"Trials by {measured}", no_wrap={0, 1})

    def print(self, console: Console) -> None:
        """Print the best trials."""
        table = self.table()
        shown = table.head.index("ended") + 1
        rows = [row[:shown] for row in table.rows[:SHOWN_IN_TERMINAL]]
        replace(table, head=table.head[:shown], rows=rows, compact=True).print(console)
        if len(table.rows) > SHOWN_IN_TERMINAL:
            print_line(console, f"{len(table.rows) - SHOWN_IN_TERMINAL} more in {TRIALS}")

    def importances(self) -> dict[str, dict[str, float]]:
        """Return evaluator -> parameter -> importance, by Optuna; nothing with too few scores, or all of them alike.

        Raises
        ------
        ModuleNotFoundError
            Optuna is not installed.
        """
        scores: dict[str, list[float]] = {}
        settings: dict[str, dict[str, Any]] = {}
        for row in self.scored:
            key = json.dumps(row.parameters, sort_keys=True)
            scores.setdefault(key, []).append(row.scores[self.metric])
            settings[key] = row.parameters
        means = {key: float(np.mean(values)) for key, values in scores.items()}
        if len(means) < FEWEST_SCORED or len(set(means.values())) < 2 or not self.space.dimensions:
            return {}
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="minimize" if self.mode == "min" else "maximize")
        distributions = {name: optuna_distribution(each) for name, each in self.space.dimensions.items()}
        for key, parameters in settings.items():
            values = {
                name: choice_of(each, parameters[name])
                if isinstance(each, ChoiceDimension)
                else each.clip(parameters[name])
                for name, each in self.space.dimensions.items()
            }
            study.add_trial(optuna.create_trial(params=values, distributions=distributions, value=means[key]))
        found = {}
        for name, evaluator in EVALUATORS.items():
            options = {"seed": 0} if name == "fANOVA" else {}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made = getattr(optuna.importance, evaluator)(**options)
                found[name] = dict(optuna.importance.get_param_importances(study, evaluator=made))
        return found


def trials_json(trials: Trials) -> list[dict[str, Any]]:
    """Return the trials as plain JSON."""
    return [vars(row) for row in trials.rows]


def trials_section(trials: Trials) -> list[str]:
    """Return the part of a page about the trials: pictures first, then the table."""
    table, metric = trials.table(), metric_in_words(trials.metric)
    shown = html.table(table.head, table.rows[:SHOWN_ON_PAGE], table.numbers)
    parts = [
        html.heading(2, f"{len(trials.rows)} trials, compared by {metric}"),
        html.paragraph(
            f"{'Higher' if trials.mode == 'max' else 'Lower'} is better. It is measured on what each trial"
            " holds out for validation; no test data are used. The best setting is trained again below.",
            "quiet",
        ),
    ]
    if trials.scored:
        parts.append(
            html.figure(
                history_figure(trials.rows, trials.metric, metric, trials.mode),
                "The score of each trial in the order in which they began, and the best so far of those that are done.",
            )
        )
    parts += _importances(trials)
    if len(trials.scored) > 1 and trials.space.dimensions:
        worst_first = trials.scored[::-1]
        parts.append(
            html.figure(
                parallel_figure(worst_first, trials.space.dimensions, trials.metric, metric),
                "Each line is a trial: what its parameters were, and on the right what it reached, which is its"
                " colour as well.",
            )
        )
    parts.append(html.heading(3, "All trials" if len(table.rows) <= SHOWN_ON_PAGE else f"The best {SHOWN_ON_PAGE}"))
    parts.append(shown)
    if len(table.rows) > SHOWN_ON_PAGE:
        rest = html.table(table.head, table.rows[SHOWN_ON_PAGE:], table.numbers)
        parts.append(html.details(f"The other {len(table.rows) - SHOWN_ON_PAGE} trials", rest))
    return [*parts, html.paragraph(f"The table is {TRIALS}; `neurofleet results` prints it.", "quiet")]


def _importances(trials: Trials) -> list[str]:
    if len(trials.space.dimensions) < 2:
        return []
    try:
        found = trials.importances()
    except ModuleNotFoundError:
        return [html.paragraph("Importances of the parameters need Optuna: pip install optuna.", "quiet")]
    if not found:
        return [html.paragraph("Too few trials have unlike scores to say which parameter matters.", "quiet")]
    caption = (
        "How much of the scores' variance each parameter explains (fANOVA), and how much it decides whether a trial"
        " is among the best tenth (PED-ANOVA), by Optuna."
    )
    if any(row.status == "stopped" for row in trials.scored):
        caption += " A trial that was stopped counts with the score of its last epoch."
    if len(trials.scored) < UNCERTAIN:
        caption += f" From {len(trials.scored)} trials: uncertain."
    if trials.scheduler == "pbt":
        caption += " Values are those at the end of each trial; the population has changed them before."
    return [html.figure(importances_figure(found), caption)]


def _place(row: TrialRow, metric: str, mode: str) -> tuple[int, float, str]:
    """Return a key that sorts the best first, those that are done before all others."""
    score = row.scores.get(metric, math.nan)
    is_lost = not math.isfinite(score)
    worth = math.inf if is_lost else score if mode == "min" else -score
    return (2 if is_lost else int(row.status != "done")), worth, row.trial


def _score(row: TrialRow, name: str) -> str:
    return f"{row.scores[name]:.4f}" if name in row.scores else ""


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)
