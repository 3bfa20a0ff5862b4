"""Published models: folders and URLs with an index, from which a model is found by NAME@VERSION, copied and checked.

A place is a folder, a web server without any program, an object store (``s3://`` …) or a repository of Hugging Face
(``hf://ORG/NAME``). It holds ``index.json`` and a folder ``NAME/VERSION`` a model; or it is the folder of one model,
with an index of its own. Nothing that an index says is a path: names, versions and files have fixed forms.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import reprlib
import secrets
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from neurofleet.cache import cache_folder, keep_small, locked, used
from neurofleet.errors import InputError, NeurofleetError, UsageError, did_you_mean
from neurofleet.input_paths import LOCAL_SCHEMES, REMOTE_SCHEMES, is_url, local_copy, shown, with_home
from neurofleet.learners.model_folder import DESCRIPTION, TENSORS, ModelRefused

PLACES = "NEUROFLEET_MODELS"
"""Variable of the environment: where published models are, folders and URLs, separated by commas."""

INDEX, CARD = "index.json", "README.md"
FILES = (DESCRIPTION, TENSORS, CARD)
"""Files of a published model, beside its own index."""

FORMAT, FORMAT_VERSION = "neurofleet models", 1
DEEPEST_ABOUT = 20
LARGEST_INDEX_BYTES = 32_000_000
LARGEST_MODEL_BYTES = 8_000_000_000

HUGGING_FACE = "HF_ENDPOINT"
"""Variable of the environment, of all programs that use Hugging Face: another address of it, such as a mirror."""

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME, _VERSION, _SHA256 = re.compile(NAME), re.compile(r"[0-9][A-Za-z0-9.+-]{0,31}"), re.compile("[0-9a-f]{64}")
_NAMED = re.compile(rf"({NAME})(?:@(.*))?")
_REPOSITORY = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/*")


def checked_name(text: str) -> str:
    """Return a name of a model; raise ValueError where it cannot be one."""
    if not _NAME.fullmatch(text):
        raise ValueError("a name has letters, digits, dots, dashes and underscores, and starts with a letter or digit")
    return text


def checked_version(text: str) -> str:
    """Return a version of a model; raise ValueError where it cannot be one."""
    try:
        Version(text)
    except InvalidVersion:
        raise ValueError("a version is a number such as 1, 1.2 or 2024.5") from None
    if not _VERSION.fullmatch(text):
        raise ValueError("a version starts with a digit")
    return text


def _is_sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("a SHA-256 has 64 digits 0-9, a-f")
    return text


def _is_file(name: str) -> str:
    if name not in FILES:
        raise ValueError(f"a published model has the files {', '.join(FILES)} and no others")
    return name


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, parts), default=0)


def _not_too_deep(about: dict[str, Any]) -> dict[str, Any]:
    if _depth(about) > DEEPEST_ABOUT:
        raise ValueError("it is nested too deeply")
    return about


class PublishedFile(BaseModel):
    """A file of a published model."""

    sha256: Annotated[str, AfterValidator(_is_sha256)]
    bytes: Annotated[int, Field(ge=0, lt=2**63)]


class PublishedModel(BaseModel):
    """An entry of an index.

    Attributes
    ----------
    name, version : str
    folder : str
        Where its files are, from the index on: ``NAME/VERSION``, or nothing where the index is in the folder.
    files : dict of PublishedFile
        By name; nothing else of the folder is read.
    learner : str
    run : str
        Fingerprint of the training.
    published : str
        When, UTC.
    about : dict
        What the card says, see `neurofleet.learners.model_card.about_model`.
    """

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, AfterValidator(checked_name)]
    version: Annotated[str, AfterValidator(checked_version)]
    folder: str = ""
    files: dict[Annotated[str, AfterValidator(_is_file)], PublishedFile]
    learner: str
    run: str = ""
    published: str = ""
    about: Annotated[dict[str, Any], AfterValidator(_not_too_deep)] = {}

    @model_validator(mode="after")
    def _folder_is_its_own(self) -> PublishedModel:
        if self.folder not in ("", f"{self.name}/{self.version}"):
            raise ValueError("the folder is NAME/VERSION, or nothing")
        if not {DESCRIPTION, TENSORS} <= self.files.keys():
            raise ValueError(f"{DESCRIPTION} and {TENSORS} are needed")
        return self

    @property
    def title(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.bytes for file in self.files.values())

    @property
    def age(self) -> Version:
        """By which versions are ordered."""
        return Version(self.version)


def read_index(content: bytes, where: str) -> list[PublishedModel]:
    """Return the entries of an index, checked.

    Raises
    ------
    ModelRefused
        Saying what is wrong with it.
    """
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelRefused(f"{where}: {INDEX} cannot be read as JSON ({error}).") from None
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise ModelRefused(f"{where}: {INDEX} is of another program; expected what `neurofleet publish` writes.")
    if told.get("version") != FORMAT_VERSION:
        raise ModelRefused(
            f"{where}: {INDEX} is of version {told.get('version')!r}; this neurofleet reads version {FORMAT_VERSION}."
            " Use a newer neurofleet."
        )
    try:
        models = [PublishedModel.model_validate(entry) for entry in told["models"]]
        index_text(models)  # of what is no text, no copy could be written
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ModelRefused(
            f"{where}: {INDEX} is damaged, or not to be trusted; nothing of it is read. The first entry that is wrong:"
            f" {'.'.join(map(str, wrong['loc'])) or 'entry'}: {wrong['msg']}, found {reprlib.repr(wrong['input'])}."
        ) from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{where}: {INDEX} is damaged ({type(error).__name__}: {error}).") from None
    return models


def index_text(models: Iterable[PublishedModel]) -> bytes:
    """Return an index, by name and version."""
    ordered = sorted(models, key=lambda model: (model.name.casefold(), model.name, model.age))
    told = {"format": FORMAT, "version": FORMAT_VERSION, "models": [model.model_dump() for model in ordered]}
    return json.dumps(told, indent=1, ensure_ascii=False).encode()


def configured_places() -> list[str]:
    """Return where published models are, by `PLACES`."""
    return [place for part in os.environ.get(PLACES, "").split(",") if (place := part.strip())]


def models_at(place: str) -> list[PublishedModel]:
    """Return the models of a place, by name and version.

    Raises
    ------
    ModelRefused, InputError, DownloadError
        There is no index, it cannot be used, or the server does not answer and there is no copy.
    """
    base = _base(place)
    if isinstance(base, Path):
        if not base.is_dir():
            raise ModelRefused(f"There is no folder {base}; expected one with {INDEX}, as `neurofleet publish` writes.")
        path = base / INDEX
        if not path.is_file():
            raise ModelRefused(
                f"{base} holds no {INDEX}, and so no published models. `neurofleet publish MODEL {base}` begins one."
            )
    else:
        try:
            path = local_copy(_below(base, INDEX), LARGEST_INDEX_BYTES)
        except InputError as error:
            raise ModelRefused(f"{shown(place)} has no {INDEX} that can be read: {error}") from error
    if path.stat().st_size > LARGEST_INDEX_BYTES:
        raise ModelRefused(f"{shown(place)}: {INDEX} has more than {LARGEST_INDEX_BYTES:,} bytes. It is not read.")
    return read_index(path.read_bytes(), shown(place))


def published_folder(place: str, model: PublishedModel) -> Path:
    """Return the folder of a model, each file checked: where it is, or its copy in the cache of this machine.

    Raises
    ------
    ModelRefused
        A file is not the one of the index, or the model is too large.
    InputError, DownloadError
        A file cannot be had.
    """
    base = _base(place)
    if isinstance(base, Path):
        _check(base / model.folder, model, shown(place))
        return base / model.folder
    if model.bytes > LARGEST_MODEL_BYTES:
        raise ModelRefused(
            f"{shown(place)}: {model.title} has {model.bytes:,} bytes; at most {LARGEST_MODEL_BYTES:,} are copied."
        )
    entry = cache_folder() / "models" / _key(model)
    folder = entry / model.title
    entry.parent.mkdir(parents=True, exist_ok=True)
    with locked(entry.with_name(f".{entry.name}.lock")):
        if not _is_whole(folder, model):
            _copy(base, place, model, folder)
        (entry / _place_key(place)).write_bytes(index_text([model]))
    used(entry)
    keep_small()
    return folder


def _copy(base: str, place: str, model: PublishedModel, folder: Path) -> None:
    """Copy the files of a model into a folder that is there once all are whole."""
    shutil.rmtree(folder, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    print(f"{model.title}: copying {model.bytes / 1e6:,.1f} MB from {shown(place)}", file=sys.stderr, flush=True)
    try:
        for name, file in model.files.items():
            copy = local_copy(_below(_below(base, model.folder) if model.folder else base, name), file.bytes)
            shutil.move(copy, partial / name)
        _check(partial, model, shown(place))
        (partial / INDEX).write_bytes(index_text([model.model_copy(update={"folder": ""})]))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(folder: Path, model: PublishedModel, where: str) -> None:
    """Refuse files that are not those of the index."""
    for name, file in model.files.items():
        try:
            content = (folder / name).stat().st_size, sha256_of(folder / name)
        except OSError as error:
            raise ModelRefused(f"{where}: {name} of {model.title} cannot be read ({error.strerror}).") from None
        if content != (file.bytes, file.sha256):
            raise ModelRefused(
                f"{where}: {name} of {model.title} is not the file of the index (its checksum or size differs), and is"
                " not used. It was changed or damaged after it was published; have it published again."
            )


def _is_whole(folder: Path, model: PublishedModel) -> bool:
    try:
        _check(folder, model, "")
    except ModelRefused:
        return False
    return True


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_model(model: str | Path) -> Path:
    """Return the folder of a model: its path as it is; or one that is published, by its name or URL.

    Parameters
    ----------
    model : str or path
        A folder; ``NAME@VERSION`` or ``NAME``, the newest version, of the places in `PLACES`; or a folder or URL that
        holds versions of one published model, such as ``hf://ORG/NAME``.

    Raises
    ------
    ModelRefused
        There is no such model, or it cannot be used.
    """
    text = str(model)
    path = with_home(text)
    if is_url(text) or (path.is_dir() and (path / INDEX).is_file() and not (path / DESCRIPTION).is_file()):
        return _only_model(text)
    if path.is_dir() and not (path / DESCRIPTION).is_file() and (models := _models_below(path)):
        known = ", ".join(models[:10]) + (f" and {len(models) - 10} more" if len(models) > 10 else "")
        raise ModelRefused(f"{text} holds models and is none: {known}. Name one of these folders.")
    match = _NAMED.fullmatch(text)
    if path.exists() or match is None:
        return path
    name, version = match[1], match[2]
    places = configured_places()
    if not places:
        if version is None:
            return path
        raise ModelRefused(
            f"There is no folder {text}, and {PLACES} names no places of published models. Set it to folders or URLs,"
            f" such as {PLACES}=/lab/models,https://HOST/models."
        )
    place, found = _named(name, version, places)
    if version is None:
        _told(f"{name}: {found.title}, the newest version, of {shown(place)}")
    return published_folder(place, found)


def _models_below(folder: Path) -> list[str]:
    """Return the folders of models up to two levels below a folder, with NAME@VERSION of published ones."""
    files = [*folder.glob(f"*/{DESCRIPTION}"), *folder.glob(f"*/*/{DESCRIPTION}")]
    below = sorted(file.parent for file in files)
    titles = {model: title_of(model) for model in below}
    return [f"{model} ({title})" if title != model.name else str(model) for model, title in titles.items()]


def title_of(folder: Path) -> str:
    """Return what a model's folder is called: NAME@VERSION of a published one, else its own name."""
    try:
        (model,) = read_index((folder / INDEX).read_bytes(), str(folder))
    except (OSError, ValueError, NeurofleetError):
        return folder.resolve().name
    return model.title


def _only_model(place: str) -> Path:
    models = models_at(place)
    names = sorted({model.name for model in models})
    if len(names) != 1:
        titles = ", ".join(model.title for model in models[:10]) or "none"
        raise ModelRefused(
            f"{shown(place)}: expected one published model, found {titles}. Set {PLACES}={shown(place)}, and name one."
        )
    newest = max(models, key=lambda model: model.age)
    if len(models) > 1:
        _told(f"{shown(place)}: {newest.title}, the newest version")
    return published_folder(place, newest)


def _named(name: str, version: str | None, places: Sequence[str]) -> tuple[str, PublishedModel]:
    """Return a model and its place; of several places that have the same version, the first."""
    known: list[tuple[str, PublishedModel]] = []
    faults: list[str] = []
    for place in places:
        if version is not None and (kept := _kept(place, name, version)) is not None:
            known.append((place, kept))  # a version does not change: no server is asked
            break
        try:
            models = models_at(place)
        except NeurofleetError as error:
            faults.append(str(error))
            continue
        known += [(place, model) for model in models]
        if version is not None and any(model.title == f"{name}@{version}" for model in models):
            break
    asked = [each for each in known if each[1].name == name and version in (None, each[1].version)]
    if asked:
        for fault in faults:
            _told(fault)
        place, model = max(asked, key=lambda each: each[1].age)  # of equal ones the first
        return place, model
    versions = sorted({model.age: model.version for _, model in known if model.name == name}.items())
    if versions:
        raise ModelRefused(
            f"There is no {name}@{version}{did_you_mean(str(version), [text for _, text in versions])}. Published"
            f" of {name}: {', '.join(text for _, text in versions)}."
        )
    names = sorted({model.name for _, model in known})
    raise ModelRefused(
        f"There is no folder {name if version is None else f'{name}@{version}'}, and no published model is called"
        f" {name}{did_you_mean(name, names)}. `neurofleet models` lists those of {', '.join(map(shown, places))}:"
        f" {', '.join(names[:10]) or 'none'}.{''.join(f' {fault}' for fault in faults)}"
    )


def _kept(place: str, name: str, version: str) -> PublishedModel | None:
    """Return what is known of a model of a URL whose copy is in the cache."""
    if isinstance(_base(place), Path):
        return None
    for path in (cache_folder() / "models").glob(f"*/{_place_key(place)}"):
        try:
            (model,) = read_index(path.read_bytes(), str(path))
        except (OSError, ValueError, NeurofleetError):
            continue
        if model.title == f"{name}@{version}" and (path.parent / model.title).is_dir():
            return model
    return None


def _key(model: PublishedModel) -> str:
    content = json.dumps([model.title, {name: file.sha256 for name, file in sorted(model.files.items())}])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _place_key(place: str) -> str:
    return f"at-{hashlib.sha256(str(_base(place)).encode()).hexdigest()[:16]}.json"


def _base(place: str) -> Path | str:
    """Return a place as a folder of this machine, or as the URL below which its files are.

    Raises
    ------
    UsageError
        It is neither.
    """
    if not is_url(place):
        return with_home(place)
    scheme = urlsplit(place).scheme.lower()
    if scheme in LOCAL_SCHEMES:
        return local_copy(place)
    if scheme == "hf":
        match = _REPOSITORY.fullmatch(place)
        if match is None:
            raise UsageError(f"{shown(place)}: expected hf://ORG/NAME, or hf://ORG/NAME@REVISION.")
        return f"{_hugging_face()}/{match[1]}/resolve/{match[2] or 'main'}"
    if scheme not in REMOTE_SCHEMES:
        schemes = ", ".join(f"{each}://" for each in ("hf", *REMOTE_SCHEMES))
        raise UsageError(f"{shown(place)}: expected a folder, or a URL of {schemes}.")
    start, sign, query = place.partition("?")
    start = start.rstrip("/").removesuffix(f"/{INDEX}")
    if re.fullmatch(re.escape(_hugging_face()) + r"/[\w.-]+/[\w.-]+", start):
        start += "/resolve/main"
    return f"{start}{sign}{query}"


def _hugging_face() -> str:
    return (os.environ.get(HUGGING_FACE) or "https://huggingface.co").rstrip("/")


def _below(url: str, name: str) -> str:
    start, sign, query = url.partition("?")
    return f"{start.rstrip('/')}/{name}{sign}{query}"


def _told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
