"""A BluePyOpt model of the user's own, named as ``module:function`` and run unchanged."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurofleet.errors import InputError
from neurofleet.neurosim.mechanisms import compile_mechanisms


@dataclass(frozen=True)
class UserModel:
    """Where to find the function that makes the evaluator.

    Parameters
    ----------
    reference : str
        ``module:function``. The function is called without arguments and returns a BluePyOpt
        ``CellEvaluator``, or an object that holds one as ``cell_evaluator`` or ``evaluator``.
    folder : str
        Put on the import path and made the working folder, so that relative files are found.
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
        import neuron  # before the working folder changes: NEURON loads what is compiled where it is imported

        if self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        os.chdir(self.folder)
        self._load_mechanisms(neuron)
        module_name, function_name = self.reference.split(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InputError(
                f"evaluator: cannot import {module_name!r} from {self.folder} ({error}). Put the module "
                "beside the job file, or install what it needs."
            ) from error
        function: Any = module
        for part in function_name.split("."):
            function = getattr(function, part, None)
        if not callable(function):
            raise InputError(f"evaluator: {module.__file__} has no function {function_name!r}.")
        return _evaluator_of(function(), self.reference)

    def _load_mechanisms(self, neuron: Any) -> None:
        folder = Path(self.folder)
        compiled = any((folder / machine).is_dir() for machine in ("x86_64", "arm64", "aarch64"))
        if self.mechanisms is None and compiled:
            neuron.load_mechanisms(self.folder, warn_if_already_loaded=False)
            return
        sources = Path(self.mechanisms) if self.mechanisms else folder / "mechanisms"
        files = sorted(sources.glob("*.mod"))
        if files:
            neuron.load_mechanisms(str(compile_mechanisms(files)), warn_if_already_loaded=False)
        elif self.mechanisms:
            raise InputError(f"mechanisms: no .mod file in {sources}.")

    def describe(self) -> "ModelDescription":
        """Build the evaluator in a process of its own and return what the search needs to know of it."""
        arguments = json.dumps([self.reference, self.folder, self.mechanisms])
        done = subprocess.run(
            [sys.executable, "-m", "neurofleet.neurosim.cells.user_model", arguments], capture_output=True, text=True
        )
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise InputError(
                f"evaluator: {self.reference} in {self.folder} could not be built: {reason[0]} "
                "Call the function in Python first; it must return a BluePyOpt CellEvaluator."
            )
        return ModelDescription(**json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class ModelDescription:
    """Parameters, bounds and objectives of a user's evaluator, in its own order."""

    parameters: list[str]
    lower: list[float]
    upper: list[float]
    objectives: list[str]


def _evaluator_of(made: Any, reference: str) -> Any:
    from bluepyopt.ephys.evaluators import CellEvaluator

    for candidate in (made, getattr(made, "cell_evaluator", None), getattr(made, "evaluator", None)):
        if isinstance(candidate, CellEvaluator):
            return candidate
    raise InputError(
        f"evaluator: {reference} returned {type(made).__name__}, expected a BluePyOpt CellEvaluator (or an "
        "object with one as `cell_evaluator`)."
    )


def _main() -> None:
    evaluator = UserModel(*json.loads(sys.argv[1])).build_evaluator()
    parameters = evaluator.params
    description = {
        "parameters": list(evaluator.param_names),
        "lower": [float(p.lower_bound) for p in parameters],
        "upper": [float(p.upper_bound) for p in parameters],
        "objectives": [objective.name for objective in evaluator.fitness_calculator.objectives],
    }
    print("\n" + json.dumps(description))


if __name__ == "__main__":
    _main()
