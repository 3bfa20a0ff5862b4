"""``neurofleet publish``: a trained model for others, with a card and an entry in the index of a folder or bucket."""

import fcntl
import json
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from neurofleet.cluster.store.folders import LocalFolder, RemoteFolder, open_folder, refused
from neurofleet.cluster.store.lease import shared_object
from neurofleet.cluster.store.lease_object import Changed, Seen
from neurofleet.errors import JobError, UsageError
from neurofleet.input_paths import is_url, name_of, shown
from neurofleet.jobs.terminal import print_json, terminal
from neurofleet.learners.model_card import about_model, by_name, card_text, checked_licence
from neurofleet.learners.model_folder import DESCRIPTION, QUICK, TENSORS, StoredModel, model_files, read_model
from neurofleet.learners.published_models import (
    CARD,
    INDEX,
    PLACES,
    PublishedFile,
    PublishedModel,
    checked_name,
    checked_version,
    index_text,
    local_model,
    read_index,
)

LOCK = ".index.lock"
HASHES = "trained_units.hashes"
"""Tensor of a HIPPIE model: fingerprints of the units that it was trained on."""

SPLIT_FACTS = ("fingerprint", "cells", "n", "seeds")
"""What is published of a split, beside how it was made in a word: its groups are named after donors or animals."""

TRIES = 50
"""How often the index is read again where others publish at the same time."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stated:
    """What a publisher says of a model; where nothing is said, the card says that."""

    licence: str = ""
    authors: Sequence[str] = ()
    description: str = ""
    species: str = ""
    technology: str = ""


class VersionTaken(UsageError):
    """Another model has this name and version."""


def publish_command(
    model: str, to: str, name: str | None, version: str | None, stated: Stated, as_json: bool = False
) -> PublishedModel:
    """Write a model, its card and its entry in the index of a folder or bucket.

    Parameters
    ----------
    model : str
        Its folder, or what `local_model` finds.
    to : str
        A folder, or a URI of `pyarrow.fs`.
    name : str, optional
        By default that of the training job, else of the folder.
    version : str, optional
        By default the first whole number that is free; the same model is not published twice with the same words.

    Returns
    -------
    PublishedModel
        The entry.

    Raises
    ------
    ModelRefused
        The model or the index cannot be used.
    VersionTaken
        Another model has this name and version.
    """
    folder = local_model(model)
    stored = read_model(folder)
    if is_url(to) and urlsplit(to).scheme.lower() in ("http", "https", "hf"):
        raise UsageError(
            f"{shown(to)}: publish writes into a folder or a bucket (s3://bucket/folder). For a web server, publish"
            " into the folder that it serves; for Hugging Face, push the folder NAME/VERSION that publish writes."
        )
    own_name = stored.description.get("facts", {}).get("name") or folder.resolve().name
    try:
        name = checked_name(name or str(own_name).partition("@")[0])
    except ValueError as error:
        raise UsageError(f"{name or own_name}: {error}. Give another --name.") from None
    try:
        version = None if version is None else checked_version(version)
    except ValueError as error:
        raise UsageError(f"{name}@{version}: {error}. Give another --version, or leave it out.") from None
    if stated.licence:
        try:
            stated = replace(stated, licence=checked_licence(stated.licence))
        except ValueError as error:
            raise UsageError(f"--licence: {error}.") from None
    if quick := stored.description.get("facts", {}).get(QUICK):
        terminal(errors=True, warnings=True).print(f"warning: {quick}", soft_wrap=True)
    opened = open_folder(to)
    place: _FolderPlace | _BucketPlace
    place = _FolderPlace(opened) if isinstance(opened, LocalFolder) else _BucketPlace(cast(RemoteFolder, opened))
    entry, is_new = _publish(place, stored, name, version, stated)
    if as_json:
        print_json({"title": entry.title, "place": shown(to), "new": is_new} | entry.model_dump())
    else:
        _print(entry, shown(to), is_new, stated)
    if place.note:
        terminal(errors=True, warnings=True).print(place.note, soft_wrap=True)
    return entry


def _publish(
    place: "_FolderPlace | _BucketPlace", stored: StoredModel, name: str, version: str | None, stated: Stated
) -> tuple[PublishedModel, bool]:
    """Return the entry of a model in the index, and whether it was not there before."""
    taken: set[int] = set()
    with place.locked():
        for _ in range(TRIES):
            models, seen = place.index()
            named = {model.version: model for model in models if model.name == name}
            for known in [version] if version else sorted(named, key=lambda each: named[each].age, reverse=True):
                if known in named and (version or named[known].run == stored.run):
                    entry, _ = _published(stored, name, known, stated)
                    same = set(entry.files) if version or any(asdict(stated).values()) else {TENSORS}
                    if all(entry.files[each] == named[known].files.get(each) for each in same):
                        return named[known], False
                    if version:
                        raise _taken(entry, named[known])
            chosen = version or str(max([0, *taken, *(model.age.major for model in named.values())]) + 1)
            entry, files = _published(stored, name, chosen, stated)
            try:
                place.write(entry, files)
                place.write_index([*models, entry], seen)
            except VersionTaken:
                if version:
                    raise
                taken.add(int(chosen))  # by one who has not written the index yet
            except Changed:
                continue
            else:
                return entry, True
    raise JobError(f"{place.root}: {INDEX} is changed by others all the time. Give the same command again later.")


def _published(stored: StoredModel, name: str, version: str, stated: Stated) -> tuple[PublishedModel, dict[str, bytes]]:
    """Return the entry of a model, and its files, without what tells of single cells and predicts nothing."""
    description, tensors = dict(stored.description), dict(stored.tensors)
    facts = dict(description.get("facts") or {})
    data, split = dict(facts.get("data") or {}), facts.get("split")
    data.pop("query", None)
    if "sha256" in data:
        data["sha256"] = by_name(_of_training(data))
    if animals := data.pop("animals", None):
        data["n_animals"] = len(animals)
    facts |= {"name": f"{name}@{version}", "data": data, "notes": []}
    if isinstance(split, dict):
        kept = (*SPLIT_FACTS, "how") if isinstance(split.get("how"), str) else SPLIT_FACTS
        facts["split"] = {key: split[key] for key in kept if key in split}
    description["facts"] = facts
    if stored.learner == "neuprint":
        description["neuron_ids"], tensors["phi"] = [], tensors["phi"][:0]
    tensors.pop("known_cells", None)
    if HASHES in tensors:
        tensors[HASHES] = tensors[HASHES][:0]
    files = model_files(learner=stored.learner, run=stored.run, description=description, tensors=tensors)
    head = json.loads(files[DESCRIPTION])
    about = about_model(head, asdict(stated) | {"authors": list(stated.authors)})
    files[CARD] = card_text(stored.learner, f"{name}@{version}", about, name).encode()
    entry = PublishedModel(
        name=name,
        version=version,
        folder=f"{name}/{version}",
        files={each: PublishedFile(sha256=sha256(text).hexdigest(), bytes=len(text)) for each, text in files.items()},
        learner=stored.learner,
        run=stored.run,
        published=datetime.now(UTC).isoformat(" ", "seconds"),
        about=about,
    )
    return entry, files | {INDEX: index_text([entry.model_copy(update={"folder": ""})])}


def _of_training(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums of a model's training files: earlier ones have those of all that their job read."""
    files = {name_of(file) for file in data.get("files") or ()}
    return {path: digest for path, digest in data["sha256"].items() if files & {name_of(path), *path.split("/")}}


def _taken(entry: PublishedModel, other: PublishedModel | None) -> VersionTaken:
    differ = [] if other is None else [name for name in entry.files if entry.files[name] != other.files.get(name)]
    what = "a card with other words" if differ == [CARD] else "another model"
    if other is not None and other.run == entry.run and TENSORS not in differ:
        what = "the same model with other words"
    return VersionTaken(
        f"{entry.title} is published already, with other content ({what}). A version does not change: give another"
        " --version, or leave it out for the next. Nothing was written."
    )


class _FolderPlace:
    """A folder of this machine or a shared file system; one publisher at a time holds its lock."""

    note = ""

    def __init__(self, folder: LocalFolder) -> None:
        self._folder = folder
        self.root = folder.root

    @contextmanager
    def locked(self) -> Iterator[None]:
        path = self._folder.path
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / LOCK).open("a")
        except OSError as error:
            raise UsageError(
                f"Cannot publish into {self.root}: {error.strerror}. Give a folder that you may write."
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def index(self) -> tuple[list[PublishedModel], None]:
        content = self._folder.read(INDEX)
        return ([] if content is None else read_index(content, self.root)), None

    def write(self, entry: PublishedModel, files: dict[str, bytes]) -> None:
        target = self._folder.path / entry.folder
        if target.exists():  # of a publisher that was killed before it wrote the index
            _refuse_other(entry, self._folder.read(f"{entry.folder}/{INDEX}"))
            return
        partial = self._folder.path / f".{entry.name}-{entry.version}.{secrets.token_hex(4)}.tmp"
        try:
            for name, content in files.items():
                LocalFolder(partial).write(name, content)
            target.parent.mkdir(exist_ok=True)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def write_index(self, models: Sequence[PublishedModel], seen: Seen | None) -> None:
        self._folder.write(INDEX, index_text(models))


class _BucketPlace:
    """A bucket: files are put one by one, and the index is replaced only where it is still as it was read."""

    def __init__(self, folder: RemoteFolder) -> None:
        self._folder = folder
        self.root = folder.outages.root
        self._index, why = shared_object(folder, INDEX)
        self.note = why and (
            f"{self.root} has no conditional writes ({why}). If others publish there at the same moment, one entry of"
            " the index may be lost: `neurofleet models` shows whether yours is there; publishing again adds it."
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def index(self) -> tuple[list[PublishedModel], Seen | None]:
        seen = self._asked(f"reading {INDEX}", self._index.read)
        return ([] if seen is None else read_index(seen.content, self.root)), seen

    def write(self, entry: PublishedModel, files: dict[str, bytes]) -> None:
        name = f"{entry.folder}/{INDEX}"
        own, _ = shared_object(self._folder, name)  # whoever writes it first has the version
        try:
            self._asked(f"writing {name}", lambda: own.write(files[INDEX], None))
        except Changed:
            seen = self._asked(f"reading {name}", own.read)
            _refuse_other(entry, None if seen is None else seen.content)
        for name in (CARD, TENSORS, DESCRIPTION):
            self._folder.write(f"{entry.folder}/{name}", files[name])

    def write_index(self, models: Sequence[PublishedModel], seen: Seen | None) -> None:
        self._asked(f"writing {INDEX}", lambda: self._index.write(index_text(models), seen))

    def _asked(self, doing: str, request: Callable[[], Result]) -> Result:
        try:
            return self._folder.outages.call(doing, request)
        except OSError as error:
            raise refused(self.root, doing, error) from error


def _refuse_other(entry: PublishedModel, own_index: bytes | None) -> None:
    """Refuse a folder that is there and does not hold this model."""
    other = None
    if own_index is not None:
        other = next(iter(read_index(own_index, entry.title)), None)
    if other is None or other.files != entry.files:
        raise _taken(entry, other)


def _print(entry: PublishedModel, place: str, is_new: bool, stated: Stated) -> None:
    console = terminal()
    if not is_new:
        console.print(
            f"{entry.title} is in {place} already, with the same content: nothing was written.", soft_wrap=True
        )
        return
    console.print(
        f"Published: {entry.title} in {place}, {entry.bytes / 1e6:.1f} MB, with its card ({entry.folder}/{CARD}).",
        soft_wrap=True,
    )
    for each in entry.about["kept"]:
        console.print(f"It holds of the training data: {each}.", soft_wrap=True)
    unsaid = [f"--{name.replace('authors', 'author')}" for name, value in asdict(stated).items() if not value]
    if unsaid:
        console.print(f"Not stated on the card: {', '.join(unsaid)}.", soft_wrap=True)
    command = "predict" if entry.learner == "sims" else "embed"
    console.print(f"To use it: {PLACES}={place} neurofleet {command} {entry.title} FILE", soft_wrap=True)
