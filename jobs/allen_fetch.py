"""``neurofleet fetch``: cells of the Allen Cell Types Database, ready to be fitted."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

from neurofleet.errors import Interrupted, JobError, UsageError
from neurofleet.http_download import DownloadError, Web
from neurofleet.jobs.progress import BarProgress, duration
from neurofleet.jobs.run_folder import interruptible
from neurofleet.jobs.terminal import terminal
from neurofleet.neurosim.exchange.allen_download import Specimen, SpecimenFolder, find_specimen

JOB_FILE = "fit.yaml"


def fetch_command(specimens: Sequence[str], out: Path, address: str, models: bool = False) -> None:
    """Download recording, morphology and metadata of each specimen into ``out/NUMBER``.

    What is there already is verified and not downloaded again. All specimens are looked up before the first
    file is downloaded; one that fails does not keep the others from being downloaded.

    Parameters
    ----------
    specimens : sequence of str
        Such as ``allen:483101699``.
    out : Path
    address : str
        Of the database, or of a mirror with the same routes.
    models : bool
        The published all-active and perisomatic models as well.

    Raises
    ------
    UsageError, InputError
        A name that is none, an address that is none, or a specimen that does not exist.
    JobError
        Something could not be downloaded.
    Interrupted
        On Ctrl-C; the same command goes on.
    """
    numbers = [_number(name) for name in dict.fromkeys(specimens)]
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; expected the name of a folder.")
    console = terminal(errors=True)

    def print_line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    try:
        web = Web(address, report=print_line)
    except ValueError as error:
        raise UsageError(f"--address: {error}") from error
    failed: list[str] = []
    try:
        with interruptible():
            folders = {number: SpecimenFolder(out / str(number)) for number in numbers}
            specimens_left = {
                n: None if f.complete(models) else find_specimen(web, n, models) for n, f in folders.items()
            }
            for number, specimen in specimens_left.items():
                try:
                    _fetch(web, number, specimen, folders[number], console)
                except DownloadError as error:
                    print_line(f"allen:{number}: {error}")
                    failed.append(f"allen:{number}")
    except DownloadError as error:
        raise JobError(str(error)) from error
    except KeyboardInterrupt:
        raise Interrupted("interrupted. The same command goes on where this one stopped.") from None
    if failed:
        raise JobError(
            f"{len(failed)} of {len(numbers)} specimens could not be downloaded: {', '.join(failed)}. "
            "The same command goes on."
        )


def _number(name: str) -> int:
    match = re.fullmatch(r"allen:(\d{1,18})", name.strip())
    if match is None:
        hint = f" Did you mean allen:{name}?" if name.isdigit() else ""
        raise UsageError(f"expected a specimen such as allen:483101699, found {name!r}.{hint}")
    return int(match[1])


def _fetch(web: Web, number: int, specimen: Specimen | None, folder: SpecimenFolder, console: Console) -> None:
    """Download what `folder` lacks of a specimen, or say that it lacks nothing."""
    if specimen is None:
        console.print(f"allen:{number}: all there already and verified, in {folder.path}", soft_wrap=True)
        return
    console.print(f"allen:{number}: {specimen.summary}", soft_wrap=True, highlight=False, markup=False)
    folder.begin(specimen, web.address)
    for file in specimen.files:
        with _FileProgress(file.name, console) as progress:
            done = folder.fetch(web, file, progress.watch)
        size = decimal(done.path.stat().st_size)
        how = f"{size}, there already and verified" if done.there_already else size
        console.print(f"  {done.path}: {how}", soft_wrap=True, highlight=False)
        if done.note:
            console.print(f"  note: {done.note}", soft_wrap=True, highlight=False, markup=False)
    folder.end()
    if specimen.metadata.get("neuronal_models") == []:
        console.print("  note: the database has no all-active or perisomatic model of it.", soft_wrap=True)
    if specimen.lacks:
        lacks = " and no ".join(specimen.lacks)
        console.print(f"  note: the database has no {lacks} of it, so it cannot be fitted.", soft_wrap=True)
        return
    job = folder.path / JOB_FILE
    if not job.exists():
        job.write_text(_job(specimen), encoding="utf-8")
    console.print(f"Fit it: neurofleet run {job} --out {folder.path / 'fit'}", soft_wrap=True)


def _job(specimen: Specimen) -> str:
    """Return a job that fits the specimen, to be changed by its user."""
    number = specimen.number
    dendrite = "spiny" if specimen.metadata.get("tag__dendrite_type") == "spiny" else "aspiny"
    return (
        f"# {specimen.summary}\n"
        "kind: fit\n"
        f"name: allen-{number}\n"
        "cells:\n"
        f"  - id: '{number}'\n"
        f"    morphology: {number}.swc\n"
        f"    recordings: {number}.nwb\n"
        f"    dendrite: {dendrite}\n"
        "recipe: all-active\n"
    )


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
            text += f" of {self._size / 1e6:,.1f} MB, about {duration(left)} left"
        return text
