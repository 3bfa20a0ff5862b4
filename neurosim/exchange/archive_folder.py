"""A local folder of files from an archive: verified, resumed, never taken half."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from neurofleet.errors import InputError
from neurofleet.http_download import DownloadError, DownloadProgress, Origin, Web, looks_like
from neurofleet.neurosim.cells.morphology_check import check_morphology
from neurofleet.neurosim.exchange.allen_fit import read_fit
from neurofleet.scratch import scratch_folder

MANIFEST, METADATA = "manifest.json", "metadata.json"


@dataclass(frozen=True)
class RemoteFile:
    """A file of an archive.

    Attributes
    ----------
    name : str
        What it is called here; may be in a folder.
    file_id : int or str
        What the archive calls it; a new version has another.
    kind : {"recording", "morphology", "model"}
    route : str
        Where the server has it.
    sha256 : str
        As the archive says, or nothing.
    """

    name: str
    file_id: int | str
    kind: str
    route: str
    sha256: str = ""


@dataclass(frozen=True)
class Found:
    """What an archive has under a name.

    Attributes
    ----------
    summary : str
        In a line.
    facts : mapping
        What identifies it, for the manifest.
    files : tuple of RemoteFile
    metadata : mapping or None
        What the archive tells of it; written beside the files.
    notes : tuple of str
        What to know about it.
    job : str
        A job that fits it, or nothing.
    """

    summary: str
    facts: Mapping[str, Any]
    files: tuple[RemoteFile, ...]
    metadata: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    job: str = ""


@dataclass(frozen=True)
class Fetched:
    """A downloaded file.

    Attributes
    ----------
    path : Path
    there_already : bool
        It was there, was verified, and was not downloaded again.
    note : str
        What to know about it, or nothing.
    """

    path: Path
    there_already: bool
    note: str = ""


class ArchiveFolder:
    """A folder of an archive's files, with a manifest of sizes and checksums.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = self._read_manifest()

    def complete(self, models: bool = False) -> bool:
        """Return whether all that was asked for is here and as it was downloaded."""
        covered = self._manifest.get("complete") and (self._manifest.get("models") or not models)
        return bool(covered) and all(self.verified(name) for name in self._manifest["wanted"])

    def verified(self, name: str) -> bool:
        """Return whether a file has the size and checksum it had when it was downloaded."""
        known = self._manifest["files"].get(name, {})
        path = self.path / name
        return (
            "sha256" in known
            and path.is_file()
            and path.stat().st_size == known["size"]
            and sha256_of(path) == known["sha256"]
        )

    def begin(self, found: Found, address: str) -> None:
        """Write the metadata, and note what is going to be here.

        Raises
        ------
        DownloadError
            The folder cannot be written in, or a name of the archive leads out of it.
        """
        _check_names([file.name for file in found.files])
        wanted = [file.name for file in found.files]
        if found.metadata is not None:
            wanted.insert(0, METADATA)
        self._manifest |= {**found.facts, "address": address, "wanted": wanted, "complete": False}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if found.metadata is None:
                self._write_manifest()
                return
            _write(self.path / METADATA, json.dumps(found.metadata, indent=2, sort_keys=True) + "\n")
        except OSError as error:
            raise DownloadError(f"{self.path}: cannot be written in ({error.strerror}).") from error
        self._note(METADATA, self._facts(self.path / METADATA))

    def fetch(self, web: Web, file: RemoteFile, watch: DownloadProgress) -> Fetched:
        """Download one file unless it is here, and check its content before it gets its name.

        Raises
        ------
        DownloadError
            It cannot be downloaded; what has arrived stays in ``NAME.partial``, unless it is something else.
        """
        path, partial = self.path / file.name, self.path / f"{file.name}.partial"
        known = self._manifest["files"].get(file.name, {})
        if known.get("file_id") == file.file_id and self.verified(file.name):
            return Fetched(path, there_already=True, note=known.get("note", ""))
        note = f"{file.name} was not as it had been downloaded, and was downloaded again." * path.is_file()
        origin = Origin()
        if known.get("file_id") == file.file_id and "sha256" not in known:
            origin = Origin(known.get("validator", ""), known.get("expected_size"))
        else:
            partial.unlink(missing_ok=True)

        def began(new: Origin) -> None:
            facts = {"validator": new.validator, "expected_size": new.size}
            self._note(file.name, {"file_id": file.file_id} | facts)

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            web.download(file.route, partial, origin, began, watch)
            try:
                _check_sha256(partial, file)
                fault = check_content(partial, file)
            except DownloadError:
                partial.unlink()
                raise
            os.replace(partial, path)
        except OSError as error:
            raise DownloadError(f"{path}: cannot be written ({error.strerror}).") from error
        self._note(file.name, {"file_id": file.file_id, "note": fault} | self._facts(path))
        return Fetched(path, there_already=False, note=" ".join(filter(None, (note, fault))))

    def end(self) -> None:
        """Note that all is here."""
        self._manifest["complete"] = True
        self._write_manifest()

    def _facts(self, path: Path) -> dict[str, Any]:
        return {"size": path.stat().st_size, "sha256": sha256_of(path)}

    def _note(self, name: str, facts: Mapping[str, Any]) -> None:
        self._manifest["files"][name] = dict(facts)
        self._write_manifest()

    def _write_manifest(self) -> None:
        _write(self.path / MANIFEST, json.dumps(self._manifest, indent=2) + "\n")

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            if isinstance(manifest["files"], dict):
                return manifest
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            pass  # nothing is known of the files here: they are downloaded again
        return {"files": {}}


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or "\\" in name or any(part == ".." for part in parts):
            raise DownloadError(f"{name!r}: the archive has a name that leads out of the folder; it is not downloaded.")


def _check_sha256(path: Path, file: RemoteFile) -> None:
    if file.sha256 and sha256_of(path) != file.sha256:
        raise DownloadError(
            f"{file.name}: expected the SHA-256 {file.sha256}, which the archive has for it, found {sha256_of(path)}. "
            "It was removed; the same command downloads it again."
        )


def check_content(path: Path, file: RemoteFile) -> str:
    """Check that a downloaded file is what it should be, and return a note on it, which may be empty.

    A reconstruction or a model that is whole but cannot be simulated as it is stays; the note has the reason.

    Raises
    ------
    DownloadError
        It is something else, such as a web page, or damaged.
    """
    check = {"recording": _check_recording, "morphology": _check_swc, "model": _check_fit}[file.kind]
    try:
        return check(path, file.name)
    except _WrongContent as error:
        raise DownloadError(
            f"{file.name}: expected {error}, found {looks_like(path)}. It was removed; the same command "
            "downloads it again."
        ) from error


class _WrongContent(Exception):
    pass


def _check_recording(path: Path, name: str) -> str:
    try:
        with h5py.File(path, "r") as content:
            if "epochs" in content or "acquisition" in content:
                return ""
    except OSError:
        pass
    raise _WrongContent("a recording in NWB format")


def _check_swc(path: Path, name: str) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    points = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not points or not all(len(point) >= 7 and _are_numbers(point[:7]) for point in points):
        raise _WrongContent("a reconstruction in SWC format")
    with scratch_folder() as folder:
        morphology = folder / Path(name).name
        shutil.copyfile(path, morphology)
        return _fault(lambda: check_morphology(morphology), str(morphology), name)


def _check_fit(path: Path, name: str) -> str:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict) or "genome" not in content:
        raise _WrongContent("the parameters of a model in JSON")
    return _fault(lambda: read_fit(path), str(path), name)


def _fault(check: Callable[[], object], path: str, name: str) -> str:
    """Return what `check` finds wrong, with the file's own name."""
    try:
        check()
    except InputError as error:
        return str(error).replace(path, name)
    return ""


def _are_numbers(words: list[str]) -> bool:
    try:
        [float(word) for word in words]
    except ValueError:
        return False
    return True


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, content: str) -> None:
    """Write a text file in one step."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)
