"""Download cells of the Allen Cell Types Database: recording, reconstruction, metadata and published models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from neurofleet.errors import InputError
from neurofleet.http_download import DownloadError, Web
from neurofleet.neurosim.exchange.archive_folder import Found, RemoteFile

MODEL_TEMPLATES = {491455321: "all-active", 329230710: "perisomatic"}  # neuronal_model_template_id
FIT_FILE_TYPE = "NeuronalModelParameters"
_QUERY = "/api/v2/data/query.json?criteria="
_FILE = "/api/v2/well_known_file_download/"


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

    @property
    def found(self) -> Found:
        """The specimen as something to be fetched."""
        notes = []
        if self.metadata.get("neuronal_models") == []:
            notes.append("the database has no all-active or perisomatic model of it.")
        if self.lacks:
            notes.append(f"the database has no {' and no '.join(self.lacks)} of it, so it cannot be fitted.")
        facts = {"specimen": self.number, "models": "neuronal_models" in self.metadata}
        return Found(self.summary, facts, self.files, self.metadata, tuple(notes), "" if self.lacks else self._job())

    def _job(self) -> str:
        """Return a job that fits the specimen, to be changed by its user."""
        dendrite = "spiny" if self.metadata.get("tag__dendrite_type") == "spiny" else "aspiny"
        return (
            f"# {self.summary}\n"
            "kind: fit\n"
            f"name: allen-{self.number}\n"
            "cells:\n"
            f"  - id: '{self.number}'\n"
            f"    morphology: {self.number}.swc\n"
            f"    recordings: {self.number}.nwb\n"
            f"    dendrite: {dendrite}\n"
            "recipe: all-active\n"
        )


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
        _file(f"{number}{ending}", int(metadata[key]), kind)
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


def _file(name: str, file_id: int, kind: str) -> RemoteFile:
    return RemoteFile(name, file_id, kind, f"{_FILE}{file_id}")


def _rows(web: Web, model: str, criteria: str, include: str = "") -> list[Mapping[str, Any]]:
    included = f",rma::include,{include}" if include else ""
    query = f"model::{model},rma::criteria,{criteria}{included},rma::options[num_rows$eq'all']"
    answer = web.json(_QUERY + quote(query, safe=":,$'()[]"))
    rows = answer.get("msg") if isinstance(answer, dict) else None
    if not isinstance(rows, list) or not answer.get("success", True):
        message = rows if isinstance(rows, str) else "something that is not an answer to a query"
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
        _file(f"{name}_fit.json" if n == 0 else f"{name}_{n + 1}_fit.json", file_id, "model")
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
