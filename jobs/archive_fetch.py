"""``neurofleet fetch``: recordings and morphologies from public archives, ready to be fitted."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from neurofleet.errors import Interrupted, JobError, UsageError, did_you_mean
from neurofleet.http_download import DownloadError, Web
from neurofleet.jobs.progress import BarProgress, time_left
from neurofleet.jobs.run_folder import interruptible
from neurofleet.jobs.terminal import terminal
from neurofleet.neurosim.exchange.allen_download import find_specimen
from neurofleet.neurosim.exchange.archive_folder import ArchiveFolder, Found
from neurofleet.neurosim.exchange.dandi_download import find_assets
from neurofleet.neurosim.exchange.neuromorpho_download import find_neuron

JOB_FILE = "fit.yaml"


@dataclass(frozen=True)
class Archive:
    """A public archive.

    Attributes
    ----------
    address : str
    pattern, example : str
        Of what stands behind ``ARCHIVE:``.
    folder : callable
        Parts of a name -> the folder for it, below that of the archive.
    find : callable
        Web, parts of a name, whether published models are asked for -> what the archive has.
    here : callable
        Folder, parts of a name, models -> whether all is there already and verified, without a question.
    """

    address: str
    pattern: str
    example: str
    folder: Callable[[Mapping[str, str]], str]
    find: Callable[[Web, Mapping[str, str], bool], Found]
    here: Callable[[ArchiveFolder, Mapping[str, str], bool], bool]


ARCHIVES = {
    "allen": Archive(
        "https://api.brain-map.org",
        r"(?P<number>\d{1,18})",
        "483101699",
        lambda parts: str(int(parts["number"])),
        lambda web, parts, models: find_specimen(web, int(parts["number"]), models).found,
        lambda folder, parts, models: folder.complete(models) and (folder.path / JOB_FILE).exists(),
    ),
    "dandi": Archive(
        "https://api.dandiarchive.org",
        r"(?P<dandiset>\d{6})(@(?P<version>draft|\d+\.\d+\.\d+))?/(?P<path>[^/].*)",
        "000020/sub-601462951/sub-601462951_ses-601808698_icephys.nwb",
        lambda parts: parts["dandiset"],
        lambda web, parts, models: find_assets(web, parts["dandiset"], parts["version"] or "", parts["path"]),
        lambda folder, parts, models: not parts["version"] and folder.verified(parts["path"]),
    ),
    "neuromorpho": Archive(
        "https://neuromorpho.org",
        r"(?P<name>[^/\\]+)",
        "cnic_001",
        lambda parts: parts["name"],
        lambda web, parts, models: find_neuron(web, parts["name"]),
        lambda folder, parts, models: folder.complete(),
    ),
}


@dataclass(frozen=True)
class _Wanted:
    """Something to be fetched."""

    text: str
    archive: str
    parts: Mapping[str, str]

    @property
    def source(self) -> Archive:
        return ARCHIVES[self.archive]


def fetch_command(names: Sequence[str], out: Path | None, address: str | None = None, models: bool = False) -> None:
    """Download what archives have under some names.

    What is there already is verified and not downloaded again. All names are looked up before the first file is
    downloaded; one that fails does not keep the others from being downloaded.

    Parameters
    ----------
    names : sequence of str
        Such as ``allen:483101699``, ``dandi:000020/PATH`` or ``neuromorpho:cnic_001``.
    out : Path or None
        The folder; by default one with the name of the archive.
    address : str or None
        Of the archive, or of a mirror with the same routes; by default that in the environment variable
        ``NEUROFLEET_ARCHIVE_ADDRESS`` (as ``NEUROFLEET_ALLEN_ADDRESS``), else the archive's own.
    models : bool
        The published all-active and perisomatic models of cells of the Allen Institute as well.

    Raises
    ------
    UsageError, InputError
        A name that is none, an address that is none, or something that the archive does not have.
    JobError
        Something could not be downloaded.
    Interrupted
        On Ctrl-C; the same command goes on.
    """
    wanted = [_wanted(name) for name in dict.fromkeys(names)]
    archives = list(dict.fromkeys(one.archive for one in wanted))
    if address is not None and len(archives) > 1:
        raise UsageError(
            f"--address: expected names of one archive, found {' and '.join(archives)}. Fetch them separately."
        )
    places = {archive: Path(archive) if out is None else out for archive in archives}
    for place in places.values():
        if place.exists() and not place.is_dir():
            raise UsageError(f"--out {place} is a file; expected the name of a folder.")
    console = terminal(errors=True)

    def print_line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    webs = {archive: _web(archive, address, print_line) for archive in archives}
    failed: list[str] = []
    try:
        with interruptible():
            paths = [places[one.archive] / one.source.folder(one.parts) for one in wanted]
            folders = {path: ArchiveFolder(path) for path in paths}  # files of one dandiset share theirs
            left = [
                None if one.source.here(folders[path], one.parts, models) else _find(webs[one.archive], one, models)
                for one, path in zip(wanted, paths, strict=True)
            ]
            for one, path, found in zip(wanted, paths, left, strict=True):
                try:
                    _fetch(webs[one.archive], one, found, folders[path], console)
                except DownloadError as error:
                    print_line(f"{one.text}: {error}")
                    failed.append(one.text)
    except DownloadError as error:
        raise JobError(str(error)) from error
    except KeyboardInterrupt:
        raise Interrupted("interrupted. The same command goes on where this one stopped.") from None
    if failed:
        raise JobError(
            f"{len(failed)} of {len(wanted)} could not be downloaded: {', '.join(failed)}. The same command goes on."
        )


def _find(web: Web, one: _Wanted, models: bool) -> Found:
    return one.source.find(web, one.parts, models)


def _wanted(name: str) -> _Wanted:
    archive, colon, rest = name.strip().partition(":")
    examples = " or ".join(f"{known}:{source.example}" for known, source in ARCHIVES.items())
    if not colon or archive not in ARCHIVES:
        hint = f" Did you mean allen:{name}?" if name.isdigit() else did_you_mean(archive, ARCHIVES) + "."
        raise UsageError(f"expected a name such as {examples}, found {name!r}.{hint if hint != '.' else ''}")
    source = ARCHIVES[archive]
    match = re.fullmatch(source.pattern, rest)
    if match is None or any(part in (".", "..", "") for part in PurePosixPath(rest).parts) or ".." in rest.split("/"):
        raise UsageError(f"expected a name such as {archive}:{source.example}, found {name!r}.")
    return _Wanted(name.strip(), archive, match.groupdict())


def _web(archive: str, address: str | None, report: Callable[[str], None]) -> Web:
    variable = f"NEUROFLEET_{archive.upper()}_ADDRESS"
    try:
        return Web(address or os.environ.get(variable) or ARCHIVES[archive].address, report=report)
    except ValueError as error:
        raise UsageError(f"{'--address' if address else variable}: {error}") from error


def _fetch(web: Web, one: _Wanted, found: Found | None, folder: ArchiveFolder, console: Console) -> None:
    """Download what `folder` lacks, or say that it lacks nothing."""
    if found is None:
        console.print(f"{one.text}: all there already and verified, in {folder.path}", soft_wrap=True)
        return
    console.print(f"{one.text}: {found.summary}", soft_wrap=True, highlight=False, markup=False)
    folder.begin(found, web.address)
    for file in found.files:
        with _FileProgress(file.name, console) as progress:
            done = folder.fetch(web, file, progress.watch)
        size = decimal(done.path.stat().st_size)
        how = f"{size}, there already and verified" if done.there_already else size
        console.print(f"  {done.path}: {how}", soft_wrap=True, highlight=False)
        if done.note:
            console.print(f"  note: {done.note}", soft_wrap=True, highlight=False, markup=False)
    folder.end()
    for note in found.notes:
        console.print(f"  note: {note}", soft_wrap=True, highlight=False, markup=False)
    job = folder.path / JOB_FILE
    if found.job:
        if not job.exists():
            job.write_text(found.job, encoding="utf-8")
        console.print(f"Fit it: neurofleet run {job} --out {folder.path / 'fit'}", soft_wrap=True)
    elif one.archive != "allen":
        first = folder.path / found.files[0].name
        key = "recordings" if found.files[0].kind == "recording" else "morphology"
        console.print(f"Look at it: neurofleet inspect {first}. In a job: `{key}: {first}`.", soft_wrap=True)


class _FileProgress(BarProgress):
    """How much of a file is here, and how long the rest takes."""

    def __init__(self, name: str, console: Console) -> None:
        self._name = name
        self._first: int | None = None  # bytes that were here before
        self._here, self._size = 0, None  # type: int, int | None
        self._started = time.monotonic()
        columns = [BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
        super().__init__(f"  {name}", None, console, columns, self._text)

    def watch(self, here: int, size: int | None) -> None:
        """Show that `here` bytes of `size` are here."""
        if self._first is None or here < self._first:
            self._first = here
        self._here, self._size = here, size
        self.update(here, size)

    def _text(self) -> str:
        text = f"  {self._name}: {self._here / 1e6:,.1f} MB"
        new = self._here - (self._first or 0)
        if self._size is not None and new > 0:
            left = (self._size - self._here) * (time.monotonic() - self._started) / new
            text = ", ".join(filter(None, [f"{text} of {self._size / 1e6:,.1f} MB", time_left(left)]))
        return text
