"""Download cells of the Allen Cell Types Database: recording, reconstruction, metadata and published models."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import h5py

from neurofleet.errors import InputError
from neurofleet.http_download import DownloadError, DownloadProgress, Origin, Web, looks_like
from neurofleet.neurosim.cells.morphology_check import check_morphology
from neurofleet.neurosim.exchange.allen_fit import read_fit

MANIFEST, METADATA = "manifest.json", "metadata.json"
MODEL_TEMPLATES = {491455321: "all-active", 329230710: "perisomatic"}  # neuronal_model_template_id
FIT_FILE_TYPE = "NeuronalModelParameters"
_QUERY = "/api/v2/data/query.json?criteria="
_FILE = "/api/v2/well_known_file_download/"


@dataclass(frozen=True)
class RemoteFile:
    """A file of the database.

    Attributes
    ----------
    name : str
        What it is called here.
    file_id : int
        Number of the well-known file.
    kind : {"recording", "morphology", "model"}
    """

    name: str
    file_id: int
    kind: str


@dataclass(frozen=True)
class Specimen:
    """What the database holds of a cell.

    Attributes
    ----------
    number : int
        The specimen's.
    metadata : mapping
        Its row of the database's table of cells (``specimen__name``, ``line_name``, ``ef__vrest`` ...), and
        ``neuronal_models``, a list of its published models, where they were asked for.
    files : tuple of RemoteFile
    """

    number: int
    metadata: Mapping[str, Any]
    files: tuple[RemoteFile, ...]

    @property
    def lacks(self) -> tuple[str, ...]:
        """What a fit needs and the database does not have."""
        kinds = {file.kind for file in self.files}
        return tuple(kind for kind in ("recording", "morphology") if kind not in kinds)

    @property
    def summary(self) -> str:
        """Name, line, layer and dendrite type, in a line."""
        keys = ("specimen__name", "line_name", "structure__acronym", "tag__dendrite_type", "donor__species")
        return ", ".join(str(self.metadata[key]) for key in keys if self.metadata.get(key))


def find_specimen(web: Web, number: int, models: bool = False) -> Specimen:
    """Ask the database for a cell.

    Parameters
    ----------
    web : Web
        The database's server.
    number : int
        The specimen's number.
    models : bool
        Whether to look up its published all-active and perisomatic models too.

    Raises
    ------
    InputError
        There is no such cell, or one without a file.
    DownloadError
        The server does not answer, or answers something else.
    """
    rows = _rows(web, "ApiCellTypesSpecimenDetail", f"[specimen__id$eq{number}]")
    if not rows:
        raise InputError(_unknown(web, number))
    metadata = dict(rows[0])
    files = [
        RemoteFile(f"{number}{ending}", int(metadata[key]), kind)
        for key, ending, kind in (("erwkf__id", ".nwb", "recording"), ("nrwkf__id", ".swc", "morphology"))
        if metadata.get(key)
    ]
    if models:
        published = _models(web, number)
        metadata["neuronal_models"] = [{k: v for k, v in m.items() if k != "well_known_files"} for m in published]
        files += [file for model in published for file in _fit_files(model)]
    if not files:
        raise InputError(
            f"allen:{number}: expected a recording or a reconstruction, found a specimen "
            f"({Specimen(number, metadata, ()).summary}) without a file."
        )
    return Specimen(number, metadata, tuple(files))


def _rows(web: Web, model: str, criteria: str, include: str = "") -> list[Mapping[str, Any]]:
    included = f",rma::include,{include}" if include else ""
    query = f"model::{model},rma::criteria,{criteria}{included},rma::options[num_rows$eq'all']"
    answer = web.json(_QUERY + quote(query, safe=":,$'()[]"))
    rows = answer.get("msg") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not answer.get("success", True):
        message = rows if isinstance(rows, str) else "something that is no answer to a query"
        raise DownloadError(f"{web.address}: the database refuses the question after {model}: {message[:300]}.")
    return rows


def _models(web: Web, number: int) -> list[Mapping[str, Any]]:
    rows = _rows(
        web,
        "NeuronalModel",
        f"[specimen_id$eq{number}]",
        "neuronal_model_template,well_known_files(well_known_file_type)",
    )
    return [model for model in rows if model.get("neuronal_model_template_id") in MODEL_TEMPLATES]


def _fit_files(model: Mapping[str, Any]) -> list[RemoteFile]:
    kind = MODEL_TEMPLATES[model["neuronal_model_template_id"]]
    ids = [
        int(file["id"])
        for file in model.get("well_known_files", ())
        if (file.get("well_known_file_type") or {}).get("name") == FIT_FILE_TYPE
    ]
    name = f"{kind}_{int(model['id'])}"
    return [
        RemoteFile(f"{name}_fit.json" if n == 0 else f"{name}_{n + 1}_fit.json", file_id, "model")
        for n, file_id in enumerate(ids)
    ]


def _unknown(web: Web, number: int) -> str:
    """Return the message that there is no such cell; if the number is that of a model, it names the model's cell."""
    text = f"allen:{number}: expected the number of a specimen of the Allen Cell Types Database, found none."
    models = _rows(web, "NeuronalModel", f"[id$eq{number}]")
    if models:
        owner = models[0].get("specimen_id")
        return f"{text} It is the number of a model of specimen {owner}: fetch allen:{owner} with --models."
    return f"{text} The number in the address of a cell's page in the database is the right one."


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


class SpecimenFolder:
    """The folder of one cell, with a manifest of sizes and checksums.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest = self._read_manifest()

    def complete(self, models: bool) -> bool:
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

    def begin(self, specimen: Specimen, address: str) -> None:
        """Write the metadata, and note what is going to be here.

        Raises
        ------
        DownloadError
            The folder cannot be written in.
        """
        self._manifest |= {
            "specimen": specimen.number,
            "address": address,
            "models": "neuronal_models" in specimen.metadata,
            "wanted": [METADATA, *(file.name for file in specimen.files)],
            "complete": False,
        }
        content = json.dumps(specimen.metadata, indent=2, sort_keys=True) + "\n"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _write(self.path / METADATA, content)
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
            web.download(f"{_FILE}{file.file_id}", partial, origin, began, watch)
            try:
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
    with TemporaryDirectory() as folder:
        morphology = Path(folder) / name
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
