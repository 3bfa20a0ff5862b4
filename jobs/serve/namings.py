"""Files that visitors upload, and cells that are named: in processes of their own, with limits, each visitor's own."""

import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from neurofleet import fresh_process
from neurofleet.errors import NeurofleetError, UsageError, missing_extra
from neurofleet.jobs.learners.learner_folder import ABOUT

GIB = 2**30
ENDINGS = (
    ".h5ad", ".h5ad.gz", ".h5", ".loom", ".h5mu", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".rds"
)  # fmt: skip
LONGEST_NAME = 200
MOST_CHUNK_BYTES = 64 * 2**20
KEPT_S = 24 * 3600.0
AT_ONCE = 2
MOST_WAITING = 20
PREDICTIONS, CSV, H5AD, PAGE = "predictions.parquet", "predictions.csv", "cells.h5ad", "predictions.html"
PROGRESS = "progress.json"
REFERENCE = "reference.npy"
PROCESS = "neurofleet.jobs.serve.naming_process:name_cells"


class NotThere(UsageError):
    """There is no such upload or naming, or it is another visitor's."""


class WrongOffset(UsageError):
    """A chunk does not follow on what has arrived."""


@dataclass(frozen=True)
class Limits:
    """What a visitor may use.

    Attributes
    ----------
    upload_bytes : int
        Of one file.
    kept_bytes : int
        Of all that is kept of a visitor.
    memory_bytes : int
        Of the process that opens a file.
    seconds : float
        That it may take.
    """

    upload_bytes: int = 8 * GIB
    kept_bytes: int = 24 * GIB
    memory_bytes: int = field(default_factory=lambda: min(16 * GIB, psutil.virtual_memory().total // 2))
    seconds: float = 3600.0


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
    """Cells of a file that are named by a model, or were.

    Attributes
    ----------
    id, owner : str
    model, source : str
        Names that are shown.
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
    folder: Path
    state: str = "waiting"
    fault: str = ""
    changed: float = field(default_factory=time.monotonic)
    writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def progress(self) -> tuple[int, int]:
        """How many cells are named, and how many there are; 0 of 0 while the file is opened."""
        try:
            done, number = json.loads((self.folder / PROGRESS).read_text())
        except (OSError, ValueError):
            return 0, 0
        return int(done), int(number)

    @cached_property
    def table(self) -> dict[str, np.ndarray]:
        """What is shown of each cell: class number, probability, distance, place on the map."""
        schema = pq.read_schema(self.folder / PREDICTIONS)
        names = [name for name in ("prob_0", "distance", "map_0", "map_1") if name in schema.names]
        read = pq.read_table(self.folder / PREDICTIONS, columns=["pred_0", *names])
        place = {name: number for number, name in enumerate(self.about["classes"])}
        encoded = read["pred_0"].combine_chunks().dictionary_encode()
        numbers = np.array([place[name] for name in encoded.dictionary.to_pylist()], dtype=np.int32)
        return {"class": numbers[encoded.indices.to_numpy()]} | {name: read[name].to_numpy() for name in names}

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
        for process in psutil.Process().children():
            with suppress(psutil.Error):
                if process.cmdline()[-1:] == [PROCESS]:
                    process.kill()
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
        self, owner: str, model: tuple[str, Path], source: tuple[str, Path], options: dict[str, Any]
    ) -> CellNaming:
        """Name the cells of a file, when it is its turn.

        Parameters
        ----------
        model, source : (str, Path)
            The name that is shown, and where it is.
        options : dict
            ``reading`` and ``options``: arguments of `Reading` and `PredictionOptions`.

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
            naming = CellNaming(id, owner, model[0], source[0], folder)
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
        arguments = (str(naming.folder), model, source, options, self.limits.memory_bytes)
        try:
            one_thread = {"OMP_NUM_THREADS": "1"}
            deque(fresh_process.stream(PROCESS, *arguments, limit_s=self.limits.seconds, environment=one_thread))
            naming.state = "done"
        except NeurofleetError as error:
            naming.fault = str(error).replace(source, naming.source).replace(f"{naming.folder}/", "")
        except ModuleNotFoundError as error:
            naming.fault = missing_extra(error) or str(error)
        except MemoryError:
            naming.fault = self._too_large(naming)
        except fresh_process.ProcessFailed as error:
            naming.fault = self._too_large(naming) if "emory" in error.output else self._broke_off(naming, error)
        except Exception as error:
            logging.getLogger(__name__).exception("naming the cells of %s", naming.source)
            naming.fault = f"{naming.source} cannot be read ({type(error).__name__}): it may be damaged."
        if naming.fault:
            naming.state = "failed"
        naming.changed = time.monotonic()

    @property
    def _memory(self) -> str:
        return f"the {self.limits.memory_bytes / GIB:.3g} GiB of memory that one file may take here"

    def _too_large(self, naming: CellNaming) -> str:
        return f"{naming.source} needs more than {self._memory}. Split it, or name its cells with `neurofleet predict`."

    def _broke_off(self, naming: CellNaming, error: fresh_process.ProcessFailed) -> str:
        if error.timed_out:
            return (
                f"{naming.source} took longer than the {self.limits.seconds / 60:g} minutes that one file may take "
                "here. Split it, or name its cells with `neurofleet predict`."
            )
        return (
            f"{naming.source} cannot be read: {error.reason}. It may be damaged, or need more than {self._memory}; "
            "look whether `neurofleet predict` reads it."
        )

    def _expire(self) -> None:
        """Remove what is older than a day."""
        before = time.monotonic() - KEPT_S
        for upload in [each for each in self._uploads.values() if each.changed < before]:
            self.remove_upload(upload)
        for naming in [each for each in self._namings.values() if each.changed < before]:
            self._namings.pop(naming.id, None)
            shutil.rmtree(naming.folder, ignore_errors=True)


def local_path(root: str, name: str, others: Sequence[Path] = ()) -> Path:
    """Return a file or folder below a root by its path there, after all links.

    Parameters
    ----------
    root : str
    name : str
        Below the root; an absolute path too.
    others : sequence of Path
        Further folders that may be read.

    Raises
    ------
    UsageError
        It leads out, or is not there.
    """
    with suppress(OSError, ValueError):
        real = Path(os.path.realpath(os.path.join(root, name)))
        places = [Path(os.path.realpath(place)) for place in (Path(root), *others)]
        if any(real.is_relative_to(place) for place in places) and real.exists():
            return real
    raise UsageError(
        f"{name[:LONGEST_NAME]!r} is no file below {root}, which alone is read. Give a path below it, or upload the "
        "file."
    )
