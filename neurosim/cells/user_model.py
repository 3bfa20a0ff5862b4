"""A BluePyOpt model that the user wrote, named as ``module:function`` and run unchanged."""

import contextlib
import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from neurofleet import fresh_process
from neurofleet.errors import InputError
from neurofleet.neurosim.mechanisms import compile_mechanisms
from neurofleet.neurosim.mechanisms.nmodl_compilation import (
    LIBRARY_NAMES,
    compiled_names,
    imported_neuron,
    mechanisms_in,
    mod_files,
)


@dataclass(frozen=True)
class UserModel:
    """Where to find the function that makes the evaluator.

    Parameters
    ----------
    reference : str
        ``module:function``. The function is called without arguments and returns a BluePyOpt
        ``CellEvaluator``, or an object that holds one as ``cell_evaluator`` or ``evaluator``.
    folder : str
        Where the module is looked for first; made the working folder, so that relative files are found.
    mechanisms : str or None
        Folder of mod files to compile. By default the folder's own ``mechanisms``, unless the user has
        compiled there already.
    """

    reference: str
    folder: str
    mechanisms: str | None = None

    def build_evaluator(self) -> Any:
        """Import the user's module and return its ``CellEvaluator``.

        Raises
        ------
        InputError
            When the module or the function is not there, or returns something else.
        """
        neuron = imported_neuron()
        os.chdir(self.folder)
        self._load_mechanisms(neuron)
        _load_once(neuron)
        module_name, _, function_name = self.reference.partition(":")
        with _first_on_path(self.folder):
            try:
                module = _import_from(self.folder, module_name)
            except ModuleNotFoundError as error:
                raise InputError(
                    f"evaluator: cannot import {module_name!r} from {self.folder} ({error}). Put the module "
                    "beside the job file, or install what it needs."
                ) from error
            function: Any = module
            for name in function_name.split("."):
                function = getattr(function, name, None)
            if not callable(function):
                raise InputError(f"evaluator: {module.__file__} has no function {function_name!r}.")
            try:
                made = function()
            except RuntimeError as error:
                if _ALREADY_THERE not in str(error):
                    raise
                raise InputError(
                    f"evaluator: {self.reference} loads mechanisms with nrn_load_dll that NEURON holds already: those "
                    f"of {self.mechanisms or 'x86_64 or mechanisms beside it'} are loaded before it is called. Remove "
                    "that line, or write neuron.load_mechanisms, which then does nothing"
                ) from error
            return _evaluator_of(made, self.reference)

    def _load_mechanisms(self, neuron: Any) -> None:
        library = None if self.mechanisms else self._compiled_here
        if library is not None and _load_library(neuron, library):
            return
        sources = Path(self.mechanisms) if self.mechanisms else Path(self.folder) / "mechanisms"
        names = compiled_names(mod_files(sources))
        if not names and self.mechanisms:
            raise InputError(f"mechanisms: no .mod file in {sources}.")
        if not names and library is not None:
            raise InputError(
                f"{library}: NEURON {neuron.__version__} cannot load it; it was compiled for another one. Run "
                "nrnivmodl again, or name the folder of the mod files with `mechanisms:` in the job"
            )
        there = mechanisms_in(neuron.h)  # of NRN_NMODL_PATH
        if missing := [path for name, path in names.items() if name not in there]:
            neuron.load_mechanisms(str(compile_mechanisms(missing)), warn_if_already_loaded=False)

    @property
    def _compiled_here(self) -> Path | None:
        """The library that nrnivmodl made in the folder."""
        machines = (Path(self.folder) / machine for machine in (platform.machine(), *MACHINES))
        libraries = (folder / name for folder in machines for name in LIBRARY_NAMES)
        return next((path for path in libraries if path.is_file()), None)

    def notes(self) -> tuple[str, ...]:
        """Return a note where a library that the user has compiled is older than a mod file beside it."""
        library = None if self.mechanisms else self._compiled_here
        if library is None:
            return ()
        made = library.stat().st_mtime
        newer = [path.name for path in mod_files(Path(self.folder) / "mechanisms") if path.stat().st_mtime > made]
        if not newer:
            return ()
        return (
            f"the mechanisms in {library.parent.name} were compiled before {', '.join(newer)} in mechanisms changed: "
            "run nrnivmodl again, or write `mechanisms: mechanisms` in the job to have the mod files compiled",
        )

    def describe(self) -> "ModelDescription":
        """Build the evaluator in a process of its own and return what the search needs to know of it.

        Raises
        ------
        InputError
            When it cannot be built; the message has the reason.
        """
        try:
            description = fresh_process.call(_described, self)
            reason = description.removeprefix("evaluator: ") if isinstance(description, str) else ""
        except fresh_process.ProcessFailed as error:
            reason = error.reason
        if reason:
            raise InputError(
                f"evaluator: {self.reference} in {self.folder} could not be built: {reason.rstrip('.')}. "
                "Call the function in Python first; it must return a BluePyOpt CellEvaluator."
            )
        return description


@dataclass(frozen=True)
class ModelDescription:
    """Parameters, their bounds, and objectives of a user's evaluator, in the evaluator's order, and its mechanisms."""

    parameters: list[str]
    lower: list[float]
    upper: list[float]
    objectives: list[str]
    mechanisms: tuple[str, ...] = ()


MACHINES = ("x86_64", "arm64", "aarch64")
"""Folders that nrnivmodl makes, by the machine it runs on."""
_ALREADY_THERE = "user defined name already exists"


def _load_library(neuron: Any, library: Path) -> bool:
    """Load a compiled library unless NEURON holds its mechanisms already; return False where it cannot."""
    try:
        return neuron.h.nrn_load_dll(str(library)) == 1.0
    except RuntimeError as error:
        return _ALREADY_THERE in str(error)


def _load_once(neuron: Any) -> None:
    """Have NEURON's `load_mechanisms` do nothing for mechanisms that are loaded already, from whatever path.

    A user's module that loads its own mechanisms then runs here as it does by itself.
    """
    load = neuron.load_mechanisms

    def load_mechanisms(path: str, warn_if_already_loaded: bool = True) -> bool:
        try:
            return load(path, warn_if_already_loaded)
        except RuntimeError as error:
            if _ALREADY_THERE in str(error):
                return True
            raise

    neuron.load_mechanisms = load_mechanisms


def _evaluator_of(made: Any, reference: str) -> Any:
    from bluepyopt.ephys.evaluators import CellEvaluator

    for candidate in (made, getattr(made, "cell_evaluator", None), getattr(made, "evaluator", None)):
        if isinstance(candidate, CellEvaluator):
            return candidate
    raise InputError(
        f"evaluator: {reference} returned {type(made).__name__}, expected a BluePyOpt CellEvaluator (or an "
        "object with one as `cell_evaluator`)."
    )


@contextlib.contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    """Look for modules in `folder` first within the block, and there last of all after it.

    What the user's module imports later is still found, and no file of the folder takes the place of a module
    that this program imports later.
    """
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)


def _import_from(folder: str, name: str) -> ModuleType:
    """Import a module, that of `folder` also where another module of this name is imported already.

    A user's file may be called ``random`` or ``cluster``. It then gets a name of its own, so that whoever
    imports the other module still gets that one.
    """
    package, _, rest = name.partition(".")
    candidates = (Path(folder, package, "__init__.py"), Path(folder, f"{package}.py"))
    path = next((path for path in candidates if path.is_file()), None)
    imported = sys.modules.get(package)
    if path is None or imported is None or getattr(imported, "__file__", None) == str(path):
        return importlib.import_module(name)
    own_name = f"user_{package}"
    if own_name in sys.modules:
        return importlib.import_module(f"{own_name}.{rest}" if rest else own_name)
    spec = importlib.util.spec_from_file_location(own_name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[own_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[own_name])
    except BaseException:
        del sys.modules[own_name]
        raise
    return importlib.import_module(f"{own_name}.{rest}" if rest else own_name)


def _mechanisms(evaluator: Any) -> list[Any]:
    return list(getattr(evaluator.cell_model, "mechanisms", None) or ())


def _described(model: UserModel) -> ModelDescription | str:
    """Return what the search needs to know of an evaluator, or why it cannot be built."""
    try:
        evaluator = model.build_evaluator()
        parameters = evaluator.params
        return ModelDescription(
            parameters=list(evaluator.param_names),
            lower=[float(parameter.lower_bound) for parameter in parameters],
            upper=[float(parameter.upper_bound) for parameter in parameters],
            objectives=[str(objective.name) for objective in evaluator.fitness_calculator.objectives],
            mechanisms=tuple(dict.fromkeys(m.suffix for m in _mechanisms(evaluator) if hasattr(m, "suffix"))),
        )
    except InputError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - the user's own code, whose errors exist in this process only
        return f"{type(error).__name__}: {error}"
