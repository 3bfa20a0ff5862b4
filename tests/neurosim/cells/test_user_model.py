"""A user's evaluator, whatever its module is called and whatever lies beside it."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from neurofleet import fresh_process
from neurofleet.errors import InputError
from neurofleet.neurosim.cells.user_model import ModelDescription, UserModel
from neurofleet.neurosim.mechanisms import compile_mechanisms

EVALUATOR = """
from bluepyopt import ephys
import settings_of_ball  # lies beside this file


def ball():
    soma = ephys.locations.NrnSeclistCompLocation("soma", seclist_name="somatic", sec_index=0, comp_x=0.5)
    somatic = ephys.locations.NrnSeclistLocation("somatic", seclist_name="somatic")
    parameter = ephys.parameters.NrnSectionParameter(
        name="cm", param_name="cm", bounds=settings_of_ball.BOUNDS, locations=[somatic]
    )
    cell = ephys.models.CellModel(
        "ball", morph=ephys.morphologies.NrnFileMorphology("ball.swc"), mechs=[], params=[parameter]
    )
    pulse = ephys.stimuli.NrnSquarePulse(0.05, 10, 20, location=soma, total_duration=40)
    recording = ephys.recordings.CompRecording("step.soma.v", location=soma, variable="v")
    feature = ephys.efeatures.eFELFeature(
        "base", efel_feature_name="voltage_base", recording_names={"": "step.soma.v"},
        stim_start=10, stim_end=30, exp_mean=-65, exp_std=1,
    )
    return ephys.evaluators.CellEvaluator(
        cell_model=cell,
        param_names=["cm"],
        fitness_protocols={"step": ephys.protocols.SweepProtocol("step", [pulse], [recording])},
        fitness_calculator=ephys.objectivescalculators.ObjectivesCalculator(
            [ephys.objectives.SingletonObjective("base", feature)]
        ),
        sim=ephys.simulators.NrnSimulator(),
    )


def fails():
    raise LookupError("no such thing")


def leaves():
    raise SystemExit("cannot go on")
"""
POINT = """: \u00b5
NEURON { POINT_PROCESS Point NONSPECIFIC_CURRENT i }
ASSIGNED { v (millivolt) i (nanoamp) }
BREAKPOINT { i = 1e-3*v }
"""
IN_THE_WAY = "raise ImportError('a file of the working folder took the place of a module')\n"


def folder_with(path: Path, module: str) -> Path:
    path.mkdir()
    (path / f"{module}.py").write_text(EVALUATOR)
    (path / "settings_of_ball.py").write_text("BOUNDS = [0.5, 2.0]\n")
    (path / "ball.swc").write_text("1 1 0 0 0 9 -1\n2 1 0 -9 0 9 1\n3 1 0 9 0 9 1\n")
    return path


@pytest.mark.parametrize("module", ["cluster", "jobs", "random"])
def test_the_module_may_have_any_name(tmp_path, monkeypatch, module):
    folder = folder_with(tmp_path / "job", module)
    for other in {"cluster", "jobs", "learners", "neurosim", "random", "numpy"} - {module}:
        (folder / f"{other}.py").write_text(IN_THE_WAY)
    monkeypatch.chdir(folder)
    described = UserModel(f"{module}:ball", str(folder)).describe()
    assert described == ModelDescription(["cm"], [0.5], [2.0], ["base"])


def random_draw_after_building(folder):
    """Build the evaluator of `random.py` and return whether the standard library's module is still there."""
    UserModel("random:ball", folder).build_evaluator()
    import random

    return hasattr(random, "Random"), sys.path[0] != folder, os.getcwd()


def test_a_module_of_the_same_name_stays_what_it_is_for_everybody_else(tmp_path):
    folder = folder_with(tmp_path / "job", "random")
    assert fresh_process.call(random_draw_after_building, str(folder)) == (True, True, str(folder))


def test_a_package_of_the_user_is_imported_with_its_modules(tmp_path):
    folder = folder_with(tmp_path / "job", "elsewhere")
    package = folder / "random"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (folder / "elsewhere.py").rename(package / "balls.py")
    assert UserModel("random.balls:ball", str(folder)).describe().parameters == ["cm"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("balls:fails", "could not be built: LookupError: no such thing. Call the function in Python"),
        ("balls:leaves", r"could not be built: its process ended with code 1 \(cannot go on\)"),
        ("balls:gone", "has no function 'gone'"),
        ("nowhere:ball", "cannot import 'nowhere' from .*Put the module beside the job file"),
        ("balls:dict", "has no function 'dict'"),
        ("builtins:dict", "returned dict, expected a BluePyOpt CellEvaluator"),
    ],
)
def test_what_is_wrong_with_an_evaluator_is_reported(tmp_path, reference, message):
    folder = folder_with(tmp_path / "job", "balls")
    with pytest.raises(InputError, match=message):
        UserModel(reference, str(folder)).describe()


LOADS = """
import balls
import neuron

neuron.load_mechanisms(".")


def ball():
    neuron.load_mechanisms("mechanisms")
    return balls.ball()
"""


def test_what_nrnivmodl_has_left_is_not_in_the_way(tmp_path, monkeypatch):
    folder = folder_with(tmp_path / "job", "balls")
    (folder / "loads.py").write_text(LOADS)
    mechanisms = folder / "mechanisms"
    mechanisms.mkdir()
    (mechanisms / "point-1.mod").write_text(POINT)
    compiled = next(path for path in compile_mechanisms([mechanisms / "point-1.mod"]).iterdir() if path.name != "mod")
    for place in (folder, mechanisms):
        (place / compiled.name).symlink_to(compiled)
    monkeypatch.chdir(folder)
    expected = ModelDescription(["cm"], [0.5], [2.0], ["base"])
    model = UserModel("loads:ball", str(folder))
    assert model.describe() == UserModel("loads:ball", str(folder), "mechanisms").describe() == expected
    os.utime(mechanisms / "point-1.mod", (2e9, 2e9))
    assert "were compiled before point-1.mod in mechanisms changed" in model.notes()[0]
    (folder / compiled.name).unlink()
    (folder / compiled.name).mkdir()
    (folder / compiled.name / "libnrnmech.so").write_text("of another NEURON")
    assert UserModel("balls:ball", str(folder)).describe() == expected  # from the mod file
    shutil.rmtree(mechanisms)
    with pytest.raises(InputError, match=r"libnrnmech.so: NEURON .* cannot load it; it was compiled for another one"):
        UserModel("balls:ball", str(folder)).describe()
