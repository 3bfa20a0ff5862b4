"""Every published fit file imports and runs with each treatment of the axon."""

import json

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_morphology import CellMorphology
from neurofleet.neurosim.cells.morphology_check import check_morphology
from neurofleet.neurosim.exchange.allen_fit import read_fit
from neurofleet.neurosim.mechanisms import load_mechanisms
from tests.neurosim.cells.small_cells import AXON_SWC

# The reconstructions that lie beside fit files of another number; the other cells' are in their own folder.
RECONSTRUCTIONS = {
    "472363762": "Scnn1a_473845048_m.swc",
    "473863035": "Nr5a1_471087815_m.swc",
    "473863510": "Rorb_325404214_m.swc",
    "485184849": "485184849_reconstruction.swc",
}
DT_MS = 0.1


def published_models(folder):
    """Return (fit file, its reconstruction or None) of all models."""
    found = []
    for fit in sorted([*folder.glob("*/*_fit.json"), *folder.glob("*/fit_parameters.json")]):
        if fit.parent.name == "bmtk_morphologies":
            name = RECONSTRUCTIONS.get(fit.name.split("_")[0])
            found.append((fit, None if name is None else fit.parent / name))
        else:
            (swc,) = [path for path in fit.parent.glob("*.swc") if "marker" not in path.name]
            found.append((fit, swc))
    return found


def run(simulator, fit, morphology, axon, stop_ms=8.0):
    """Return sections, and somatic voltage at the start of a run."""
    cell = fit.cell_model("published", CellMorphology(morphology, axon=axon))
    cell.instantiate(sim=simulator)
    h = simulator.neuron.h
    axon_diameters = [round(section.diam, 6) for section in cell.icell.axonal]
    sodium = {round(section.ena, 3) for section in cell.icell.somatic if h.ismembrane("na_ion", sec=section)}
    clamp = h.IClamp(cell.icell.soma[0](0.5))
    clamp.amp, clamp.delay, clamp.dur = 0.3, 2.0, 100.0
    voltage = h.Vector().record(cell.icell.soma[0](0.5)._ref_v)
    simulator.run(tstop=stop_ms, dt=DT_MS, cvode_active=False)
    found = np.array(voltage)
    del clamp
    cell.destroy(sim=simulator)
    assert len(found) == round(stop_ms / DT_MS) + 1
    assert sodium == {fit.conditions.ena_mV}
    return axon_diameters, found


def test_published_models_run_with_each_axon(shared_data, tmp_path):
    from bluepyopt.ephys.simulators import NrnSimulator

    load_mechanisms()
    simulator = NrnSimulator(cvode_active=False, dt=DT_MS)
    models = published_models(shared_data / "neuron")
    assert len(models) >= 12
    stand_in = tmp_path / "stand_in.swc"
    stand_in.write_text(AXON_SWC)
    for path, swc in models:
        fit = read_fit(path)
        in_pieces = swc is not None and swc.name.startswith("485184849")
        for axon in ("stub", "legacy-stub", *(["full"] * (not in_pieces))):
            diameters, voltage = run(simulator, fit, swc or stand_in, axon)
            assert voltage[0] == pytest.approx(fit.conditions.v_init_mV)
            assert np.all(np.isfinite(voltage))
            assert voltage[-1] > voltage[round(2.0 / DT_MS)] + 1.0, (path, axon)  # the current arrives
            assert len(diameters) == 2 or axon == "full"
            assert (diameters == [1.0, 1.0]) == (axon == "stub")


def test_an_axon_in_pieces_cannot_be_kept(shared_data):
    swc = shared_data / "neuron" / "bmtk_morphologies" / "485184849_reconstruction.swc"
    check_morphology(swc, "stub")
    with pytest.raises(InputError, match="pieces of axon: use axon: stub"):
        check_morphology(swc, "full")


def test_perisomatic_files_have_channels_in_the_soma_alone(shared_data):
    for path, _ in published_models(shared_data / "neuron"):
        fit = read_fit(path)
        written = json.loads(path.read_text())
        assert len(fit.parameters) >= len(written["genome"])
        for gene in written["genome"]:
            assert fit.parameters[f"{gene['name']}.{gene['section']}"] == float(gene["value"])
        if "cm" in written["passive"][0]:  # perisomatic: capacitances stand here, channels in the soma
            assert set(fit.mechanisms) == {"all", "soma"}
            for entry in written["passive"][0]["cm"]:
                assert fit.parameters[f"cm.{entry['section']}"] == entry["cm"]
            assert fit.parameters["e_pas.all"] == written["passive"][0]["e_pas"]
