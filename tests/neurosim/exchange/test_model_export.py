"""The SONATA export: its files, and the same voltage in BMTK as here."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import h5py
import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import Accuracy, CellParameter, Conditions
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.cells.morphology import MorphologyFile
from neurofleet.neurosim.cells.morphology_check import check_morphologies
from neurofleet.neurosim.exchange.allen_fit import read_fit
from neurofleet.neurosim.exchange.model_export import Clamp, write_sonata
from neurofleet.neurosim.features.step_protocols import TargetSet
from neurofleet.neurosim.mechanisms import compile_mechanisms, load_mechanisms
from tests.neurosim.cells.small_cells import AXON_SWC, FULL_SWC
from tests.neurosim.cells.test_morphology_reading import ROUND, asc_soma

SECTIONS = ("soma", "axon", "dend", "apic")
IH = "(-0.8696 + 2.087*exp(0.0031*distance))*value"
VALUES = {"gbar_Ih.apic": 2e-5, "gbar_NaTa_t.axon": 3.0}
CLAMPS = (Clamp(0.3, 20.0, 60.0), Clamp(-0.02, 0.0, 100.0))
STOP_MS, DT_MS = 100.0, 0.025


def made_up_model(axon="stub", distribution=IH, name="cell.swc") -> FitModel:
    fixed = {"cm.all": 1.5, "Ra.all": 120.0, "g_pas.all": 8e-5, "e_pas.all": -78.0, "gbar_NaTs2_t.soma": 0.3}
    fixed |= {"gbar_Kv3_1.soma": 0.1, "gbar_Kv3_1.axon": 0.4, "cm.dend": 2.5, "gbar_Ca_HVA.soma": 1e-4}
    return FitModel(
        cell="made-up",
        morphology=MorphologyFile(name, AXON_SWC.encode()),
        axon=axon,
        conditions=Conditions(celsius=33.0, v_init_mV=-77.0),
        mechanisms={
            "all": ("pas",),
            "soma": ("NaTs2_t", "Kv3_1", "Ca_HVA", "CaDynamics"),
            "axon": ("NaTa_t", "Kv3_1"),
            "apic": ("Ih",),
        },
        free=(
            CellParameter("gbar_Ih", "apic", 0.0, 1.0, distribution),
            CellParameter("gbar_NaTa_t", "axon", 0.0, 9.0),
        ),
        fixed=fixed,
        distributions={},
        targets=TargetSet({}, ()),
        accuracy=Accuracy(),
    )


def own_voltage(model: FitModel) -> np.ndarray:
    """Return our somatic voltage after each step."""
    from bluepyopt.ephys.simulators import NrnSimulator

    load_mechanisms()
    cell = replace(model, cell="own-voltage").build_cell()  # an exported template may have the model's name
    simulator = NrnSimulator(cvode_active=False, dt=DT_MS)
    h = simulator.neuron.h
    cell.freeze(VALUES)
    cell.instantiate(sim=simulator)
    soma = cell.icell.soma[0](0.5)
    clamps = []
    for clamp in CLAMPS:
        clamps.append(h.IClamp(soma))
        clamps[-1].amp, clamps[-1].delay, clamps[-1].dur = (
            clamp.amplitude_nA,
            clamp.start_ms,
            clamp.duration_ms,
        )
    voltage = h.Vector().record(soma._ref_v)
    simulator.run(tstop=STOP_MS, dt=DT_MS, cvode_active=False)
    found = np.array(voltage)[1:]
    cell.destroy(sim=simulator)
    return found


@pytest.mark.skipif(find_spec("bmtk") is None, reason="bmtk is not installed (pip install bmtk)")
@pytest.mark.parametrize(
    ("axon", "distribution"),
    [("stub", IH), ("legacy-stub", "uniform"), ("legacy-stub-60um", IH), ("full", "uniform")],
    ids=["stub", "legacy-stub", "legacy-stub-60um", "full"],
)
def test_bmtk_gives_our_voltage(tmp_path, axon, distribution):
    model = made_up_model(axon, distribution)
    write_sonata(tmp_path / "out", model, VALUES, SECTIONS, CLAMPS, STOP_MS, DT_MS)
    (compiled,) = [path for path in compile_mechanisms().iterdir() if path.name != "mod"]
    (tmp_path / "out/components/mechanisms" / compiled.name).symlink_to(compiled)
    done = subprocess.run([sys.executable, tmp_path / "out/run_bionet.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with h5py.File(tmp_path / "out/output/voltage.h5") as file:
        found = np.asarray(file["report/cell/data"]).ravel()
    expected = own_voltage(model)
    assert np.count_nonzero((expected[:-1] < -20) & (expected[1:] >= -20)) >= 2
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.02)  # near a spike; the rest is nearer
    assert np.sqrt(np.mean((found - expected) ** 2)) < 1e-3


def test_the_files_say_what_the_cell_is(tmp_path):
    model = made_up_model("legacy-stub", "uniform")
    write_sonata(tmp_path / "out", model, VALUES, SECTIONS, CLAMPS, STOP_MS, DT_MS, 9.0, [3, 5])
    simulation = json.loads((tmp_path / "out/simulation_config.json").read_text())
    assert simulation["conditions"] == {"celsius": 33.0, "v_init": -77.0}
    assert (simulation["run"]["dt"], simulation["run"]["tstop"]) == (DT_MS, STOP_MS)
    assert [clamp["amp"] for clamp in simulation["inputs"].values()] == [0.3, -0.02]
    names, node_type = (tmp_path / "out/network/node_types.csv").read_text().splitlines()
    row = dict(zip(names.split(), node_type.split(), strict=True))
    assert row["model_processing"] == "aibs_allactive"
    assert (tmp_path / "out/components/morphologies" / row["morphology"]).read_text() == AXON_SWC
    with h5py.File(tmp_path / "out/network/nodes.h5") as file:
        assert file.attrs["magic"] == 0x0A7A
        assert list(file["nodes/cell/node_type_id"]) == [int(row["node_type_id"])]
    fit = read_fit(tmp_path / "out/components/fits" / row["dynamics_params"])
    assert (fit.sweeps, fit.junction_potential_mV) == ((3, 5), 9.0)
    assert fit.parameters["gbar_NaTa_t.axon"] == 3.0
    mods = {path.stem for path in (tmp_path / "out/components/mechanisms/modfiles").iterdir()}
    assert mods == {"NaTs2_t", "Kv3_1", "Ca_HVA", "CaDynamics", "NaTa_t", "Ih"}


def test_another_morphology_is_exported_as_swc_with_the_same_soma_and_branches(tmp_path):
    asc = tmp_path / "cell.asc"
    asc.write_text(asc_soma(f'("CellBody" (CellBody) {ROUND})'))
    model = replace(made_up_model(), morphology=MorphologyFile.read(asc))
    write_sonata(tmp_path / "out", model, VALUES, SECTIONS, CLAMPS, STOP_MS)
    swc = tmp_path / "out/components/morphologies/cell.swc"
    before, after = check_morphologies([asc, swc])
    assert after.n_sections == before.n_sections
    assert after.area_um2["soma"] == pytest.approx(before.area_um2["soma"], rel=1e-3)
    for kind in ("axon", "dend", "apic"):
        assert after.length_um[kind] == pytest.approx(before.length_um[kind])
    assert "made from cell.asc" in (tmp_path / "out/README.txt").read_text()


def test_what_cannot_be_exported_is_refused(tmp_path):
    with pytest.raises(InputError, match="gbar_NaTa_t.axon"):
        write_sonata(tmp_path / "a", made_up_model(), {"gbar_Ih.apic": 1.0}, SECTIONS, CLAMPS, STOP_MS)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("")
    model = replace(made_up_model(), morphology=MorphologyFile("cell.swc", FULL_SWC.encode()))
    with pytest.raises(InputError, match="new or an empty folder"):
        write_sonata(tmp_path / "b", model, VALUES, SECTIONS, CLAMPS, STOP_MS)
