"""Job files: what all kinds have in common, and all faults of a file at once."""

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from neurofleet.errors import UsageError, did_you_mean
from neurofleet.faults import SECRET_VALUE, faults, shown
from neurofleet.input_paths import is_url, is_web_address, matching, text_of, with_home
from neurofleet.jobs.learners import LEARNER_JOB_KINDS, specs_of
from neurofleet.yaml_files import read_yaml, read_yaml_file

LONGEST_NAME = 128
"""Names become names of files and folders, which may have 255 bytes with what is added."""


def _whole_number_as_text(given: Any) -> Any:
    return str(given) if isinstance(given, int) and not isinstance(given, bool) else given


def _number_as_text(given: Any) -> Any:
    return str(given) if isinstance(given, bool | int | float) else given


def _usable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError("expected letters, digits, `.`, `_` and `-`, the first a letter or a digit")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"expected at most {LONGEST_NAME} characters")
    return name


def _web_address(given: Any) -> str:
    if not isinstance(given, str) or not is_web_address(given):
        raise PydanticCustomError(
            SECRET_VALUE,
            "expected a URL, http:// or https://; a command is given with --notify or NEUROFLEET_NOTIFY, never in a"
            " job file",
        )
    return given


Name = Annotated[
    str, BeforeValidator(_whole_number_as_text, json_schema_input_type=str | int), AfterValidator(_usable_name)
]
"""What files are named after. A whole number is taken as text."""

Label = Annotated[str, BeforeValidator(_number_as_text, json_schema_input_type=str | bool | int | float)]
"""A class, a group or a column of a user's data. What YAML takes for a number is text here."""

PositiveInt = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
KINDS: dict[str, str | dict[str, str]] = {
    "fit": "neurofleet.jobs.fit.fit_job:FitSpec",
    **{kind: specs_of(kind) for kind in LEARNER_JOB_KINDS},
    "validate": "neurofleet.jobs.studies.validation:ValidateSpec",
    "sensitivity": "neurofleet.jobs.studies.sensitivity:SensitivitySpec",
    "synapse": "neurofleet.jobs.studies.synapses:SynapseSpec",
    "sample": "neurofleet.jobs.studies.sampling:SampleSpec",
    "posterior": "neurofleet.jobs.studies.posterior:PosteriorSpec",
    "compare": "neurofleet.jobs.studies.comparison:CompareSpec",
    "analyse": "neurofleet.jobs.studies.analysis_inputs:AnalyseSpec",
}
"""The kinds of jobs, and where their keys are declared: one place, or one for each learner."""


def _path_or_url(given: Any) -> Any:
    return text_of(given) if isinstance(given, str | Path) else given


INPUT = object()
"""Marks the fields of a job that name files; see `inputs_in`."""

LocalPath = Annotated[Path, AfterValidator(with_home), INPUT]
"""A path; ``~`` is the home folder."""

RecipeName = Annotated[str, AfterValidator(lambda name: text_of(name) if name.startswith("~") else name), INPUT]
"""A built-in recipe, or the path of a file."""

DataPath = Annotated[str, BeforeValidator(_path_or_url), INPUT]
"""A path, or the URL of a file that is elsewhere; see `neurofleet.input_paths`."""


def expanded(given: Any, folder: Path) -> Any:
    """Return a list of paths with patterns replaced by what they match in `folder`; anything else as it is."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(path, str) for path in given):
        return given
    return [match for path in given for match in matching(path, folder)]


class Strict(BaseModel):
    """A part of a job file; keys that it does not know are faults.

    The docstring below a key is its description: `neurofleet.jobs.job_schema`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _lists_without_brackets(cls, given: Any) -> Any:
        """``stimuli: IDrest, IV`` is the list of both."""
        if not isinstance(given, dict):
            return given
        return {key: _as_list(value, cls.model_fields.get(key)) for key, value in given.items()}


def _as_list(value: Any, field: FieldInfo | None) -> Any:
    item = None if field is None else _item_of(field.annotation)
    if item is None or INPUT in getattr(item, "__metadata__", ()):
        return value
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _item_of(annotation: Any) -> Any:
    """Return what a list has in it, None where an annotation is no list, or also something else."""
    if get_origin(annotation) is Annotated:
        return _item_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        lists = [_item_of(part) for part in get_args(annotation) if part is not NoneType]
        return lists[0] if len(lists) == 1 else None
    return get_args(annotation)[0] if get_origin(annotation) is list else None


def inputs_in(part: BaseModel) -> Iterator[tuple[tuple, str]]:
    """Yield each path that a job, or a part of one, names: the keys that lead to it, and the path or URL."""
    for name, field in type(part).model_fields.items():
        named = INPUT in field.metadata or _is_input(field.annotation)
        for place, value in _leaves(getattr(part, name), (name,)):
            if isinstance(value, BaseModel):
                yield from (((*place, *inner), path) for inner, path in inputs_in(value))
            elif named and value is not None:
                yield place, str(value)


def _is_input(annotation: Any) -> bool:
    return INPUT in getattr(annotation, "__metadata__", ()) or any(map(_is_input, get_args(annotation)))


def _leaves(value: Any, place: tuple) -> Iterator[tuple[tuple, Any]]:
    """Yield what lists and mappings hold, however deep, with its place."""
    if isinstance(value, Mapping | list | tuple):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in parts:
            yield from _leaves(part, (*place, key))
    else:
        yield place, value


class JobSpec(Strict):
    """A job of some kind.

    `files` are what a job's own code reads, such as that of an `evaluator`: they are sent along with it, and the run
    can be resumed only with the same content. `quick` asks for a first picture, with the budgets of `quick_version`.
    """

    decisive_packages: ClassVar[tuple[str, ...]] = ()
    """A run is resumed only with the same versions of these: results depend on them."""

    runner: ClassVar[str]
    """What runs such a job, ``module:function``."""

    planner: ClassVar[str]
    """What prints its plan."""

    checker: ClassVar[str | None] = None
    """What refuses it, before it is sent to a cluster, for what is wrong whatever its data are."""

    kind: str
    """The kind of job."""
    name: Name
    """The name of the job in logs, lists and on a cluster; by default that of the job file."""
    out: str | None = None
    """The run folder, where `--out` is not given; relative to the job file."""
    files: Annotated[list[LocalPath], Field(min_length=1)] | None = None
    """What the job's own code reads, such as that of an `evaluator:`; patterns are expanded. The files are sent along
    with the job, and the run is resumed only with the same content.
    """
    notify: Annotated[str, BeforeValidator(_web_address)] | None = None
    """A URL that gets a message (JSON, with `text` as Slack takes it) when the run ends, fails or is interrupted; see
    docs/how-to/loggers.md. It is not stored with the run.
    """
    quick: bool = False
    """Whether this is a first picture from small budgets; `--quick` sets it."""
    _reduced: tuple[str, ...] = PrivateAttr(())

    def quick_version(self) -> Self:
        """Return the job with budgets for a first picture: about two minutes on two cores, or less.

        A kind of job declares these budgets here and nowhere else. They only ever shrink what the job has, and the
        quick version of a quick version is the same: a stored job is read again.
        """
        raise UsageError(f"--quick: jobs of kind {self.kind} have no quick version; run {self.name} without it.")

    @property
    def reduced(self) -> tuple[str, ...]:
        """What a quick job has less of than the job file says; nothing is known of one that was stored."""
        return self._reduced

    @classmethod
    def completed(cls, content: dict[str, Any], folder: Path, source: str) -> dict[str, Any]:
        """Return the content of a job file with what it refers to read, relative to `folder`."""
        return content

    def plain(self) -> dict[str, Any]:
        """Return the job as it is kept in its run folder; where results and messages go is no part of it."""
        left_out = {"out", "notify"} if self.quick else {"out", "notify", "quick"}
        plain = self.model_dump(mode="json", exclude_none=True, exclude=left_out)
        # What is unset stays out; null in place of another default is a choice.
        nulls = [key for key, field in type(self).model_fields.items() if field.default is not None]
        return plain | {key: None for key in nulls if getattr(self, key) is None}

    def paths_named(self) -> list[Path]:
        """Return all paths that the job reads."""
        return []

    def urls_named(self) -> list[str]:
        """Return the URLs of all files elsewhere that the job reads."""
        return [path for _, path in inputs_in(self) if is_url(path)]

    def identity(self) -> dict[str, Any]:
        """Return what the results depend on."""
        return self.plain()


def load_job(path: Path, quick: bool = False) -> JobSpec:
    """Return the job in a file; with `quick`, its quick version.

    Raises
    ------
    UsageError
        When the file is missing, is no YAML, or has faults: all of them, with the nearest known keys.
    """
    content = read_yaml_file(path)
    if quick and isinstance(content, dict):
        content = content | {"quick": True}
    return _job_of(content, str(path), path.stem, path.resolve().parent)


def parse_job(text: str, source: str, default_name: str, folder: Path = Path()) -> Any:
    """Return the job described by YAML `text`; `source` names it in errors.

    What it refers to, such as a table of cells, is looked for relative to `folder`.
    """
    return _job_of(read_yaml(text, source), source, default_name, folder)


def _job_of(content: Any, source: str, default_name: str, folder: Path) -> Any:
    if not isinstance(content, dict):
        raise UsageError(f"{source}: expected keys such as `kind: fit` and `cells:`, found {shown(content)}.")
    return check_job(content, source, default_name, folder)


def check_job(content: dict[str, Any], source: str, default_name: str, folder: Path = Path()) -> Any:
    """Return the job with these keys and values, as `parse_job` does."""
    place: Any = _chosen(KINDS, "kind", content.get("kind", "fit"), source)
    if isinstance(place, dict):
        place = _chosen(place, "learner", content.get("learner"), source)
    model = named(place)
    if strange := [key for key in content if not isinstance(key, str)]:
        raise UsageError(f"{source}: expected keys that are words, found {', '.join(map(shown, strange))}.")
    content = {"name": _as_name(default_name), **content}
    if "files" in content:
        content["files"] = expanded(content["files"], folder)
    content = model.completed(content, folder, source)
    try:
        spec = model.model_validate(content)
    except ValidationError as error:
        told = faults(error, model, content=content)
        nameless = any("unknown key" in part and "did you mean" not in part for part in told.split("; "))
        keys = f" `neurofleet schema {content.get('kind', 'fit')}` lists the keys." if nameless else ""
        raise UsageError(f"{source}: {told}.{keys}") from error
    if not spec.quick:
        return spec
    quick = spec.quick_version()
    lines = differences(spec.plain(), quick.plain(), "{place}: {now} in place of {before}")
    quick._reduced = tuple(line.replace("in place of nothing", "in place of the default") for line in lines)
    return quick


def differences(before: Any, now: Any, told: str = "{place} was {before}, is {now}", place: str = "") -> list[str]:
    """Return one line for each key whose value differs, as `told` words it."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*before, *now]))
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), told, f"{place}.{key}".lstrip("."))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            line
            for i, (b, n) in enumerate(zip(before, now, strict=True))
            for line in differences(b, n, told, f"{place}, value {i + 1}")
        ]
    return [] if before == now else [told.format(place=place, before=shown(before), now=shown(now))]


def _as_name(text: str) -> str:
    """Return a file's name as the name of a job."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:LONGEST_NAME] or "job"


def named(place: str) -> Any:
    """Return what stands at ``module:name``."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def _chosen(places: dict[str, Any], key: str, found: Any, source: str) -> Any:
    if not isinstance(found, str) or found not in places:
        told = "nothing" if found is None else f"{shown(found)}{did_you_mean(str(found)[:80], places)}"
        raise UsageError(f"{source}: {key}: expected one of {', '.join(places)}, found {told}.")
    return places[found]
