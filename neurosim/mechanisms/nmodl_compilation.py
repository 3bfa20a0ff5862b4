"""Compile NMODL once a machine, into a cache that many processes may use at the same time, and load it into NEURON.

`UserMechanisms` are NMODL texts that travel with a model to wherever it is simulated.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neurofleet.errors import InputError
from neurofleet.neurosim.mechanisms.catalogue import (
    BUILT_INTO_NEURON,
    MECHANISMS,
    PROJECT_SOURCES,
    Mechanism,
    describe,
    parse_mechanism,
    read_mechanism,
    read_nmodl,
)

COLOUR = re.compile(r"\x1b\[\d*m")
LIBRARY_NAMES = ("libnrnmech.so", "libnrnmech.dylib")
_loaded: dict[str, bytes] = {}  # name -> SHA-256 of its NMODL


def cache_folder() -> Path:
    """Return where compiled mechanisms are kept: ``$NEUROFLEET_CACHE``, else ``~/.cache/neurofleet``."""
    given = os.environ.get("NEUROFLEET_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "neurofleet"


def compile_mechanisms(sources: Sequence[Path] | None = None) -> Path:
    """Compile NMODL files and return the folder to load, at once when they were compiled before.

    Parameters
    ----------
    sources : sequence of Path, optional
        NMODL files; the project's own without it.

    Raises
    ------
    InputError
        A file is unreadable or does not compile, the compiler is missing, or the cache cannot be written.
    """
    files = _files(sources)
    describe(files)
    folder = cache_folder() / "mechanisms" / _key(files)
    if _library(folder) is not None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            if _library(folder) is None:
                _compile_into(folder, files)
    except OSError as error:
        raise InputError(
            f"{folder.parent}: expected a folder to keep compiled mechanisms in, but writing there failed "
            f"({error.strerror or error}). Free some space, or set NEUROFLEET_CACHE to a folder of yours."
        ) from error
    return folder


def load_mechanisms(extra: Sequence[Path] = ()) -> None:
    """Load the project's mechanisms and a user's NMODL files into this process's NEURON.

    A user's file replaces the project's mechanism of the same name. Compiles what was not
    compiled before on this machine. Calling it again does nothing.

    Raises
    ------
    InputError
        As `compile_mechanisms`; or NEURON holds another mechanism of such a name already.
    """
    user_sources = dict(zip(describe(extra), extra, strict=True))
    project_sources = dict(zip(describe(PROJECT_SOURCES), PROJECT_SOURCES, strict=True))
    _load({name: path for name, path in project_sources.items() if name not in user_sources})
    _load(user_sources)


def _load(sources: Mapping[str, Path]) -> None:
    digests = {name: hashlib.sha256(path.read_bytes()).digest() for name, path in sources.items()}
    new = {name for name, digest in digests.items() if _loaded.get(name) != digest}
    if not new:
        return
    neuron = _imported_neuron()
    taken = sorted(new & _mechanisms_in(neuron.h))
    if taken:
        raise InputError(
            f"NEURON already holds mechanisms called {', '.join(taken)} that come from elsewhere: from "
            f"NRN_NMODL_PATH, from the current folder ({Path.cwd()}) if something else imported NEURON, "
            "or from a model that was simulated in this process before. A name can be used once: unset "
            "NRN_NMODL_PATH, run from another folder, or rename the SUFFIX in your own file."
        )
    folder = compile_mechanisms([sources[name] for name in new])
    neuron.h.nrn_load_dll(str(_library(folder)))
    _loaded.update({name: digests[name] for name in new})


def _imported_neuron() -> Any:
    """Import NEURON from an empty folder: it loads whatever is compiled in the current one."""
    os.environ.setdefault("NEURON_MODULE_OPTIONS", "-nogui")  # or it warns of a missing display
    if "neuron" not in sys.modules:
        with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
            import neuron
    import neuron

    return neuron


def _files(sources: Sequence[Path] | None) -> tuple[Path, ...]:
    return PROJECT_SOURCES if sources is None else tuple(sorted(Path(p).resolve() for p in sources))


def _mechanisms_in(h) -> set[str]:
    """Return the names of all density mechanisms this NEURON knows."""
    kinds, name = h.MechanismType(0), h.ref("")
    names = set()
    for index in range(int(kinds.count())):
        kinds.select(index)
        kinds.selected(name)
        names.add(name[0])
    return names


def _key(files: Sequence[Path]) -> str:
    """Return the cache key: sources, NEURON's version and place, machine, and the user's compiler flags."""
    digest = hashlib.sha256()
    parts = [version("neuron"), str(_neuron_folder()), platform.machine(), *map(_flag, ("CXX", "CXXFLAGS"))]
    for part in (*parts, *(p for f in files for p in (f.name, f.read_text(errors="replace")))):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:20]


def _flag(name: str) -> str:
    return os.environ.get(name, "")


def _neuron_folder() -> Path:
    spec = find_spec("neuron")
    if spec is None or spec.origin is None:
        raise InputError("NEURON is not installed in this Python. Install it with `pip install neuron`.")
    return Path(spec.origin).parent


def _library(folder: Path) -> Path | None:
    """Return the compiled library under `folder`, or None."""
    return next((p for name in LIBRARY_NAMES for p in sorted(folder.glob(f"*/{name}"))), None)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` within the block; the system releases it however the process ends."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _compile_into(folder: Path, files: Sequence[Path]) -> None:
    """Run nrnivmodl in a folder of its own and rename the result to `folder`; the caller holds its lock."""
    command, environment = _nrnivmodl()
    prefix = f".compiling-{folder.name}-"
    for killed in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(killed, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as temporary:
        work = Path(temporary) / "work"
        (work / "mod").mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, work / "mod" / f"{read_mechanism(file).name}.mod")
        result = subprocess.run(
            [*command, "mod"],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if result.returncode != 0 or _library(work) is None:
            output = COLOUR.sub("", result.stdout[-1000:] + result.stderr[-2000:]).strip()
            raise InputError(
                f"The mechanisms {', '.join(f.stem for f in files)} did not compile (nrnivmodl, exit code "
                f"{result.returncode}). Mend the NMODL file (called by its SUFFIX here) or the compiler that "
                f"is named:\n{output}"
            )
        if folder.exists():  # without a library: something cleaned up in it
            shutil.rmtree(folder)
        work.rename(folder)


def _nrnivmodl() -> tuple[list[str], dict[str, str]]:
    """Return the command that compiles NMODL, and its environment.

    The wheel's script in ``bin`` only sets these variables (and needs PATH, setuptools and more to do so):
    its worker under ``neuron/.data`` is called directly. A NEURON built from source has a script on PATH.
    """
    names = _flag("CXX").split()[:1] or ["g++", "clang++", "c++"]
    compiler = next((script for name in names if (script := shutil.which(name))), None)
    missing = []
    if compiler is None:
        missing.append(f"C++ compiler ({' or '.join(names)})")
    if shutil.which("make") is None:
        missing.append("make")
    if missing:
        raise InputError(
            f"The ion channels have to be compiled once on this machine, and there is no "
            f"{' and no '.join(missing)} here. Install them (Debian, Ubuntu: `apt-get install g++ make`; "
            "Fedora: `dnf install gcc-c++ make`; macOS: `xcode-select --install`) and run the same command "
            "again."
        )
    environment = dict(os.environ)
    environment.setdefault("CXX", str(compiler))
    environment.setdefault("CC", str(compiler))
    data = _neuron_folder() / ".data"
    if (data / "bin" / "nrnivmodl").is_file():
        home = str(data)
        environment.update(NRNHOME=home, CORENRNHOME=home, NMODLHOME=home, NEURONHOME=str(data / "share" / "nrn"))
        environment["NRN_PYTHONEXE"] = sys.executable
        return ["bash", str(data / "bin" / "nrnivmodl")], environment
    beside = Path(sys.executable).with_name("nrnivmodl")
    script = str(beside) if beside.is_file() else shutil.which("nrnivmodl")
    if script is None:
        raise InputError(
            "NEURON is installed without nrnivmodl, which compiles the ion channels. Install the wheel "
            "(`pip install --force-reinstall neuron`)."
        )
    return [script], environment


BUILT_IN = frozenset(mechanism.name for mechanism in BUILT_INTO_NEURON)


@dataclass(frozen=True)
class UserMechanisms:
    """Density mechanisms beside those of the project; one with the name of a project's mechanism replaces it.

    Parameters
    ----------
    sources : mapping
        SUFFIX -> NMODL text.
    """

    sources: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "UserMechanisms":
        """Read the ``.mod`` files of a folder.

        Point processes and artificial cells, which no recipe can insert, are left out.

        Raises
        ------
        InputError
            There is no such folder or no density mechanism in it, or two files declare the same one.
        """
        if not folder.is_dir():
            what_is_there = "a file" if folder.exists() else "nothing"
            raise InputError(
                f"{folder}: expected a folder of .mod files, found {what_is_there}. Correct the path; a relative one "
                "starts at the job file."
            )
        files: dict[str, Path] = {}
        sources: dict[str, str] = {}
        for path in sorted(folder.glob("*.mod")):
            text = read_nmodl(path)
            if (mechanism := parse_mechanism(text)) is None:
                continue
            if mechanism.name in files:
                raise InputError(
                    f"{folder}: expected one file for each SUFFIX, found {mechanism.name} in "
                    f"{files[mechanism.name].name} and in {path.name}. Remove one, or rename its SUFFIX."
                )
            files[mechanism.name] = path
            sources[mechanism.name] = text
        if not sources:
            raise InputError(
                f"{folder}: expected .mod files with a SUFFIX (density mechanisms), found none in the folder "
                "itself. Name the folder that holds them."
            )
        return cls(dict(sorted(sources.items())))

    def only(self, names: Collection[str]) -> "UserMechanisms":
        """Return those of `names`."""
        return UserMechanisms({name: text for name, text in self.sources.items() if name in names})

    @property
    def known(self) -> dict[str, Mechanism]:
        """All mechanisms that a recipe may name: these, the project's, and those built into NEURON."""
        parsed = (parse_mechanism(text) for name, text in self.sources.items() if name not in BUILT_IN)
        return MECHANISMS | {mechanism.name: mechanism for mechanism in parsed if mechanism}

    @property
    def replacing(self) -> list[str]:
        """Names of the project's mechanisms that these replace."""
        return [name for name in self.sources if name in MECHANISMS and name not in BUILT_IN]

    @property
    def reserved(self) -> list[str]:
        """Names that NEURON's built-in mechanisms have, which cannot be replaced."""
        return [name for name in self.sources if name in BUILT_IN]

    @contextlib.contextmanager
    def written(self) -> Iterator[list[Path]]:
        """Write them into a temporary folder, ``NAME.mod`` each."""
        with tempfile.TemporaryDirectory(prefix="neurofleet-mod-") as folder:
            yield _write(self.sources, Path(folder))

    def compile(self) -> None:
        """Compile them, if they have not been on this machine.

        Raises
        ------
        InputError
            As `compile_mechanisms`.
        """
        if self.sources:
            with self.written() as paths:
                compile_mechanisms(paths)

    def load(self) -> None:
        """Load them, and the project's, into this process's NEURON.

        Raises
        ------
        InputError
            As `load_mechanisms`.
        """
        with self.written() as paths:
            load_mechanisms(paths)

    def copy(self, names: Collection[str], folder: Path) -> None:
        """Write the NMODL of mechanisms, these or the project's, into `folder`; NEURON's are built in."""
        project_sources = {path.stem: read_nmodl(path) for path in PROJECT_SOURCES}
        sources = project_sources | dict(self.sources)
        folder.mkdir(parents=True, exist_ok=True)
        _write({name: sources[name] for name in sorted(set(names) - BUILT_IN)}, folder)


def _write(sources: Mapping[str, str], folder: Path) -> list[Path]:
    paths = [folder / f"{name}.mod" for name in sources]
    for path, text in zip(paths, sources.values(), strict=True):
        path.write_text(text, "utf-8")
    return paths
