"""Recognise the format of a recording by its content, and open it with the reader for it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import h5py

from neurofleet.errors import InputError
from neurofleet.neurosim.file_endings import MORPHOLOGY_SUFFIXES, RECORDING_SUFFIXES
from neurofleet.neurosim.recordings.abf_files import open_abf
from neurofleet.neurosim.recordings.igor_waves import open_igor_waves
from neurofleet.neurosim.recordings.neo_files import open_with_neo
from neurofleet.neurosim.recordings.nwb2 import open_nwb2
from neurofleet.neurosim.recordings.nwb_allen import open_nwb_allen
from neurofleet.neurosim.recordings.recorded_channels import CurrentSource
from neurofleet.neurosim.recordings.sweep_entries import SweepEntry
from neurofleet.neurosim.recordings.winwcp_files import open_winwcp

FORMATS = (
    "NWB 2, the Allen NWB 1.x layout, ABF 1 and 2 (pCLAMP), a folder of Igor binary waves (.ibw), WinWCP (.wcp), "
    "Spike2 (.smr) and AxoGraph (.axgx, .axgd)"
)
FILES_APART = 1000  # numbers between the sweeps of one file of a folder and those of the next


def open_entries(path: Path, current: CurrentSource | None = None) -> AbstractContextManager[list[SweepEntry]]:
    """Open a recording file, or a folder of them, with the reader for its format, and list its sweeps.

    Parameters
    ----------
    path : Path
    current : "command" or "recorded", optional
        Which current is used where a file has both; by default the command, with which a recorded one has to agree.

    Raises
    ------
    InputError
        No such file, damaged, or of a format that is not read.
    """
    if path.is_dir():
        return _open_folder(path, current)
    if not path.is_file():
        raise InputError(f"{path}: no such recording file. Check `recordings:` (paths are relative to the job file).")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the recording file is empty (0 bytes). Copy it again from its source.")
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}). Check its permissions.") from error
    if h5py.is_hdf5(path):
        return _open_hdf5(path)
    if start[:4] in (b"ABF ", b"ABF2"):
        return open_abf(path, current)
    if start[:4] in (b"AxGr", b"axgx"):
        return open_with_neo(path, "AxoGraph", current)
    if start[2:12] == b"(C) CED 87":
        return open_with_neo(path, "Spike2", current)
    if start[:4] == b"VER=" and b"\nNR=" in start and b"\nNBA=" in start:
        return open_winwcp(path, current)
    if path.suffix.casefold() == ".ibw":
        return open_igor_waves(path, current)
    found, advice = _other_format(path, start)
    raise InputError(f"{path}: not a recording that can be read: found {found}. {advice} Formats read: {FORMATS}.")


def _open_hdf5(path: Path) -> AbstractContextManager[list[SweepEntry]]:
    try:
        with h5py.File(path, "r") as file:
            is_nwb2 = "nwb_version" in file.attrs
            has_epochs = isinstance(file.get("epochs"), h5py.Group) and any(
                name.startswith("Sweep_") for name in file["epochs"]
            )
            names = sorted(file)
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{path}: the HDF5 file cannot be opened ({error}); it is damaged or still being written. "
            "Copy it again from its source."
        ) from error
    groups = ", ".join(names[:8]) or "nothing"
    if is_nwb2:
        return open_nwb2(path)
    if has_epochs:
        return open_nwb_allen(path)
    if {"points", "structure"} <= {*names}:
        raise InputError(
            f"{path}: expected a recording, found a morphology (MorphIO's HDF5). Are `morphology:` and `recordings:` "
            "swapped?"
        )
    if "acquisition" in names and "nwb_version" in names:
        raise InputError(
            f"{path}: found NWB 1 in another layout than Allen's, which is not read. Write it as NWB 2: MIES exports "
            f"its experiments anew, and ipfx converts them (x_to_nwb). Formats read: {FORMATS}."
        )
    raise InputError(
        f"{path}: expected an NWB 2 file or the Allen NWB 1.x layout (/epochs/Sweep_N), found an HDF5 file "
        f"that holds {groups}. Convert the recording to NWB 2. Formats read: {FORMATS}."
    )


@contextmanager
def _open_folder(path: Path, current: CurrentSource | None) -> Iterator[list[SweepEntry]]:
    """Open all recordings of a folder as one; the sweeps of the second file are numbered from 1000 on."""
    if (path / ".zgroup").exists() or (path / "zarr.json").exists():
        raise InputError(
            f"{path}: found NWB in Zarr, which is not read. Export it to HDF5 with hdmf-zarr: "
            "NWBZarrIO(path, 'r') as source, NWBHDF5IO(new, 'w').export(source)."
        )
    files = sorted(file for file in path.iterdir() if file.suffix.casefold() in RECORDING_SUFFIXES and file.is_file())
    suffixes = sorted({file.suffix.casefold() for file in files})
    if len(suffixes) != 1:
        found = ", ".join(suffixes) or "none of them"
        raise InputError(
            f"{path}: expected a folder with recordings of one format ({', '.join(RECORDING_SUFFIXES)}), found "
            f"{found}. Name one file, or put those of one cell into a folder."
        )
    with ExitStack() as stack:
        if suffixes == [".ibw"]:
            yield stack.enter_context(open_igor_waves(path, current))
            return
        opened = [stack.enter_context(open_entries(file, current)) for file in files]
        yield [
            replace(entry, number=entry.number + FILES_APART * index * (len(files) > 1))
            for index, entries in enumerate(opened)
            for entry in entries
        ]


def _other_format(path: Path, start: bytes) -> tuple[str, str]:
    """Return what a file is, as far as that can be told, and how it can be converted."""
    suffix = path.suffix.casefold()
    if suffix in MORPHOLOGY_SUFFIXES:
        return f"a morphology ({suffix})", "Are `morphology:` and `recordings:` swapped?"
    if start[:4] in (b"DAT1", b"DAT2", b"DATA"):
        advice = (
            "Export its series from PatchMaster as Igor binary waves, or read them with myokit "
            "(myokit.formats.heka.PatchMasterFile) and write them as NWB 2 with pynwb."
        )
        return "a HEKA PatchMaster file", advice
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself", "Run `git lfs pull` where it came from."
    if start.lstrip()[:1] == b"<":
        return "a web page", "Download the file again."
    if start.startswith(b"ATF"):
        return "an Axon text file (ATF)", "Save it as ABF from Clampfit."
    if start.startswith(b"CEDFILE"):
        return "a CED Signal file (CFS)", "Export it from Signal as Axon ABF or as Spike2 .smr."
    if suffix == ".smrx":
        return "a 64-bit Spike2 file", "Save it from Spike2 as a 32-bit file (File > Export As > .smr)."
    if suffix == ".pxp":
        return "a packed Igor experiment", "Save its waves from Igor Pro (Data > Save Waves > Save Igor Binary)."
    if start[:4] == b"VER=":
        return "a WinEDR file", "Export it from WinEDR as ABF."
    if start[:2] in (b"\x1f\x8b", b"PK"):
        return "a compressed file", "Unpack it first."
    if start.startswith(b"MATLAB"):
        return "a MATLAB file", "Write its sweeps as NWB 2, with pynwb or MatNWB."
    printable = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start[:200])
    kind = "text" if printable else f"{suffix or 'no suffix'}, which begins with {start[:8]!r}"
    return kind, "Write its sweeps as NWB 2, with pynwb for instance."
