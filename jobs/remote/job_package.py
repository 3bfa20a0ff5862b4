"""The files that are sent to a cluster with a job: those that it names by relative paths, in one zip file."""

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neurofleet.cluster.store.run_store import RunStore
from neurofleet.errors import UsageError
from neurofleet.faults import place_in_words
from neurofleet.input_paths import is_url
from neurofleet.jobs.fit.fit_job import FitSpec
from neurofleet.jobs.job_file import JobSpec, inputs_in, parse_job
from neurofleet.jobs.job_folder import job_folder_of
from neurofleet.neurosim.cells.user_model import MACHINES

ROOT = "neurofleet-job"
START_SCRIPT = f"{ROOT}/start.sh"
JOB_FILE = "neurofleet-job.yaml"

_LEFT_OUT = {"__pycache__", ".git", ".venv", "venv", *MACHINES}
_RUN_FILES = ("events.jsonl", "findings.json", "hall_of_fame", "pooled", "accepted", "draws")
"""What studies read of a run, beside its job and where it comes from."""

_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class JobFiles:
    """The files that are sent.

    Attributes
    ----------
    files : dict
        Name in the package -> file here.
    texts : dict
        Name in the package -> text that takes the place of a file: of a run that is sent, its job and provenance.
    job : dict
        The job file as the cluster gets it.
    job_file : str
        Its name in the package.
    remote : tuple of str
        Absolute paths and URLs of the job, which are read on the cluster.
    links : tuple of str
        Symbolic links that the job names itself: what they lead to is sent.
    """

    files: dict[str, Path]
    texts: dict[str, str]
    job: dict[str, Any]
    job_file: str
    remote: tuple[str, ...]
    links: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of the files, before they are packed."""
        return sum(file.stat().st_size for file in self.files.values())


def collect(spec: JobSpec, folder: Path) -> JobFiles:
    """Find the files of a job of any kind.

    A file named by a relative path is sent: the package has as much of the tree above the job file as the paths climb
    (``../data/cell.swc``), so that the job on the cluster names its files as it does here. An absolute path
    is never sent, whether it exists here or not: it is read on the cluster, as are URLs. Of the run of a fit or sample
    that a study names, its models are sent, and the inputs that its own job names by relative paths.

    Raises
    ------
    UsageError
        When files are missing, or a folder has a symbolic link that leads out of it: all of them.
    """
    packer = _Packer(folder)
    job = _taken(spec, folder, packer)
    if isinstance(spec, FitSpec) and spec.evaluator is not None:
        module = spec.evaluator.split(":")[0].split(".")[0]
        packer.take_if_there(f"{module}.py", module)
        if spec.mechanisms is None:
            packer.take_mechanisms()
    if packer.faults:
        raise UsageError("\n".join(packer.faults))
    top = packer.top
    return JobFiles(
        {_name(source, top): source for source in packer.files if source not in packer.texts},
        {_name(source, top): text for source, text in packer.texts.items()},
        job,
        _name(folder / JOB_FILE, top),
        tuple(packer.remote),
        tuple(packer.links),
    )


def _taken(spec: JobSpec, folder: Path, packer: "_Packer") -> dict[str, Any]:
    """Take all files that a job names, and return the job with the shortest paths to them."""
    job = spec.model_dump(mode="json", exclude={"out"})
    for place, path in inputs_in(spec):
        key = place[-1]
        if key == "recipe" and not path.endswith((".yaml", ".yml")):
            continue
        if key in ("run", "sample", "posterior", "fit"):
            shortest = _take_run(place, path, folder, packer)
        else:
            halls = key == "warm_start" or "populations" in place
            shortest = packer.take(place, path, folder, part="hall_of_fame" if halls else "")
        part: Any = job
        for step in place[:-1]:
            part = part[step]
        part[key] = shortest
    return job


def _take_run(place: tuple, path: str, folder: Path, packer: "_Packer") -> str:
    """Take of a run what studies read of it, and what its own job reads."""
    root = Path(os.path.normpath(folder / path))
    if Path(path).is_absolute() or not (root / "job.yaml").is_file():
        return packer.take(place, path, folder)
    for name in _RUN_FILES:
        if (root / name).exists():
            packer.take((*place, name), name, root)
    store = RunStore(root)
    spec = parse_job(store.read_text("job.yaml") or "", f"{root}/job.yaml", "unnamed")
    provenance = json.loads(store.read_text("provenance.json") or "{}")
    job_folder = job_folder_of(store)
    job = _taken(spec, job_folder, packer)
    packer.write(root / "job.yaml", yaml.safe_dump(job, sort_keys=False))
    moved = provenance | {"job_folder": os.path.relpath(job_folder, root)}
    packer.write(root / "provenance.json", json.dumps(moved, indent=1))
    return os.path.relpath(root, folder)


class _Packer:
    """Gathers files.

    Attributes
    ----------
    files : list of Path
    texts : dict of Path to str
        Files that are written anew.
    remote : list of str
        Absolute paths, and URLs.
    links : list of str
        Symbolic links that the job names, and where they lead.
    faults : list of str
    top : Path
        The folder above all files, and above the job file.
    """

    def __init__(self, folder: Path) -> None:
        self.files: list[Path] = []
        self.texts: dict[Path, str] = {}
        self.remote: list[str] = []
        self.links: list[str] = []
        self.faults: list[str] = []
        self.top = folder
        self._folder = folder

    def take(self, place: tuple, path: str, folder: Path, part: str = "") -> str:
        """Add the file or folder at `path`, or only its `part` if it has one; return the shortest path."""
        if is_url(path) or Path(path).is_absolute():
            self.remote.append(path)
            return path
        source = Path(os.path.normpath(folder / path))
        key = place_in_words(place)
        if source.exists():
            self._add(source / part if part and (source / part).is_dir() else source, key)
        else:
            self.faults.append(f"{key}: {path} is not there, seen from {folder}.")
        return os.path.relpath(source, folder)

    def take_if_there(self, *paths: str) -> None:
        """Add those of the files and folders beside the job file that exist."""
        for path in paths:
            if (self._folder / path).exists():
                self._add(self._folder / path, path)

    def take_mechanisms(self) -> None:
        """Add the folder of mod files beside the job file, if it exists."""
        self.take_if_there("mechanisms")
        compiled = [machine for machine in MACHINES if (self._folder / machine).is_dir()]
        if compiled and not (self._folder / "mechanisms").exists():
            self.faults.append(
                f"mechanisms: {compiled[0]} was compiled for this machine and is not sent, and there is no folder "
                f"mechanisms in {self._folder}. Name the folder of the mod files with `mechanisms:` in the job."
            )

    def write(self, file: Path, text: str) -> None:
        """Add a file with another text than it has here."""
        self.top = Path(os.path.commonpath([self.top, file]))
        self.texts[file] = text

    def _add(self, source: Path, key: str) -> None:
        self.top = Path(os.path.commonpath([self.top, source]))
        if source.is_symlink():
            self.links.append(f"{source} -> {source.resolve()}")
        if not source.is_dir():
            self.files.append(source)
            return
        whole = source.resolve()
        for inside in sorted(source.rglob("*")):
            if _LEFT_OUT & set(inside.relative_to(source).parts):
                continue
            if inside.is_symlink() and (inside.is_dir() or not inside.resolve().is_relative_to(whole)):
                self.faults.append(
                    f"{key}: {inside} is a symbolic link to {inside.resolve()}, and only what is in {source} itself is"
                    " sent. Put the file there in place of the link, or name what is meant by an absolute path that"
                    " the cluster sees."
                )
            elif inside.is_file():
                self.files.append(inside)


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
        for name, text in sorted(job_files.texts.items()):
            archive.writestr(_entry(name), text)
        for name, file in sorted(job_files.files.items()):
            try:
                with file.open("rb") as source, archive.open(_entry(name), "w", force_zip64=True) as target:
                    while chunk := source.read(_CHUNK_BYTES):
                        target.write(chunk)
                        if package.stat().st_size > limit_bytes:
                            raise UsageError(_too_large(job_files, limit_bytes))
            except OSError as error:
                raise UsageError(f"{file}: cannot be sent ({error.strerror or error}).") from error
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
        f" Jobs API takes {limit_bytes / 1e6:.0f} MB, packed. Put them (the largest are"
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
