"""Compile NMODL once a machine, into a cache that many processes may use at the same time, and load it into NEURON.

`UserMechanisms` are NMODL texts that travel with a model to wherever it is simulated.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neurofleet import fresh_process
from neurofleet.cache import cache_folder, keep_small, locked, used
from neurofleet.errors import InputError
from neurofleet.neurosim.mechanisms.catalogue import (
    BUILT_INTO_NEURON,
    DENSITY,
    MECHANISMS,
    NO_MECHANISM,
    PROJECT_SOURCES,
    Gathered,
    Mechanism,
    describe,
    gather,
    parse_declared,
    parse_mechanism,
    read_nmodl,
    read_with_includes,
    without_comments,
)
from neurofleet.scratch import scratch_folder

COLOUR = re.compile(r"\x1b\[\d*m")
LIBRARY_NAMES = ("libnrnmech.so", "libnrnmech.dylib")
_loaded: dict[str, bytes] = {}  # name -> SHA-256 of its NMODL


def compile_mechanisms(sources: Sequence[Path] | None = None, called: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Compile NMODL files and return the folder to load, at once when they were compiled before.

    Parameters
    ----------
    sources : sequence of Path, optional
        NMODL files of any kind; the project's own without it.
    called : mapping, optional
        Name of a mechanism -> what the user calls its file, for messages.

    Raises
    ------
    InputError
        A file is unreadable or does not compile, the compiler is missing, or the cache cannot be written.
    """
    files = _files(sources)
    names = compiled_names(files)
    folder = cache_folder() / "mechanisms" / _key(files)
    if _library(folder) is not None:
        used(folder)
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            if _library(folder) is None:
                _compile_into(folder, names, called)
        keep_small()
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
    digests = {name: _digest(path) for name, path in sources.items()}
    new = {name for name, digest in digests.items() if _loaded.get(name) != digest}
    if not new:
        return
    neuron = imported_neuron()
    taken = sorted(new & mechanisms_in(neuron.h))
    if taken:
        raise InputError(
            f"NEURON already holds mechanisms called {', '.join(taken)} that come from elsewhere: from "
            f"NRN_NMODL_PATH, from the current folder ({Path.cwd()}) if something else imported NEURON, "
            "or from a model that was simulated in this process before. A name can be used once: unset "
            "NRN_NMODL_PATH, run from another folder, or rename the SUFFIX in your own file."
        )
    folder = compile_mechanisms([sources[name] for name in new])
    _load_library(neuron.h, folder, sorted(new))
    _loaded.update({name: digests[name] for name in new})


def _load_library(h: Any, folder: Path, names: Sequence[str]) -> None:
    try:
        h.nrn_load_dll(str(_library(folder)))
    except RuntimeError as error:
        raise InputError(not_loaded(str(error), names)) from error


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256(path.read_bytes())
    for name, text in read_with_includes(path).included.items():
        digest.update(f"{name}\0{text}".encode())
    return digest.digest()


def not_loaded(said: str, names: Sequence[str]) -> str:
    """Return why NEURON did not load mechanisms, from what it said."""
    if (found := re.search(r"name already exists: (\w+)", said)) is None:
        hint = " Correct VALENCE in the mod file." if "ion charge" in said else ""
        return f"NEURON does not load the mechanisms {', '.join(names)}: {' '.join(said.split())}.{hint}"
    taken = found.group(1)
    if taken in names:
        return (
            f"mechanism {taken}: its SUFFIX is a name that is built into NEURON, where no other can take its place. "
            "Give it another SUFFIX, and name that in the recipe."
        )
    owner = next((name for name in names if taken.endswith(f"_{name}")), "")
    variable = taken.removesuffix(f"_{owner}") if owner else taken
    return (
        f"mechanism {owner or ', '.join(names)}: NEURON takes the name {variable} once, and it is declared twice (as "
        "RANGE and as GLOBAL, or as a function too). Declare it once; a recipe can set RANGE parameters only."
    )


def imported_neuron() -> Any:
    """Import NEURON from an empty folder: it loads whatever is compiled in the current one."""
    os.environ.setdefault("NEURON_MODULE_OPTIONS", "-nogui")  # or it warns of a missing display
    if "neuron" not in sys.modules:
        with scratch_folder() as empty, contextlib.chdir(empty):
            import neuron
    import neuron

    return neuron


def _files(sources: Sequence[Path] | None) -> tuple[Path, ...]:
    return PROJECT_SOURCES if sources is None else tuple(sorted(Path(p).resolve() for p in sources))


def mechanisms_in(h: Any) -> set[str]:
    """Return the names of all density mechanisms and point processes this NEURON knows."""
    names = set()
    for points in (0, 1):
        kinds, name = h.MechanismType(points), h.ref("")
        for index in range(int(kinds.count())):
            kinds.select(index)
            kinds.selected(name)
            names.add(name[0])
    return names


def compiled_names(files: Sequence[Path]) -> dict[str, Path]:
    """Return the name under which each NMODL file is compiled -> file: its SUFFIX, else its file name.

    Raises
    ------
    InputError
        Two files declare one name; or as `read_with_includes` raises.
    """
    names: dict[str, Path] = {}
    for file in files:
        name = parse_declared(read_with_includes(file).whole, file.stem).name
        if name in ("", NO_MECHANISM):
            name = re.sub(r"\W", "_", file.stem, flags=re.ASCII)
        if name in names:
            raise InputError(
                f"{file}: expected a SUFFIX of its own, but {names[name].name} declares {name} too. Remove one, or "
                "rename its SUFFIX."
            )
        names[name] = file
    return names


def _key(files: Sequence[Path]) -> str:
    """Return the cache key: sources, NEURON's version and place, machine, and the user's compiler flags."""
    digest = hashlib.sha256()
    parts = [version("neuron"), str(_neuron_folder()), platform.machine(), *map(_flag, ("CXX", "CXXFLAGS"))]
    for file in files:
        parts += (file.name, file.read_text(errors="replace"))
    for file in files:
        parts += (part for included in read_with_includes(file).included.items() for part in included)
    for part in parts:
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


def _compile_into(folder: Path, names: Mapping[str, Path], called: Mapping[str, str]) -> None:
    """Run nrnivmodl in a folder of its own and rename the result to `folder`; the caller holds its lock."""
    command, environment = _nrnivmodl()
    prefix = f".compiling-{folder.name}"
    with scratch_folder(prefix, folder.parent) as temporary:
        work = temporary / "work"
        (work / "mod").mkdir(parents=True)
        for name, file in names.items():
            _write(read_with_includes(file).included | {f"{name}.mod": read_nmodl(file)}, work / "mod")
        result = subprocess.run(
            [*command, "mod"],
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if result.returncode != 0 or _library(work) is None:
            if faults := _faults_of_nmodl(work / "mod", names, called):
                raise InputError("\n".join(faults))
            said = COLOUR.sub("", result.stdout + result.stderr)
            errors = [re.sub(r"^\S*/", "", line) for line in said.splitlines() if "error:" in line]
            of_these = [name for name in names if any(line.startswith(f"{name}.cpp:") for line in errors)] or [*names]
            files = ", ".join(f"{name} ({called.get(name, names[name].name)})" for name in of_these)
            raise InputError(
                f"The mechanisms {files} did not compile (nrnivmodl, exit code {result.returncode}). NEURON's NMODL "
                "compiler takes them, the C++ compiler does not. Fix their VERBATIM text, which NEURON 9 compiles as "
                "C++, or the compiler that is named:\n" + "\n".join(errors[:5] or [said.strip()[-2000:]])
            )
        if folder.exists():  # without a library: something cleaned up in it
            shutil.rmtree(folder)
        work.rename(folder)


def _faults_of_nmodl(folder: Path, names: Mapping[str, Path], called: Mapping[str, str]) -> list[str]:
    """Return what NEURON's NMODL compiler says of each file that it refuses."""
    compiler = _tool("nocmodl")
    faults = []
    for name, file in names.items() if compiler else ():
        code, said = _said_by(str(compiler), f"{name}.mod", folder)
        if code:
            lines = [line.rstrip()[:_LONGEST_LINE] for line in said.splitlines() if line.strip()]
            lines = [line for line in lines if not line.startswith(("Translating", "INCLUDEing", "Notice:"))]
            faults.append(
                f"The mechanism {name} ({called.get(name, file.name)}) did not compile. Fix the line that NEURON's "
                "compiler names:\n" + "\n".join(lines[-8:] or ["it said nothing"])
            )
    return faults


_LONGEST_LINE = 200


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
TRY_LIMIT_S = 90.0
TRIED = "tried"  # beside a compiled library: its mechanisms were tried out


@dataclass(frozen=True)
class UserMechanisms:
    """Density mechanisms beside those of the project; one with the name of a project's mechanism replaces it.

    Parameters
    ----------
    sources : mapping
        SUFFIX -> NMODL text.
    included : mapping
        Files that they include -> text.
    files : mapping
        SUFFIX -> name of its file, for messages.
    unfit : mapping
        Name -> why a mechanism of the folder cannot be in a recipe.
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    included: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    unfit: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "UserMechanisms":
        """Read the ``.mod`` files of a folder.

        Point processes and artificial cells, which no recipe can insert, and what cannot be used are in `unfit`.

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
        files: dict[str, str] = {}
        sources: dict[str, str] = {}
        included: dict[str, str] = {}
        unfit: dict[str, str] = {}
        for path in mod_files(folder):
            try:
                gathered, fault = read_with_includes(path), ""
            except InputError as error:
                gathered, fault = Gathered(read_nmodl(path), {}), str(error).removeprefix(f"{path}: ").rstrip(".")
            declared = parse_declared(gathered.whole, path.stem)
            if declared.name in ("", NO_MECHANISM):
                continue
            if declared.kind != DENSITY:
                unfit[declared.name] = f"is declared as {declared.kind} ({path.name}), which no recipe can insert"
                continue
            if declared.name in files:
                raise InputError(
                    f"{folder}: expected one file for each SUFFIX, found {declared.name} in "
                    f"{files[declared.name]} and in {path.name}. Remove one, or rename its SUFFIX."
                )
            files[declared.name] = path.name
            if fault := fault or _unfit(gathered.whole, declared.name):
                unfit[declared.name] = f"({path.name}) {fault}"
            else:
                sources[declared.name] = read_nmodl(path)
                included |= gathered.included
        if not files:
            raise InputError(
                f"{folder}: expected .mod files with a SUFFIX (density mechanisms), found none in the folder "
                "itself. Name the folder that holds them."
            )
        return cls(dict(sorted(sources.items())), included, files, unfit)

    def only(self, names: Collection[str]) -> "UserMechanisms":
        """Return those of `names`."""
        sources = {name: text for name, text in self.sources.items() if name in names}
        included = {place: text for name in sources for place, text in self._gathered(name).included.items()}
        return UserMechanisms(sources, included, {n: file for n, file in self.files.items() if n in sources})

    def _gathered(self, name: str) -> Gathered:
        return gather(self.sources[name], self.included.get)

    @property
    def known(self) -> dict[str, Mechanism]:
        """All mechanisms that a recipe may name: these, the project's, and those built into NEURON."""
        parsed = (parse_mechanism(self._gathered(name).whole, name) for name in self.sources)
        return MECHANISMS | {mechanism.name: mechanism for mechanism in parsed if mechanism}

    @property
    def replacing(self) -> list[str]:
        """Names of the project's mechanisms that these replace."""
        return [name for name in self.sources if name in MECHANISMS]

    def unit_notes(self) -> list[str]:
        """Return a sentence on each whose current would be off by a factor if the units that it declares are right."""
        faults = {name: unit_fault(self._gathered(name).whole) for name in self.sources}
        return [f"mechanism {name} ({self.files.get(name, name)}): {fault}" for name, fault in faults.items() if fault]

    @contextlib.contextmanager
    def written(self) -> Iterator[list[Path]]:
        """Write them into a temporary folder, ``NAME.mod`` each, with what they include beside them."""
        with scratch_folder() as folder:
            _write(self.texts(self.sources), folder)
            yield [folder / f"{name}.mod" for name in self.sources]

    def compile(self) -> None:
        """Compile them, if they have not been on this machine, and then try each out in a process of its own.

        Raises
        ------
        InputError
            As `compile_mechanisms`; or NEURON does not load them, or crashes with one of them.
        """
        if not self.sources:
            return
        with self.written() as paths:
            folder = compile_mechanisms(paths, self.files)
        if not (folder / TRIED).exists():
            self._try_out(folder)
            with contextlib.suppress(OSError):  # a cache of somebody else's: they are tried again next time
                (folder / TRIED).touch()

    def _try_out(self, folder: Path) -> None:
        try:
            fresh_process.call(insert_each, folder, list(self.sources), limit_s=TRY_LIMIT_S)
        except fresh_process.ProcessFailed as error:
            name = (re.findall(rf"^{_TRYING} (\w+)$", error.output, re.MULTILINE) or [""])[-1]
            if not name:
                raise InputError(not_loaded(error.output[-500:], list(self.sources))) from None
            does = "does not come to an end" if error.timed_out else "crashes NEURON"
            raise InputError(
                f"mechanism {name} ({self.files.get(name, name)}) {does} when it is inserted into a section and "
                f"initialised: {error.reason.splitlines()[0]}. Look at its VERBATIM text, loops and pointers."
            ) from None

    def load(self) -> None:
        """Load them, and the project's, into this process's NEURON.

        Raises
        ------
        InputError
            As `load_mechanisms`.
        """
        with self.written() as paths:
            load_mechanisms(paths)

    def texts(self, names: Collection[str]) -> dict[str, str]:
        """Return the files of those of `names`, and of what they include: name -> NMODL text."""
        used = self.only(names)
        return {**used.included, **{f"{name}.mod": text for name, text in used.sources.items()}}

    def copy(self, names: Collection[str], folder: Path) -> None:
        """Write the NMODL of mechanisms, these or the project's, into `folder`; NEURON's are built in."""
        project_sources = {f"{path.stem}.mod": read_nmodl(path) for path in PROJECT_SOURCES if path.stem in names}
        folder.mkdir(parents=True, exist_ok=True)
        _write(project_sources | self.texts(names), folder)


_TRYING = "neurofleet tries"


def insert_each(folder: Path, names: Sequence[str]) -> None:
    """Load compiled mechanisms, insert each into a section of its own and initialise it; says which before it does."""
    h = imported_neuron().h
    _load_library(h, folder, names)
    for name in names:
        print(_TRYING, name, flush=True)
        section = h.Section(name="tried")
        with contextlib.suppress(RuntimeError):  # an error of its own, which it may have no cause for in a cell
            section.insert(name)
            h.finitialize(-70.0)
            h.fadvance()
        del section


_EQUATIONS = re.compile(
    r"\b(INITIAL|PROCEDURE|FUNCTION|FUNCTION_TABLE|DERIVATIVE|KINETIC|LINEAR|NONLINEAR|NET_RECEIVE)\b(?=[^{}]*\{)"
)
_BREAKPOINT = re.compile(r"\bBREAKPOINT\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}")
_FACTOR_MISSING = re.compile(r"should read:\s*\(([^)]*)\)\*\(\)(?s:.*?)^(.*)<<ERROR>>", re.MULTILINE)
_WRONG_UNITS = re.compile(r"^(\w+) must have the units, (.+), instead of (.*[a-zA-Z].*)\.$", re.MULTILINE)


@functools.cache
def unit_fault(nmodl: str) -> str:
    """Return where the units that a mechanism declares for its current do not agree, empty if they do.

    NEURON's modlunit is asked about BREAKPOINT only: rates are written without units in most mechanisms.
    """
    modlunit = _tool("modlunit")
    if modlunit is None:
        return ""
    text = _EQUATIONS.sub(r"UNITSOFF \1", re.sub(r"\bUNITS(ON|OFF)\b", "", without_comments(nmodl)))
    text = _BREAKPOINT.sub(lambda block: f"UNITSON\n{block.group()}\nUNITSOFF\n", text)
    with scratch_folder() as folder:
        (folder / "units.mod").write_text(text)
        said = _said_by(modlunit, "units.mod", str(folder))[1]
    if missing := _FACTOR_MISSING.search(said):
        factor, statement = missing.group(1), " ".join(missing.group(2).split())
        return (
            f"its units do not agree, a factor of {factor} is missing in `{statement[-80:]}`. Correct the equation or "
            "the units; bounds of a recipe are in the units of the equation"
        )
    if wrong := _WRONG_UNITS.search(said):
        variable, expected, found = wrong.groups()
        return (
            f"{variable} is declared in {found}, and NEURON takes it in {expected}. Correct the equation and the units"
        )
    return ""


def _tool(name: str) -> str | None:
    """Return the path of a program that comes with NEURON, None if it is not there."""
    beside = _neuron_folder() / ".data" / "bin" / name
    return str(beside) if beside.is_file() else shutil.which(name)


def _said_by(tool: str, file: str, folder: str | Path) -> tuple[int, str]:
    """Return the exit code of a program of NEURON's for a mod file, and what it said."""
    units = _neuron_folder() / ".data/share/nrn/lib/nrnunits.lib"
    try:
        result = subprocess.run(
            [tool, file],
            cwd=folder,
            env={**os.environ, "MODLUNIT": str(units)} if units.is_file() else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRY_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return 1, f"it was stopped after {TRY_LIMIT_S:g} s"
    return result.returncode, result.stdout + result.stderr


def mod_files(folder: Path) -> list[Path]:
    """Return the mod files of a folder that nrnivmodl compiles there: hidden ones are none of them."""
    return sorted(path for path in folder.glob("*.mod") if path.is_file() and not path.name.startswith("."))


def nmodl_files(folder: Path) -> list[Path]:
    """Return the mod files of a folder, and all files there that they include."""
    files = set(mod_files(folder))
    for path in mod_files(folder):
        with contextlib.suppress(InputError):  # of a mechanism that no recipe names, or it is refused
            files |= {folder / name for name in read_with_includes(path).included}
    return sorted(files)


def _unfit(text: str, name: str) -> str:
    """Return why a mechanism cannot be in a recipe, empty if it can."""
    if name in BUILT_IN:
        return (
            f"declares the SUFFIX {name}, which is built into NEURON, where no other can take its place. Remove the "
            "file to have NEURON's own, or give it another SUFFIX and name that in the recipe"
        )
    mechanism = parse_mechanism(text, name)
    if mechanism is not None and mechanism.pointers:
        return (
            f"needs the POINTER {', '.join(mechanism.pointers)}, which a recipe cannot connect to a variable: NEURON "
            "would read an address that nobody set, and crash. Take the value from an ion (USEION) or a RANGE "
            "parameter, or fit the cell with an `evaluator:` of your own, which sets the pointer"
        )
    return ""


def _write(texts: Mapping[str, str], folder: Path) -> None:
    """Write files, name relative to `folder` -> text."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
