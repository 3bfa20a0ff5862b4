"""The files that are sent to a cluster with a job: those that it names by relative paths, in one zip file."""

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neurofleet.errors import UsageError
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.job_file import JobSpec
from neurofleet.neurosim.cells.user_model import MACHINES

ROOT = "neurofleet-job"
START_SCRIPT = f"{ROOT}/start.sh"
JOB_FILE = "neurofleet-job.yaml"

_LEFT_OUT = {"__pycache__", ".git", ".venv", "venv", *MACHINES}
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class JobFiles:
    """The files that are sent.

    Attributes
    ----------
    files : dict
        Name in the package -> file here.
    job : dict
        The job file as the cluster gets it.
    job_file : str
        Its name in the package.
    remote : tuple of str
        Absolute paths of the job, which are read on the cluster.
    """

    files: dict[str, Path]
    job: dict[str, Any]
    job_file: str
    remote: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of the files, before they are packed."""
        return sum(file.stat().st_size for file in self.files.values())


def collect(spec: JobSpec, folder: Path) -> JobFiles:
    """Find the files of a job.

    A file named by a relative path is sent: the package has as much of the tree above the job file as the paths climb
    (``../data/cell.swc``), so that the job on the cluster names its files as it does here. An absolute path
    is never sent, whether it exists here or not: it is read on the cluster.

    Raises
    ------
    UsageError
        When files are missing: all of them.
    """
    packer = _Packer(folder)
    job = spec.model_dump(mode="json", exclude={"out"})
    if isinstance(spec, FitSpec):
        _take_fit(spec, job, packer)
    else:
        job["reference"] = [packer.take("reference", path) for path in job["reference"]]
        job["labels"] = packer.take("labels", job["labels"])
    if packer.missing:
        raise UsageError("\n".join(packer.missing))
    top = packer.top
    files = {_name(source, top): source for source in packer.files}
    return JobFiles(files, job, _name(folder / JOB_FILE, top), tuple(packer.remote))


def _take_fit(spec: FitSpec, job: dict[str, Any], packer: "_Packer") -> None:
    for number, cell in enumerate(job["cells"] or ()):
        for key in ("morphology", "recordings", "targets"):
            cell[key] = packer.take(f"cells.{number}.{key}", cell[key])
    job["mechanisms"] = packer.take("mechanisms", job["mechanisms"])
    if spec.recipe.endswith((".yaml", ".yml")):
        job["recipe"] = packer.take("recipe", job["recipe"])
    job["warm_start"] = packer.take("warm_start", job["warm_start"], part="hall_of_fame")
    if spec.evaluator is not None:
        module = spec.evaluator.split(":")[0].split(".")[0]
        packer.take_if_there(f"{module}.py", module)
        if spec.mechanisms is None:
            packer.take_mechanisms()


class _Packer:
    """Gathers files.

    Attributes
    ----------
    files : list of Path
    remote : list of str
        Absolute paths.
    missing : list of str
        Faults.
    top : Path
        The folder above all files, and above the job file.
    """

    def __init__(self, folder: Path) -> None:
        self.files: list[Path] = []
        self.remote: list[str] = []
        self.missing: list[str] = []
        self.top = folder
        self._folder = folder

    def take(self, key: str, path: str | None, part: str = "") -> str | None:
        """Add the file or folder at `path`, or only its `part` if it has one; return the shortest path."""
        if path is None:
            return None
        if Path(path).is_absolute():
            self.remote.append(path)
            return path
        source = Path(os.path.normpath(self._folder / path))
        if source.exists():
            self._add(source / part if part and (source / part).is_dir() else source)
        else:
            self.missing.append(f"{key}: {path} is not there, seen from {self._folder}.")
        return os.path.relpath(source, self._folder)

    def take_if_there(self, *paths: str) -> None:
        """Add those of the files and folders beside the job file that exist."""
        for path in paths:
            if (self._folder / path).exists():
                self._add(self._folder / path)

    def take_mechanisms(self) -> None:
        """Add the folder of mod files beside the job file, if it exists."""
        self.take_if_there("mechanisms")
        compiled = [machine for machine in MACHINES if (self._folder / machine).is_dir()]
        if compiled and not (self._folder / "mechanisms").exists():
            self.missing.append(
                f"mechanisms: {compiled[0]} was compiled for this machine and is not sent, and there is no folder "
                f"mechanisms in {self._folder}. Name the folder of the mod files with `mechanisms:` in the job."
            )

    def _add(self, source: Path) -> None:
        self.top = Path(os.path.commonpath([self.top, source]))
        self.files += _files(source)


def pack(job_files: JobFiles, package: Path, limit_bytes: int) -> None:
    """Write the zip file; the same job makes the same bytes.

    Raises
    ------
    UsageError
        When it gets larger than the cluster's Jobs API takes.
    """
    start = Path(__file__).with_name("start.sh").read_text()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr(_entry(START_SCRIPT), start)
        archive.writestr(_entry(job_files.job_file), yaml.safe_dump(job_files.job, sort_keys=False))
        for name, file in sorted(job_files.files.items()):
            with file.open("rb") as source, archive.open(_entry(name), "w", force_zip64=True) as target:
                while chunk := source.read(_CHUNK_BYTES):
                    target.write(chunk)
                    if package.stat().st_size > limit_bytes:
                        raise UsageError(_too_large(job_files, limit_bytes))
    if package.stat().st_size > limit_bytes:
        raise UsageError(_too_large(job_files, limit_bytes))


def size(files: int, size_bytes: float) -> str:
    """Return a number of files and their size for display."""
    amount = f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"
    return f"{files} file{'' if files == 1 else 's'}, {amount}"


def _too_large(job_files: JobFiles, limit_bytes: int) -> str:
    largest = sorted(job_files.files.values(), key=lambda file: file.stat().st_size, reverse=True)[:3]
    return (
        f"the job's files are too large to be sent: {size(len(job_files.files), job_files.size_bytes)}, and Ray's"
        f" Jobs API takes {limit_bytes / 1e6:.0f} MB, packed. Lay them (the largest are"
        f" {', '.join(map(str, largest))}) on storage that the cluster reads, and name them in the job file"
        " by their absolute paths there: files named by absolute paths are not sent."
    )


def _name(file: Path, top: Path) -> str:
    return f"{ROOT}/files/{file.relative_to(top).as_posix()}"


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)  # of 1980, whenever it is packed
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return [path]
    files = (file for file in path.rglob("*") if file.is_file())
    return sorted(file for file in files if not _LEFT_OUT & set(file.relative_to(path).parts))
