"""Damaged files for every reader: each is read or refused with a message, in bounded time and memory.

Run by hand: ``python -m tests.benchmarks.fuzz --inputs 2000``. Every input is a small valid file with a fault put in:
flipped bits, a cut, strange numbers, other shapes, links to other files, claims of a size that is not there. It is read
in a process of its own. What is neither read nor refused by a `NeurofleetError` is printed with its seed, and
``--only SEED --keep FOLDER`` makes that one file again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from neurofleet.errors import NeurofleetError
from tests.learners.cells.made_cells import made_counts, written
from tests.learners.hippie.small_units import write_units

LIMIT_S = 60.0
SLOW_S = 10.0  # what takes longer is printed, too
MEMORY_MB = 3000
"""Beyond what the process has when it begins; a reader that believes a file's claim of its size goes beyond it."""

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Sample:
    """A valid input, and what reads it: a file, or a folder of which one file is damaged."""

    name: str
    path: Path
    read: Callable[[Path], Any]


def read_recording(path: Path) -> None:
    from neurofleet.neurosim.recordings.recording import read_recording

    read_recording(path, stimuli=["*"])


def read_morphology(path: Path) -> None:
    from neurofleet.neurosim.cells.morphology_check import check_morphology

    check_morphology(path)


def read_mechanisms(path: Path) -> None:
    from neurofleet.neurosim.mechanisms import UserMechanisms

    UserMechanisms.read(path)


def read_recipe(path: Path) -> None:
    from neurofleet.neurosim.cells.recipe import load_recipe

    load_recipe(str(path), "spiny", path.parent)


def read_job(path: Path) -> None:
    from neurofleet.jobs.job_file import load_job

    load_job(path)


def read_cells(path: Path) -> None:
    from neurofleet.learners.cells.cell_files import open_cells

    cells = open_cells(path)
    for _ in cells.blocks():
        pass


def read_units(path: Path) -> None:
    from neurofleet.learners.units.unit_files import open_units

    open_units(path)


def read_activity(path: Path, layout: dict[str, Any] | None = None) -> None:
    from neurofleet.learners.neuprint.recording_files import open_recordings

    open_recordings(path, layout or {})


def read_model(path: Path) -> None:
    import neurofleet

    neurofleet.load_model(path)


def read_run(path: Path) -> None:
    import neurofleet

    run = neurofleet.open_run(path)
    run.status  # noqa: B018
    for table in run.tables:
        run.sql(f'select count(*) from "{table}"')


BY_ENDING = {
    ".nwb": (read_recording, read_units, read_activity),
    ".abf": (read_recording,),
    ".ibw": (read_recording,),
    ".wcp": (read_recording,),
    ".smr": (read_recording,),
    ".axgx": (read_recording,),
    ".axgd": (read_recording,),
    ".swc": (read_morphology,),
    ".asc": (read_morphology,),
    ".h5ad": (read_cells,),
    ".h5mu": (read_cells,),
    ".loom": (read_cells,),
    ".csv": (read_cells, read_units),
    ".tsv": (read_cells, read_units),
    ".parquet": (read_cells, read_units),
    ".npz": (read_units, read_activity),
    ".yaml": (read_job, read_recipe),
    ".h5": (read_cells, read_activity),
}


def patch_clamp_samples(folder: Path) -> Iterator[Sample]:
    """Yield recordings in the formats of acquisition programs."""
    from tests.neurosim.recordings import program_files as program
    from tests.neurosim.recordings.test_program_files import BOTH, COMMAND, CURRENTS, VOLTAGES

    both = [("IN 0", "mV"), ("IN 1", "pA")]
    titles = ("Vm (mV)", "Im (nA)") * len(VOLTAGES)
    columns = [values for pair in zip(VOLTAGES, CURRENTS, strict=True) for values in pair]
    waves = folder / "waves"
    waves.mkdir()
    for number, (voltage, current) in enumerate(zip(VOLTAGES, CURRENTS, strict=True)):
        program.write_ibw(waves / f"X_step_ch0_{number}.ibw", current * 1e3, "pA", 1e-4)
        program.write_ibw(waves / f"X_step_ch1_{number}.ibw", voltage, "mV", 1e-4)
    gap_free = [("Vm", "mV", np.concatenate(VOLTAGES)), ("Im", "nA", np.concatenate(CURRENTS))]
    made = {
        "abf2.abf": program.write_abf2(folder / "abf2.abf", BOTH, both, [COMMAND]),
        "abf1.abf": program.write_abf1(folder / "abf1.abf", BOTH, both, [COMMAND]),
        "waves.ibw": waves,
        "winwcp.wcp": program.write_wcp(folder / "winwcp.wcp", list(BOTH), [("Vm", "mV"), ("Im", "pA")]),
        "axograph.axgx": program.write_axograph(folder / "axograph.axgx", list(zip(titles, columns, strict=True))),
        "spike2.smr": program.write_smr(folder / "spike2.smr", gap_free),
    }
    for name, path in made.items():
        yield Sample(name, path, read_recording)


def morphology_samples(folder: Path) -> Iterator[Sample]:
    """Yield morphologies that are no plain SWC."""
    from neurofleet.neurosim.cells.morphology_readers import read_reconstruction
    from tests.neurosim.cells.small_cells import AXON_SWC
    from tests.neurosim.cells.test_morphology_check import asc_soma
    from tests.neurosim.cells.test_morphology_reading import CIRCLE, ROUND, write_hdf5

    (folder / "axon.swc").write_text(AXON_SWC)
    (folder / "outline.swc").write_text(CIRCLE + "7 3 9 0 0 1 1\n8 3 80 0 0 1 7\n")
    (folder / "cell.asc").write_text(asc_soma(f'("CellBody" (CellBody) {ROUND})'))
    write_hdf5(folder / "morphio.h5", read_reconstruction(folder / "axon.swc"), [[0, 0, 0, 16]])
    for name in ("outline.swc", "cell.asc", "morphio.h5"):
        yield Sample(name, folder / name, read_morphology)


def cell_samples(folder: Path) -> Iterator[Sample]:
    """Yield cells by genes as other programs write them."""
    from tests.learners.cells import test_cell_formats as cells
    from tests.learners.cells.made_rds import written_rds
    from tests.learners.cells.test_seurat_files import seurat_5

    made = {
        "10x.h5": cells.tenx(folder / "10x.h5"),
        "10x, version 2.h5": cells.tenx_version_2(folder / "10x2.h5"),
        "cells.loom": cells.loom(folder / "cells.loom"),
        "cells.h5mu": cells.h5mu(folder / "cells.h5mu"),
        "old.h5ad": cells.old_h5ad(folder / "old.h5ad"),
        "cells.h5seurat": cells.h5seurat(folder / "cells.h5seurat"),
        "cells.parquet": cells.parquet(folder / "cells.parquet"),
        "cells.h5ad.gz": cells.gzipped(folder / "packed.h5ad.gz"),
        "mtx": cells.mtx(folder / "mtx"),
        "seurat.rds": written_rds(seurat_5(), folder / "seurat.rds"),
    }
    for name, path in made.items():
        yield Sample(name, path, read_cells)


def unit_samples(folder: Path) -> Iterator[Sample]:
    """Yield folders of spike sorters, units in NWB, and the results of suite2p and CaImAn."""
    from tests.learners.neuprint.test_array_sessions import caiman, suite2p
    from tests.learners.units.test_sorter_folders import analyzer, cell_metrics, matlab_7_3, phy
    from tests.learners.units.test_unit_files import nwb

    yield Sample("units.nwb", nwb(folder / "units.nwb"), read_units)
    yield Sample("phy", phy(folder / "phy"), read_units)
    yield Sample("analyzer", analyzer(folder / "analyzer"), read_units)
    metrics = folder / "day.cell_metrics.cellinfo.mat"
    matlab_7_3(metrics, {"cell_metrics": cell_metrics()})
    yield Sample("cellexplorer.mat", metrics, read_units)
    times = np.arange(80) / 15
    yield Sample("suite2p", suite2p(folder / "plane0", t=times), lambda path: read_activity(path, {"frame_times": "t"}))
    yield Sample("caiman.hdf5", caiman(folder / "caiman.hdf5"), read_activity)


def samples(folder: Path, others: list[Path]) -> Iterator[Sample]:
    """Yield what is damaged: files made here, stored runs and models, and files of other folders by their ending."""
    from neurofleet.jobs.demo import make_input
    from tests.learners.neuprint.test_nwb_recordings import write as write_ophys
    from tests.learners.neuprint.test_recording_files import write as write_session

    yield from patch_clamp_samples(folder)
    yield from morphology_samples(folder)
    yield from cell_samples(folder)
    yield from unit_samples(folder)
    make_input(folder / "fit")
    yield Sample("recording.nwb", folder / "fit" / "cell.nwb", read_recording)
    yield Sample("morphology.swc", folder / "fit" / "cell.swc", read_morphology)
    cells = made_counts(n_cells=30, n_genes=12)
    for name in ("cells.h5ad", "cells.csv", "cells.csv.gz"):
        yield Sample(name, written(cells, folder / name), read_cells)
    yield Sample("cells.zarr", written(cells, folder / "cells.zarr"), read_cells)
    yield Sample("units.npz", write_units(folder / "units.npz", 12), read_units)
    yield Sample("session.npz", write_session(folder / "session.npz"), read_activity)
    yield Sample("session.nwb", write_ophys(folder / "session.nwb")[0], read_activity)
    mechanisms = folder / "mechanisms"
    mechanisms.mkdir()
    shutil.copy(ROOT / "neurosim" / "mechanisms" / "mod" / "NaTs2_t.mod", mechanisms)
    yield Sample("mechanism.mod", mechanisms, read_mechanisms)
    yield Sample("recipe.yaml", ROOT / "neurosim" / "recipes" / "demo.yaml", read_recipe)
    for kind in sorted((ROOT / "tests" / "old_runs").iterdir()):
        if (kind / "job.yaml").is_file():
            yield Sample(f"run {kind.name}", kind, read_run)
            yield Sample(f"{kind.name}.yaml", kind / "job.yaml", read_job)
    for model in sorted((ROOT / "tests" / "learners" / "old_models").iterdir()):
        yield Sample(f"model {model.name}", model, read_model)
    for other in others:
        for path in sorted(other.rglob("*")):
            if path.is_file() and path.stat().st_size < 2**22:
                for read in BY_ENDING.get(path.suffix.lower(), ()):
                    yield Sample(f"{path.parent.name}/{path.name}", path, read)


Fault = Callable[[Path, np.random.Generator], None]


def flip_bits(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    for position in rng.integers(0, max(len(content), 1), int(rng.integers(1, 20))):
        if content:
            content[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def cut(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(0, len(content) + 1))])


def overwrite(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    start = int(rng.integers(0, max(len(content), 1)))
    length = int(rng.integers(1, 200))
    filling = [b"\0" * length, b"\xff" * length, rng.bytes(length), b"\xff\xff\xff\x7f"][int(rng.integers(4))]
    content[start : start + len(filling)] = filling
    path.write_bytes(content)


def repeat_a_part(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    start, stop = sorted(int(at) for at in rng.integers(0, len(content) + 1, 2))
    path.write_bytes(content[:stop] + content[start:])


def insert(path: Path, rng: np.random.Generator) -> None:
    content = path.read_bytes()
    at = int(rng.integers(0, len(content) + 1))
    path.write_bytes(content[:at] + rng.bytes(int(rng.integers(1, 50))) + content[at:])


TOKENS = [
    *("nan", "inf", "-1", "1e999", "0", "99999999999999999999", "1.5", "true", "null", ""),
    *("''", "=", "{", "[", "-", "&a", "*a", "<<: *a", "!!python/object:os.system", "\t", "\r\n", "\x00"),
    *("é", "../../etc/passwd", "/etc/shadow", "%s%s%n", "[red]", "$x^$", "a" * 5000),
]


def replace_token(path: Path, rng: np.random.Generator) -> None:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    words = list(re.finditer(r"[^\s,:;()\[\]{}]+", text))
    if not words:
        return
    for _ in range(int(rng.integers(1, 4))):
        word = words[int(rng.integers(len(words)))]
        text = text[: word.start()] + TOKENS[int(rng.integers(len(TOKENS)))] + text[word.end() :]
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def drop_or_swap_lines(path: Path, rng: np.random.Generator) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if len(lines) > 2:
        one, other = (int(at) for at in rng.integers(0, len(lines), 2))
        lines[one], lines[other] = lines[other], lines[one]
        del lines[int(rng.integers(len(lines)))]
    path.write_bytes(b"".join(lines))


def another_object(path: Path, rng: np.random.Generator) -> None:
    """Put something strange in the place of an object of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = names[int(rng.integers(len(names)))]
        item = file[name]
        kind = int(rng.integers(9))
        shape = item.shape if isinstance(item, h5py.Dataset) else (3,)
        attributes = dict(item.attrs)
        if kind == 0 and attributes:
            key = list(attributes)[int(rng.integers(len(attributes)))]
            strange = [np.nan, "", -1, np.zeros((2, 2)), "x" * 3000, np.array([], float)]
            item.attrs[key] = strange[int(rng.integers(len(strange)))]
            return
        if kind == 1 and attributes:
            del item.attrs[list(attributes)[int(rng.integers(len(attributes)))]]
            return
        del file[name]
        if kind == 2:
            file[name] = h5py.ExternalLink("/etc/passwd", "/")
        elif kind == 3:
            file[name] = h5py.SoftLink(f"/{name}")
        elif kind == 4:  # ten gigabytes and more, of which nothing is stored
            large = (2**31, *shape[1:]) if shape else (2**31,)
            file.create_dataset(name, shape=large, dtype="f8", chunks=(1024, *shape[1:]) if shape else True)
        elif kind == 5:
            file[name] = np.array([b"text"] * 3)
        elif kind == 6:
            file[name] = np.full(shape or (1,), np.nan)
        elif kind == 7:
            file[name] = rng.normal(size=tuple(rng.integers(0, 4, int(rng.integers(0, 4)))))
        if kind not in (3, 2) and name in file:
            for key, value in attributes.items():
                file[name].attrs[key] = value


def another_member(path: Path, rng: np.random.Generator) -> None:
    """Put something strange in the place of an array of an npz file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = list(members)[int(rng.integers(len(members)))]
    kind = int(rng.integers(6))
    buffer = io.BytesIO()
    if kind == 0:
        np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == 1:
        np.save(buffer, rng.normal(size=tuple(rng.integers(0, 5, int(rng.integers(0, 4))))))
    elif kind == 2:
        np.save(buffer, np.array(["a", "b"]))
    elif kind == 3:  # a header that claims 8 TB
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
        header += b" " * (117 - len(header)) + b"\n"
        buffer.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64)
    elif kind == 4:
        members[f"../../{name}"] = members[name]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in members.items():
            archive.writestr(other, buffer.getvalue() if other == name and kind < 4 else content)
        if kind == 5:
            archive.writestr("large.npy", b"\0" * 2**24)


ANY: list[Fault] = [flip_bits, flip_bits, cut, overwrite, overwrite, repeat_a_part, insert]
TEXT: list[Fault] = [replace_token, replace_token, replace_token, drop_or_swap_lines]
TEXT_ENDINGS = {".swc", ".asc", ".csv", ".tsv", ".yaml", ".json", ".mod", ".hoc", ".jsonl", ".md"}


def faults_for(path: Path) -> list[Fault]:
    if path.suffix == ".npz":
        return [*ANY, another_member, another_member, another_member, another_member]
    if h5py.is_hdf5(path):
        return [*ANY, *[another_object] * 9]
    if path.suffix in TEXT_ENDINGS:
        return [*ANY, *TEXT, *TEXT]
    return ANY


def damaged(sample: Sample, folder: Path, seed: int) -> tuple[Path, str]:
    """Write a damaged copy of a sample; return it, and what was done to which file."""
    rng = np.random.default_rng(seed)
    copy = folder / sample.path.name
    if sample.path.is_dir():
        shutil.copytree(sample.path, copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size)
        victim = files[int(rng.integers(len(files)))]
    else:
        shutil.copy(sample.path, copy)
        victim = copy
    faults = faults_for(victim)
    fault = faults[int(rng.integers(len(faults)))]
    try:
        fault(victim, rng)
    except Exception:  # noqa: BLE001  a structure that this fault does not fit
        flip_bits(victim, rng)
        fault = flip_bits
    return copy, f"{fault.__name__} in {victim.relative_to(folder)}"


def outcome(sample: Sample, path: Path) -> tuple[str, str, float]:
    """Read in a child; return "read", "refused", "traceback", "killed" or "hung", the reason, and its peak in MB."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        code = 0
        try:
            os.close(read_end)
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = used + MEMORY_MB * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            os.chdir(path.parent)
            try:
                sample.read(path)
                said = "read "
            except NeurofleetError as error:
                said = f"refused {error}"
            except BaseException:  # noqa: BLE001  this is what is looked for
                said = f"traceback {traceback.format_exc()[-3000:]}"
            os.write(write_end, said.encode(errors="replace")[:60000])
        finally:
            os._exit(code)
    os.close(write_end)
    give_up = time.monotonic() + LIMIT_S
    while True:
        ended, status, used = os.wait4(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > give_up:
            os.killpg(child, signal.SIGKILL)
            os.wait4(child, 0)
            os.close(read_end)
            return "hung", f"after {LIMIT_S:g} s", 0.0
        time.sleep(0.002)
    with os.fdopen(read_end, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    if not said:
        return "killed", f"wait status {status}", used.ru_maxrss / 1024
    kind, _, reason = said.partition(" ")
    return kind, reason, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; each input has its own")
    parser.add_argument("--only", type=int, help="make and read the input of this seed only")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that are neither read nor refused")
    parser.add_argument("--samples", type=Path, nargs="*", default=[], help="folders with more valid files")
    parser.add_argument("--reader", default="", help="only samples whose name contains this")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    by_sample: dict[str, Counter[str]] = {}
    peak_mb, slowest_s = 0.0, 0.0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "samples"
        made.mkdir()
        chosen = [sample for sample in samples(made, options.samples) if options.reader in sample.name]
        for sample in chosen:  # also loads what every reader imports, before the first fork
            kind, reason, _ = outcome(sample, sample.path)
            if kind != "read":  # little of its reader is tried with it
                print(f"{sample.name}, undamaged: {kind} {reason}", file=sys.stderr)
            try:
                sample.read(sample.path)
            except Exception:  # noqa: BLE001
                continue
        seeds = [options.only] if options.only is not None else range(options.seed, options.seed + options.inputs)
        for seed in seeds:
            sample = chosen[seed % len(chosen)]
            folder = Path(name) / "damaged"
            folder.mkdir()
            path, deed = damaged(sample, folder, seed)
            begun = time.monotonic()
            kind, reason, used_mb = outcome(sample, path)
            took_s = time.monotonic() - begun
            slowest_s = max(slowest_s, took_s)
            peak_mb = max(peak_mb, used_mb)
            counts[kind] += 1
            by_sample.setdefault(sample.name, Counter())[kind] += 1
            if kind not in ("read", "refused") or took_s > SLOW_S or options.only is not None:
                text = f"--- seed {seed}: {sample.name}, {deed}: {kind} after {took_s:.1f} s\n{reason}"
                print(text, file=sys.stderr, flush=True)
                if options.keep:
                    target = options.keep / f"{seed}-{path.name}"
                    (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
            shutil.rmtree(folder)
    print(
        json.dumps(
            {
                "benchmark": "fuzz",
                "inputs": sum(counts.values()),
                "first_seed": options.seed,
                "samples": len(chosen),
                **{kind: counts[kind] for kind in ("read", "refused", "traceback", "killed", "hung")},
                "peak_mb": round(peak_mb),
                "slowest_s": round(slowest_s, 1),
                "seconds": round(time.monotonic() - started),
                "by_sample": {sample: dict(kinds) for sample, kinds in by_sample.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
