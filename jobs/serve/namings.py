"""Files that visitors upload, and cells that are named: in processes of their own, with limits, each visitor's own."""

import json
import secrets
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from neurofleet.errors import NeurofleetError, UsageError
from neurofleet.jobs.learners.learner_folder import ABOUT
from neurofleet.jobs.serve.own_process import GIB, Limits, end_processes, last_result

_TEXT = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
ENDINGS_OF = {
    "sims": (".h5ad", ".h5ad.gz", ".h5", ".loom", ".h5mu", *_TEXT, ".rds"),
    "hippie": (".npz", ".parquet", ".nwb", ".mat", *_TEXT),
    "neuprint": (".npz", ".npy", ".nwb", ".hdf5", ".h5"),
}
"""Learner -> names of files that its models read."""

ENDINGS = tuple(dict.fromkeys(ending for endings in ENDINGS_OF.values() for ending in endings))
THINGS = {"sims": "cells", "hippie": "units", "neuprint": "neurons"}
LONGEST_NAME = 200
MOST_CHUNK_BYTES = 64 * 2**20
KEPT_S = 24 * 3600.0
AT_ONCE = 2
MOST_WAITING = 20
PREDICTIONS, CSV, H5AD, PAGE = "predictions.parquet", "predictions.csv", "cells.h5ad", "predictions.html"
PROGRESS = "progress.json"
REFERENCE = "reference.npy"
PROCESSES = "neurofleet.jobs.serve.naming_process"


class NotThere(UsageError):
    """There is no such upload or naming, or it is another visitor's."""


class WrongOffset(UsageError):
    """A chunk does not follow on what has arrived."""


@dataclass
class Upload:
    """A file that arrives in chunks."""

    id: str
    owner: str
    name: str
    size: int
    path: Path
    received: int = 0
    changed: float = field(default_factory=time.monotonic)
    writing: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class CellNaming:
    """Cells, units or neurons of a file that are named by a model, or were.

    Attributes
    ----------
    id, owner : str
    model, source : str
        Names that are shown.
    learner : str
        Of the model.
    folder : Path
        Where its files are written.
    state : str
        ``waiting``, ``running``, ``done`` or ``failed``.
    fault : str
        Why it failed.
    """

    id: str
    owner: str
    model: str
    source: str
    learner: str
    folder: Path
    state: str = "waiting"
    fault: str = ""
    changed: float = field(default_factory=time.monotonic)
    writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def progress(self) -> tuple[int, int]:
        """How many are named, and how many there are; 0 of 0 while the file is opened."""
        try:
            done, number = json.loads((self.folder / PROGRESS).read_text())
        except (OSError, ValueError):
            return 0, 0
        return int(done), int(number)

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """What is shown of each: class number, probability, distance, place on the map."""
        columns = self.about.get("columns") or {name: name for name in ("prob_0", "distance", "map_0", "map_1")}
        named = self.about.get("named", "pred_0")
        schema = pq.read_schema(self.folder / PREDICTIONS)
        known = {name: column for name, column in columns.items() if column in schema.names}
        read = pq.read_table(self.folder / PREDICTIONS, columns=list({*known.values(), named} - {""}))
        place = {name: number for number, name in enumerate(self.about["classes"])}
        found = {name: read[column].to_numpy() for name, column in known.items()}
        if not named:  # the model embeds, and knows no classes
            return {"class": np.zeros(len(read), np.int32), "prob_0": np.ones(len(read)), **found}
        encoded = read[named].combine_chunks().dictionary_encode()
        numbers = np.array([place[name] for name in encoded.dictionary.to_pylist()], dtype=np.int32)
        return {"class": numbers[encoded.indices.to_numpy()], **found}

    @property
    def things(self) -> str:
        """What is named: cells, units or neurons."""
        return THINGS[self.learner]

    @cached_property
    def about(self) -> dict[str, Any]:
        """The facts beside the table."""
        facts: dict[str, Any] = json.loads(pq.read_schema(self.folder / PREDICTIONS).metadata[ABOUT])
        return facts


class Namings:
    """Uploads and namings of all visitors, in a folder that goes with the server.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self._uploads: dict[str, Upload] = {}
        self._namings: dict[str, CellNaming] = {}
        self._workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="naming")

    @property
    def place(self) -> Path:
        """Where all of it is kept."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="neurofleet-serve-"))
        return self._folder

    def close(self) -> None:
        """End what runs, and remove all files."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        end_processes(PROCESSES)
        self._workers.shutdown(wait=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def begin_upload(self, owner: str, name: str, size: int) -> Upload:
        """Make room for a file.

        Raises
        ------
        UsageError
            Its kind is not read, or it is too large.
        """
        self._expire()
        ending = next((each for each in sorted(ENDINGS, key=len, reverse=True) if name.lower().endswith(each)), None)
        if ending is None:
            raise UsageError(
                f"{name[:LONGEST_NAME]}: expected a name that ends in one of {', '.join(ENDINGS)}. Convert the file, "
                "or name a folder (zarr, 10x) below the folder that is served."
            )
        if size < 1:
            raise UsageError(f"{name[:LONGEST_NAME]} is empty.")
        if size > self.limits.upload_bytes:
            raise UsageError(
                f"{name[:LONGEST_NAME]} has {size / GIB:.1f} GiB, and at most {self.limits.upload_bytes / GIB:g} GiB "
                "are taken. Put it below the folder that is served, and name its path."
            )
        with self._lock:
            kept = sum(upload.size for upload in self._uploads.values() if upload.owner == owner)
            if kept + size > self.limits.kept_bytes or size > 0.9 * shutil.disk_usage(self.place).free:
                raise UsageError(
                    f"There is no room for {size / GIB:.1f} GiB more. Remove files that you have uploaded, or wait: "
                    f"they go after {KEPT_S / 3600:.0f} hours."
                )
            id = secrets.token_urlsafe(16)
            folder = self.place / f"upload-{id}"
            folder.mkdir()
            upload = Upload(id, owner, name[:LONGEST_NAME], size, folder / f"query{ending}")
            upload.path.touch()
            self._uploads[id] = upload
        return upload

    def upload(self, id: str, owner: str) -> Upload:
        """Return a visitor's upload.

        Raises
        ------
        NotThere
        """
        upload = self._uploads.get(id)
        if upload is None or upload.owner != owner:
            raise NotThere("There is no such upload. It may have been removed: send the file again.")
        return upload

    def append(self, upload: Upload, offset: int, content: bytes) -> None:
        """Write a piece of a chunk behind what has arrived.

        Raises
        ------
        WrongOffset
            It does not follow on what has arrived.
        UsageError
            It is longer than the file was said to be.
        """
        with upload.writing:
            if offset != upload.received:
                raise WrongOffset(f"Expected the bytes from {upload.received} on, found those from {offset} on.")
            if offset + len(content) > upload.size:
                raise UsageError(f"More has arrived than the {upload.size} bytes that the file was said to have.")
            with open(upload.path, "r+b") as file:
                file.seek(offset)
                file.write(content)
            upload.received += len(content)
            upload.changed = time.monotonic()

    def remove_upload(self, upload: Upload) -> None:
        """Remove an uploaded file."""
        self._uploads.pop(upload.id, None)
        shutil.rmtree(upload.path.parent, ignore_errors=True)

    def start(
        self,
        owner: str,
        model: tuple[str, Path],
        source: tuple[str, Path],
        options: dict[str, Any],
        learner: str = "sims",
    ) -> CellNaming:
        """Name what is in a file, when it is its turn.

        Parameters
        ----------
        model, source : (str, Path)
            The name that is shown, and where it is.
        options : dict
            For cells ``reading`` and ``options``: arguments of `Reading` and `PredictionOptions`; else ``layout``.
        learner : str
            Of the model.

        Raises
        ------
        UsageError
            Too many wait.
        """
        self._expire()
        with self._lock:
            if sum(each.state in ("waiting", "running") for each in self._namings.values()) >= MOST_WAITING:
                raise UsageError(f"{MOST_WAITING} files wait to be named already. Try again later.")
            id = secrets.token_urlsafe(16)
            folder = self.place / f"naming-{id}"
            folder.mkdir()
            naming = CellNaming(id, owner, model[0], source[0], learner, folder)
            self._namings[id] = naming
        self._workers.submit(self._run, naming, str(model[1]), str(source[1]), options)
        return naming

    def naming(self, id: str, owner: str) -> CellNaming:
        """Return a visitor's naming.

        Raises
        ------
        NotThere
        """
        naming = self._namings.get(id)
        if naming is None or naming.owner != owner:
            raise NotThere("There is no such result. It may have been removed: name the cells again.")
        return naming

    def of(self, owner: str) -> list[CellNaming]:
        """Return a visitor's namings, the latest first."""
        self._expire()
        return [naming for naming in reversed(self._namings.values()) if naming.owner == owner]

    def _run(self, naming: CellNaming, model: str, source: str, options: dict[str, Any]) -> None:
        naming.state = "running"
        try:
            last_result(
                naming.source,
                f"Split it, or use `neurofleet {'predict' if naming.learner == 'sims' else 'embed'}` in a terminal.",
                f"{PROCESSES}:{'name_cells' if naming.learner == 'sims' else 'embed'}",
                *(str(naming.folder), model, source, options, self.limits.memory_bytes),
                limits=self.limits,
            )
            naming.state = "done"
        except NeurofleetError as error:
            naming.fault = str(error).replace(source, naming.source).replace(f"{naming.folder}/", "")
            naming.state = "failed"
        naming.changed = time.monotonic()

    def _expire(self) -> None:
        """Remove what is older than a day."""
        before = time.monotonic() - KEPT_S
        for upload in [each for each in self._uploads.values() if each.changed < before]:
            self.remove_upload(upload)
        for naming in [each for each in self._namings.values() if each.changed < before]:
            self._namings.pop(naming.id, None)
            shutil.rmtree(naming.folder, ignore_errors=True)
