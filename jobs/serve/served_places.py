"""Which files of this machine a visitor may have read: those below the root and the listed folders, after all links."""

import glob
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from neurofleet.errors import UsageError
from neurofleet.faults import place_in_words
from neurofleet.input_paths import LOCAL_SCHEMES, REMOTE_SCHEMES, is_url, with_home
from neurofleet.jobs.job_file import JobSpec, inputs_in, parse_job

SHOWN = 200
JOB, PROVENANCE = "job.yaml", "provenance.json"


@dataclass(frozen=True)
class ServedPlaces:
    """The folders whose files are read for visitors.

    Attributes
    ----------
    root : Path
    others : sequence of Path
    """

    root: Path
    others: Sequence[Path] = ()

    def holds(self, path: str | Path) -> bool:
        """Whether a path of this machine is, behind its links, in one of the folders."""
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(os.path.realpath(place)) for place in (self.root, *self.others))

    def path(self, name: str) -> Path:
        """Return a file or folder by its path below the root, or its absolute path, after all links.

        Raises
        ------
        UsageError
            It leads out, or is not there.
        """
        with suppress(OSError, ValueError):
            real = Path(os.path.realpath(self.root / name))
            if self.holds(real) and real.exists():
                return real
        raise UsageError(
            f"{name[:SHOWN]!r} is no file below {self.root}, which alone is read. Give a path below it, or upload the "
            "file."
        )

    def refuse_words(self, content: Any) -> None:
        """Refuse the content of a job file before anything is read that it may name.

        Raises
        ------
        UsageError
            A word in it, taken for a path that starts at the root, leads out of the folders.
        """
        for word in _words(content):
            for part in {word, *(each.strip() for each in word.split(","))}:
                self._refuse(part, self.root, "the job")

    def refuse_inputs(self, spec: JobSpec, folder: Path) -> None:
        """Refuse a job that reads other files, itself or by the jobs of the runs that it names.

        Parameters
        ----------
        spec : JobSpec
        folder : Path
            Where its relative paths start.

        Raises
        ------
        UsageError
        """
        for _, read, start in self._jobs(spec, folder, set()):
            for place, path in inputs_in(read):
                self._refuse(path, start, place_in_words(place))

    def own_code(self, spec: JobSpec, folder: Path) -> list[str]:
        """Return the keys by which a job runs a user's own code, also those of the jobs of runs that it names."""
        found = []
        for run, read, _ in self._jobs(spec, folder, set()):
            keys = {str(place[-1]) for place, _ in inputs_in(read) if place[-1] == "mechanisms"}
            keys |= {"evaluator"} if getattr(read, "evaluator", None) else set()
            found += [f"{key} of {run}" if run else key for key in sorted(keys)]
        return found

    def _jobs(self, spec: JobSpec, folder: Path, seen: set[Path]) -> Iterator[tuple[str, JobSpec, Path]]:
        """Yield a job, and those of runs that it names: the run, its job, and where its relative paths start."""
        yield "", spec, folder
        for _, path in inputs_in(spec):
            if (local := _local(str(path))) is None:
                continue
            run = Path(os.path.realpath(folder / with_home(local)))
            if run in seen or not self.holds(run) or not (run / JOB).is_file():
                continue
            seen.add(run)
            try:
                provenance = (run / PROVENANCE).read_text() if (run / PROVENANCE).is_file() else None
                inner = parse_job((run / JOB).read_text(), f"{path}/{JOB}", "unnamed")
            except (OSError, ValueError):
                continue  # the job refuses what is no run, and says why
            for deeper, job, start in self._jobs(inner, run / job_folder_in(provenance), seen):
                yield deeper or str(path), job, start

    def _refuse(self, path: str, folder: Path, place: str) -> None:
        if is_url(path) and _scheme(path) in REMOTE_SCHEMES:
            return
        try:
            local = _local(path)
            inside = local is not None and self.holds(folder / with_home(_without_pattern(local)))
        except (OSError, ValueError):
            inside = False
        if not inside:
            raise UsageError(
                f"{place}: {path[:SHOWN]!r} is not below {self.root}, which alone is served. Put what it names there, "
                "or have the server started with `--models FOLDER` for its folder."
            )


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _local(path: str) -> str | None:
    """Return a path of this machine, also one that is given as a URL; None of any other URL."""
    if not is_url(path):
        return path
    return unquote(urlsplit(path).path) if _scheme(path) in LOCAL_SCHEMES else None


def provenance_in(text: str | None) -> dict[str, Any]:
    """Return what provenance.json says of a run; nothing where it is missing or damaged."""
    try:
        provenance = json.loads(text or "{}")
    except ValueError:
        return {}
    return provenance if isinstance(provenance, dict) else {}


def job_folder_in(provenance: str | None) -> str:
    """Return where the relative paths of a run's job start, seen from the run."""
    return str(provenance_in(provenance).get("job_folder", "."))


def _words(content: Any) -> Iterator[str]:
    """Yield all text in a job, and keys that may be paths."""
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(key, str) and ("/" in key or "~" in key):
                yield key
            yield from _words(value)
    elif isinstance(content, list):
        for value in content:
            yield from _words(value)
    elif isinstance(content, str):
        yield content


def _without_pattern(path: str) -> str:
    """Return the part of a path before the first name that stands for several."""
    if not glob.has_magic(path):
        return path
    parts = Path(path).parts
    first = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    behind = [part for part in parts[first:] if part == ".."]
    return str(Path(*parts[:first], *behind)) if parts else path
