"""The keys that the job files of all learners have: split, settings, seed, workers, and what a sweep tries."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from neurofleet.cluster.metric_loggers import LoggerName
from neurofleet.cluster.sweeps.search_space import SearchSpaceRefused, parse_space
from neurofleet.errors import UsageError, did_you_mean
from neurofleet.faults import faults, shown
from neurofleet.input_paths import is_url
from neurofleet.jobs.job_file import JobSpec, Label, Positive, PositiveInt, Strict, expanded, named


def _as_list(given: Any) -> Any:
    return given if isinstance(given, list | tuple) or given is None else [given]


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Labels = Annotated[list[Label], BeforeValidator(_as_list), Field(min_length=1)]
"""One label or several."""

Groups = dict[Label, Labels]


def _fraction_or_groups(given: Any) -> Any:
    if given is None or isinstance(given, Mapping | int | float) or _is_number(given):
        return given
    raise ValueError("expected a fraction from 0 to below 1, or groups by their column, such as {donor: [d1, d2]}")


def _is_number(text: Any) -> bool:
    try:
        return isinstance(text, str) and float(text) is not None
    except ValueError:
        return False


Part = Annotated[Fraction | Groups, BeforeValidator(_fraction_or_groups)]
"""A part of the samples."""


class SplitSpec(Strict):
    """Which samples are for testing and validation: fractions of every class, named groups, or folds."""

    test: Part | None = None
    """The test samples: a fraction of each class, or `{column: [groups]}`. By default 0.2, without `folds:`."""
    validation: Part = 0.15
    """The validation samples, in the same way: used to choose the temperature and the share of the logistic regression,
    and the epoch where the settings ask for it.
    """
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cross-validation with this number of folds, in place of `test:`."""
    by: Label | None = None
    """The column whose groups stay together in a fold; without it, folds are stratified by class."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the split."""

    @model_validator(mode="after")
    def _one_way(self) -> "SplitSpec":
        if self.folds is not None and self.test is not None:
            raise ValueError("give `test:` or `folds:`, one of the two; with folds every cell is tested once")
        if self.folds is None and self.by is not None:
            raise ValueError("`by:` names the column whose groups make folds; it needs `folds:`")
        if self.folds is not None and isinstance(self.validation, dict):
            raise ValueError("with `folds:`, `validation:` is a fraction")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns that it names."""
        parts = [part for part in (self.test, self.validation) if isinstance(part, dict)]
        return [name for part in parts for name in part] + ([] if self.by is None else [self.by])


class LearnerSpec(JobSpec):
    """A job that trains a learner.

    A learner's settings may stand under `settings` or beside the other keys.
    """

    runner: ClassVar[str] = "neurofleet.jobs.learners.learner_job:run_learner_job"
    planner: ClassVar[str] = "neurofleet.jobs.learners.learner_job:print_learner_plan"
    decisive_packages: ClassVar[tuple[str, ...]] = ("torch", "lightning", "scikit-learn")
    settings_model: ClassVar[type[BaseModel]]
    presets: ClassVar[dict[str, dict[str, Any]]]
    beside: ClassVar[tuple[str, ...]] = ("workers", "loggers")
    """Keys that results do not depend on."""

    layout_model: ClassVar[str | None] = None
    """``module:Class`` of the keys under `layout:`, where there is one."""

    data_keys: ClassVar[tuple[str, ...]] = ()
    """Keys with a list of files, where a pattern or one file may stand alone."""

    if TYPE_CHECKING:
        learner: str  # a literal of each learner, which declares it before its own keys
    preset: str = "default"
    """The named settings to start from."""
    settings: dict[str, Any] = {}
    """Changes of the preset's settings; they may also stand beside the other keys."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the training."""
    workers: Annotated[int, Field(ge=0)] | tuple[PositiveInt, PositiveInt] | None = None
    """Workers of a training: 0 is this process; a number, or `[least, most]`, on GPUs where there are any, else on
    CPUs. By default 0 on this machine and 1 on a cluster.
    """
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] | None = None
    """Number format of the training. By default `bf16-mixed` on GPUs that know it, and `32-true` elsewhere."""
    loggers: list[LoggerName] = ["tensorboard"]
    """Where the metrics of each epoch are logged besides the run's own tables: `tensorboard`, `csv`, `mlflow` (`pip
    install mlflow-skinny sqlalchemy alembic`) and `wandb`; see docs/how-to/loggers.md.
    """

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the job with the settings that stand beside its other keys moved under `settings`.

        A misspelt setting is moved as well: the fault is then reported with the nearest name of a setting.

        Raises
        ------
        UsageError
            A key of the layout stands beside it.
        """
        settings, fields = cls.settings_model.model_fields, cls.model_fields

        def is_setting(key: str) -> bool:
            unknown = key not in fields and key not in settings
            return (unknown and bool(did_you_mean(key, settings)) and not did_you_mean(key, fields)) or (
                key in settings and key not in fields
            )

        strange = [str(key) for key in content if key not in fields and key not in settings]
        if strange and cls.layout_model is not None:
            outside = [key for key in strange if key in named(cls.layout_model).model_fields]
            if outside:
                raise UsageError(f"{source}: {', '.join(outside)}: expected under `layout:`, found beside it.")
        job = {key: value for key, value in content.items() if not is_setting(str(key))}
        beside = {key: value for key, value in content.items() if is_setting(str(key))}
        job |= {key: expanded(job[key], folder) for key in cls.data_keys if key in job}
        inside = job.get("settings", {})
        return job | {"settings": inside | beside} if isinstance(inside, dict) else job

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str) -> str:
        if preset not in cls.presets:
            raise ValueError(f"expected one of {', '.join(cls.presets)}")
        return preset

    @field_validator("workers")
    @classmethod
    def _ascending(cls, workers: Any) -> Any:
        if isinstance(workers, tuple) and workers[0] > workers[1]:
            raise ValueError("expected the smallest and the largest number of workers, in this order")
        return workers

    @model_validator(mode="after")
    def _fitting_settings(self) -> "LearnerSpec":
        if told := self.faults_of(self.settings):
            raise ValueError(f"settings: {told}")
        return self

    def faults_of(self, settings: Mapping[str, Any]) -> str:
        """Return what is wrong with settings, changes of the preset's; nothing where they are right."""
        chosen = self.presets[self.preset] | dict(settings)
        try:
            self.settings_model(**chosen)
        except ValidationError as error:
            return faults(error, self.settings_model, content=chosen)
        return ""

    def with_settings(self, changes: Mapping[str, Any]) -> Self:
        """Return the job with some other settings, such as those that a sweep has found best."""
        return self.model_copy(update={"settings": self.settings | dict(changes)})

    quick_settings: ClassVar[dict[str, int]] = {}
    """Settings of a quick job, each a number that is lowered to this one where it is larger."""

    if TYPE_CHECKING:

        @property
        def chosen(self) -> Any: ...

    def quick_version(self) -> Self:
        """The job with the learner's `quick_settings`; a learner adds what else is less."""
        chosen = self.chosen
        lower = {key: most for key, most in self.quick_settings.items() if getattr(chosen, key) > most}
        return self.with_settings(lower)

    def files_named(self) -> list[str]:
        """Return all files that the job reads: paths, and URLs."""
        raise NotImplementedError

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return [Path(file) for file in self.files_named() if not is_url(file)]

    def urls_named(self) -> list[str]:
        """Return the URLs of all files elsewhere that the job reads."""
        return [file for file in self.files_named() if is_url(file)]

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on, without `beside`."""
        return {key: value for key, value in self.plain().items() if key not in self.beside}

    def workers_at(self, address: str | None) -> "Workers":
        """Return how many workers the job has: as many as it says, else one on a cluster and none here."""
        return self.workers if self.workers is not None else (1 if address else 0)


Workers = int | tuple[int, int]


def most_workers(workers: Workers) -> int:
    """Return how many workers there are at most."""
    return workers[1] if isinstance(workers, tuple) else workers


Metrics = dict[str, tuple[str, Literal["min", "max"]]]

_METRIC_WORDS = {"macro_f1": "macro-F1", "balanced_accuracy": "balanced accuracy", "r2": "R²"}


def metric_in_words(name: str) -> str:
    """Return what readers know a metric by that trials log: ``validation macro-F1`` for ``val_macro_f1``."""
    part, kind = ("training", name[6:]) if name.startswith("train_") else ("validation", name.removeprefix("val_"))
    return f"{part} {_METRIC_WORDS.get(kind, kind)}"


class TrialsSpec(Strict):
    """How many settings are tried, how they are drawn, when a trial ends early, and what it works with."""

    number: PositiveInt | None = None
    """How many settings are tried; not needed by `method: grid`."""
    method: Literal["random", "grid", "optuna"] = "random"
    """How settings are drawn: `random`, `grid` (all combinations) or `optuna`."""
    scheduler: Literal["none", "asha", "pbt"] = "none"
    """`asha` stops trials that are behind; `pbt` is population-based training."""
    grace_epochs: PositiveInt = 5
    """Of `asha`: epochs before a trial may be stopped."""
    reduction: Annotated[float, Field(gt=1)] = 3.0
    """Of `asha`: one in so many trials goes on at each of the epochs `grace_epochs * reduction ** k`."""
    perturb_epochs: PositiveInt = 4
    """Of `pbt`: epochs between two comparisons of the trials."""
    metric: str | None = None
    """What trials are compared by, on validation data; by default the learner's own."""
    repeats: PositiveInt = 1
    """Seeds of each setting. Without `search:`, repeats of one training."""
    cpus: Positive = 1.0
    """CPUs of a trial, or of each of its workers."""
    gpus: Annotated[float, Field(ge=0)] | None = None
    """GPUs of a trial, or of each of its workers; by default a quarter where there are any."""
    at_once: PositiveInt | None = None
    """The most trials that run at the same time; by default as many as there is room for."""
    time_limit_s: Positive | None = None
    """Seconds after which a trial is stopped."""


QUICK_TRIALS, QUICK_REPEATS = 4, 2
"""Of a quick sweep; repeats where nothing is searched."""


def _small_grid(search: Mapping[str, Any]) -> dict[str, Any]:
    """Return a grid of at most `QUICK_TRIALS` settings: the first values of the first parameters, one of all others."""
    small, room = {}, QUICK_TRIALS
    for name, values in search.items():
        listed = values["choice"] if isinstance(values, dict) else values
        if isinstance(listed, list | tuple):
            kept = list(listed[: max(min(room, 2), 1)])
            room //= len(kept)
            small[name] = kept
        else:
            small[name] = values
    return small


class SweepSpec(LearnerSpec):
    """A sweep of a learner: trainings with other settings; the best is trained again and kept.

    `workers` are those of each trial.
    """

    metrics: ClassVar[Metrics]
    """Name -> what a training logs, and whether less or more is better; the first is the default."""

    fixed_in_population: ClassVar[frozenset[str]]
    """Settings that give the network its shape, or its input: a trial cannot change them while it runs."""

    search: dict[str, Any] = {}
    """The settings to try: `{learning_rate: {log_uniform: [0.003, 0.05]}, n_steps: [1, 3]}`; also `uniform`, `integer`
    and `choice`.
    """
    trials: TrialsSpec = TrialsSpec()
    """How many settings are tried, how they are drawn, and when a trial ends early."""

    def quick_version(self) -> Self:
        """Few trials of a quick training, all to their end; what it fixes is not searched."""
        quick = super().quick_version()
        search = {key: values for key, values in self.search.items() if key not in self.quick_settings}
        if self.trials.method == "grid":
            search = _small_grid(search)
        few = {
            "scheduler": "none",
            "repeats": 1 if search else QUICK_REPEATS,
            "number": min(self.trials.number or QUICK_TRIALS, QUICK_TRIALS),
        }
        return quick.model_copy(update={"search": search, "trials": self.trials.model_copy(update=few)})

    @field_validator("search")
    @classmethod
    def _known_settings(cls, search: dict[str, Any]) -> dict[str, Any]:
        known = cls.settings_model.model_fields
        unknown = [f"{key}{did_you_mean(key, known)}" for key in search if key not in known]
        if unknown:
            raise ValueError(f"no settings of the learner: {', '.join(unknown)}")
        return search

    @model_validator(mode="after")
    def _something_to_try(self) -> "SweepSpec":
        if not self.search and self.trials.repeats == 1:
            raise ValueError("name what to try under `search:`, or `trials: {repeats: N}` for N seeds of one setting")
        if self.search and self.trials.method != "grid" and self.trials.number is None:
            raise ValueError(f"trials: method {self.trials.method} needs `number:`, how many settings to try")
        if self.trials.metric is not None and self.trials.metric not in self.metrics:
            raise ValueError(f"trials: metric: expected one of {', '.join(self.metrics)}, found {self.trials.metric!r}")
        return self

    @model_validator(mode="after")
    def _possible_trials(self) -> "SweepSpec":
        """Check the values that are searched as the settings that they will be."""
        try:
            space = parse_space(self.search)
            if self.trials.method == "grid":
                space.grid()
        except SearchSpaceRefused as error:
            raise ValueError("; ".join(str(error).splitlines())) from None
        told = [line for name in self.search for line in self._faults_of_values(name, space.tested_values(name))]
        if told:
            raise ValueError("; ".join(told))
        for parameters in space.tested():
            if fault := self.faults_of_trial({**self.settings, **parameters}):
                chosen = ", ".join(f"{name} {shown(value)}" for name, value in parameters.items())
                raise ValueError(f"search: with {chosen}: {fault}. Leave out what does not go together")
        fixed = sorted(self.fixed_in_population & space.dimensions.keys())
        if self.trials.scheduler == "pbt" and fixed:
            raise ValueError(
                f"search: scheduler pbt changes settings of a network while it trains, and {', '.join(fixed)} cannot"
                " change then; search these with asha, or with no scheduler"
            )
        return self

    def _faults_of_values(self, name: str, values: Iterable[Any]) -> list[str]:
        """Return what is wrong with values of a setting, whatever the others are."""
        lines = []
        for value in values:
            chosen = {**self.presets[self.preset], **self.settings, name: value}
            try:
                self.settings_model(**chosen)
            except ValidationError as error:
                if any(fault["loc"][:1] == (name,) for fault in error.errors()):
                    lines.append(f"search.{faults(error, self.settings_model, content=chosen)}")
        if lines and isinstance(self.search[name], dict) and "a whole number" in lines[0]:
            return [f"{lines[0]}; `integer: [lowest, highest]` draws whole numbers"]
        return lines

    def faults_of_trial(self, settings: Mapping[str, Any]) -> str:
        """Return why a trial with these settings, changes of the preset's, could not be trained; nothing if it can."""
        return self.faults_of(settings)

    @property
    def metric(self) -> tuple[str, Literal["min", "max"]]:
        """What trials are compared by: the name that a training logs, and whether less or more is better."""
        return self.metrics[self.trials.metric or next(iter(self.metrics))]
