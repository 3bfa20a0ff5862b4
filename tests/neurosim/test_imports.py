"""What the packages of neurosim import: nothing of the cluster or of the learners, and NEURON only when needed."""

import importlib
import pkgutil
import sys

from neurofleet import fresh_process, neurosim

OTHER_EXTRAS = ("ray", "torch", "lightning")
SIMULATORS = ("neuron", "bluepyopt", "efel")
RUN_ELSEWHERE = "run_bionet"  # is copied into exported networks, and imports what lies beside it there


def imported_modules(modules):
    """Import modules and return the names of all packages that are imported then."""
    for module in modules:
        importlib.import_module(module)
    return {name.partition(".")[0] for name in sys.modules}


def modules_of_neurosim():
    names = [module.name for module in pkgutil.walk_packages(neurosim.__path__, "neurofleet.neurosim.")]
    return [name for name in names if RUN_ELSEWHERE not in name]


def test_no_module_imports_neuron_ray_or_torch():
    assert not fresh_process.call(imported_modules, modules_of_neurosim()) & {"neuron", *OTHER_EXTRAS}


WITHOUT_SIMULATOR = [
    "recordings.recording",
    "cells.morphology_check",
    "cells.cell_model",
    "cells.recipe",
    "cells.stage_bounds",
    "features.training_targets",
    "features.published_targets",
    "exchange.allen_fit",
    "exchange.allen_download",
    "exchange.dandi_download",
    "exchange.neuromorpho_download",
    "evolution",
    "mechanisms",
]


def simulators_after_each(modules):
    return {module: imported_modules([f"neurofleet.neurosim.{module}"]) & {*SIMULATORS} for module in modules}


def test_no_simulator_is_imported_before_it_is_needed():
    found = fresh_process.call(simulators_after_each, WITHOUT_SIMULATOR)
    assert found == {module: set() for module in WITHOUT_SIMULATOR}


class NotInstalled:
    """Refuses the import of what other extras bring, as if it were not installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OTHER_EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def demo_without_other_extras(folder):
    """Record four sweeps of the demo cell, and return its number of somata and of targets read from the recording."""
    sys.meta_path.insert(0, NotInstalled())
    for module in modules_of_neurosim():
        importlib.import_module(module)
    from neurofleet.neurosim.cells import demo_cell
    from neurofleet.neurosim.cells.morphology_check import check_morphology
    from neurofleet.neurosim.features.training_targets import passive_targets
    from neurofleet.neurosim.recordings.recording import read_recording

    demo_cell.AMPLITUDES_NA, demo_cell.REPEATS = (-0.1, 0.2), 2
    morphology, path = demo_cell.write_demo_cell(folder)
    targets = passive_targets(read_recording(path), ["voltage_base"])
    return check_morphology(morphology).n_sections["soma"], len(targets.targets)


def test_neurosim_works_where_ray_torch_and_lightning_are_not_installed(tmp_path):
    n_soma, n_targets = fresh_process.call(demo_without_other_extras, tmp_path)
    assert n_soma == 1
    assert n_targets > 0
