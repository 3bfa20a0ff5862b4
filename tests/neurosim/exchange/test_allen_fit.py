"""Allen fit files: read, written, and run."""

import json

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import Conditions
from neurofleet.neurosim.cells.cell_morphology import CellMorphology
from neurofleet.neurosim.exchange.allen_fit import AllenFit, read_fit, write_fit
from neurofleet.neurosim.mechanisms import UserMechanisms, load_mechanisms
from tests.neurosim.cells.small_cells import FULL_SWC

EREV = [{"section": s, "ena": 53.0, "ek": -107.0} for s in ("soma", "axon", "apic", "dend")]
ALL_ACTIVE = {
    "passive": [{"ra": 100}],
    "fitting": [{"junction_potential": -14.0, "sweeps": [38]}],
    "conditions": [{"celsius": 34, "erev": EREV, "v_init": -90}],
    "genome": [
        {"section": "soma", "name": "Ra", "value": "133.5", "mechanism": ""},
        {"section": "soma", "name": "cm", "value": "4.2", "mechanism": ""},
        {"section": "axon", "name": "g_pas", "value": "0.001", "mechanism": ""},
        {"section": "axon", "name": "gbar_NaV", "value": "0.0357", "mechanism": "NaV"},
        {"section": "axon", "name": "gamma_CaDynamics", "value": "0.04", "mechanism": "CaDynamics"},
        {"section": "axon", "name": "decay_CaDynamics", "value": "226", "mechanism": "CaDynamics"},
    ],
}
PERISOMATIC = {
    "passive": [
        {"ra": 138.28, "cm": [{"section": "soma", "cm": 1.0}, {"section": "dend", "cm": 2.1}], "e_pas": -92.5}
    ],
    "fitting": [{"junction_potential": -14.0, "sweeps": []}],
    "conditions": [{"celsius": 34.0, "erev": EREV[:1], "v_init": -92.5}],
    "genome": [
        {"section": "soma", "name": "gbar_NaTs", "value": 0.98, "mechanism": "NaTs"},
        {"section": "soma", "name": "g_pas", "value": 5e-6, "mechanism": ""},
    ],
}  # fmt: skip


def write(folder, content):
    path = folder / "cell_fit.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_all_active_file(tmp_path):
    fit = read_fit(write(tmp_path, ALL_ACTIVE))
    assert fit.parameters == {
        "Ra.soma": 133.5, "cm.soma": 4.2, "g_pas.axon": 0.001, "gbar_NaV.axon": 0.0357,
        "gamma_CaDynamics.axon": 0.04, "decay_CaDynamics.axon": 226.0,
    }  # fmt: skip
    assert fit.mechanisms == {"all": ("pas",), "axon": ("NaV", "CaDynamics")}
    assert fit.conditions == Conditions(celsius=34, v_init_mV=-90, ena_mV=53, ek_mV=-107)
    assert (fit.junction_potential_mV, fit.sweeps) == (14.0, (38,))


def test_a_perisomatic_file(tmp_path):
    fit = read_fit(str(write(tmp_path, PERISOMATIC)))
    assert fit.parameters == {
        "Ra.all": 138.28, "e_pas.all": -92.5, "cm.soma": 1.0, "cm.dend": 2.1, "gbar_NaTs.soma": 0.98,
        "g_pas.soma": 5e-6,
    }  # fmt: skip
    assert fit.mechanisms == {"all": ("pas",), "soma": ("NaTs",)}


def test_sections_may_differ_in_their_reversal_potentials(tmp_path):
    erev = [EREV[0], EREV[1] | {"ena": 50.0}]
    fit = read_fit(write(tmp_path, ALL_ACTIVE | {"conditions": [ALL_ACTIVE["conditions"][0] | {"erev": erev}]}))
    assert fit.conditions.ena_mV == 53.0
    assert fit.parameters["ena.axon"] == 50.0
    assert "ek.axon" not in fit.parameters


def rewritten(fit: AllenFit, folder, **options):
    path = folder / "again_fit.json"
    write_fit(path, fit.parameters, fit.mechanisms, fit.conditions, fit.junction_potential_mV, fit.sweeps, **options)
    return read_fit(path)


def test_what_is_written_for_all_sections_is_repeated_for_each(tmp_path):
    parameters = {"cm.soma": 1.1, "cm.all": 2.2, "g_pas.all": 1e-4, "gbar_Ih.dend": 1 / 3, "ek.dend": -90.0}
    mechanisms = {"all": ("pas",), "dend": ("Ih", "Im")}
    fit = rewritten(AllenFit(parameters, mechanisms, Conditions(v_init_mV=-77.7)), tmp_path, sections=("soma", "dend"))
    assert fit.parameters == {
        "cm.soma": 1.1, "cm.dend": 2.2, "g_pas.soma": 1e-4, "g_pas.dend": 1e-4, "gbar_Ih.dend": 1 / 3,
        "gbar_Im.dend": 1e-5, "ek.dend": -90.0,
    }  # fmt: skip
    assert fit.mechanisms == mechanisms
    assert fit.conditions == Conditions(v_init_mV=-77.7)


def test_a_written_file_has_the_layout_of_the_published_ones(tmp_path):
    write_fit(tmp_path / "fit.json", {"Ra.all": 100.0, "gbar_Ih.soma": 1e-5}, {"soma": ("Ih",)}, Conditions())
    content = json.loads((tmp_path / "fit.json").read_text())
    assert content["passive"] == [{"ra": 100.0}]
    assert content["fitting"] == [{"junction_potential": -14.0, "sweeps": []}]
    assert content["conditions"][0]["erev"] == [{"section": "soma", "ena": 53.0, "ek": -107.0}]
    assert content["genome"][1] == {"section": "soma", "name": "gbar_Ih", "value": "1e-05", "mechanism": "Ih"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "in JSON"),
        ("[]", "not complete"),
        ({"genome": []}, "not complete"),
        (ALL_ACTIVE | {"genome": [{"section": "soma", "name": "cm"}]}, "not complete"),
        (ALL_ACTIVE | {"conditions": [{"celsius": 34, "erev": [], "v_init": -80}]}, "not complete"),
        (
            ALL_ACTIVE | {"genome": [{"section": "soma", "name": "gbar_NaVv", "value": 1, "mechanism": "NaVv"}]},
            "mechanism 'NaVv' does not exist; did you mean 'NaV'",
        ),
        (
            ALL_ACTIVE | {"genome": [{"section": "glob", "name": "cm", "value": 1, "mechanism": ""}]},
            "'glob' does not",
        ),
    ],
)
def test_what_is_no_fit_file_is_refused(tmp_path, content, said):
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=said) as error:
        read_fit(path)
    assert str(path) in str(error.value)


OWN_HCN = """
NEURON { SUFFIX MyH USEION hcn READ ehcn WRITE ihcn VALENCE 1 RANGE gbar }
PARAMETER { gbar = 1e-3 }
ASSIGNED { v ehcn ihcn }
BREAKPOINT { ihcn = gbar*(v - ehcn) }
INCLUDE "more.inc"
"""


def test_a_model_with_a_users_mechanisms_and_ions_comes_back(tmp_path):
    folder = tmp_path / "modfiles"
    folder.mkdir()
    (folder / "h.mod").write_text(OWN_HCN)
    (folder / "more.inc").write_text("")
    (folder / "other.mod").write_text("NEURON { SUFFIX Ih }")  # a name of the project's, which the file has not
    own = UserMechanisms.read(folder).only({"MyH"})
    parameters = {"gbar_MyH.soma": 2e-3, "gbar_MyH.dend": 1e-3, "ehcn.dend": -40.0}
    mechanisms = {"all": ("pas",), "soma": ("MyH",), "dend": ("MyH",)}
    conditions = Conditions(other_reversals_mV={"hcn": -45.0})
    write_fit(tmp_path / "fit.json", parameters, mechanisms, conditions, known=own.known)
    erev = json.loads((tmp_path / "fit.json").read_text())["conditions"][0]["erev"]
    assert [(entry["section"], entry["ehcn"]) for entry in erev] == [("soma", -45.0), ("dend", -40.0)]
    beside = read_fit(tmp_path / "fit.json")
    assert beside.user_mechanisms == own
    assert beside.parameters.items() >= {**parameters, "ehcn.soma": -45.0}.items()
    folder.rename(tmp_path / "mine")
    assert read_fit(tmp_path / "fit.json", tmp_path / "mine") == beside
    with pytest.raises(InputError, match=r"mechanisms: soma, dend: mechanism 'MyH' does not .* put them into modfiles"):
        read_fit(tmp_path / "fit.json")
    (tmp_path / "mine" / "h.mod").write_text(OWN_HCN.replace("gbar*", "far*").replace("RANGE", "POINTER far RANGE"))
    with pytest.raises(InputError, match=r"fit.json: mechanism MyH \(h.mod\) needs the POINTER far"):
        read_fit(tmp_path / "fit.json", tmp_path / "mine")
    (tmp_path / "mine" / "h.mod").unlink()
    with pytest.raises(InputError, match=r"names no mechanism of .*mine \(Ih\), but MyH"):
        read_fit(tmp_path / "fit.json", tmp_path / "mine")


def test_reversal_potentials_are_set_where_the_ion_is(tmp_path):
    erev = [EREV[0], EREV[3] | {"ena": 50.0, "eca": 100.0}]  # the dendrite has no channel
    fit = read_fit(write(tmp_path, ALL_ACTIVE | {"conditions": [ALL_ACTIVE["conditions"][0] | {"erev": erev}]}))
    assert not [name for name in fit.parameters if name.endswith(".dend")]


def test_a_missing_file_and_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_fit(tmp_path / "gone.json")
    with pytest.raises(InputError, match="cannot be written"):
        write_fit(tmp_path / "gone" / "fit.json", {}, {"all": ("pas",)}, Conditions())


def test_published_files_survive_a_round_trip_and_run(shared_data, tmp_path):
    """Every published model is read, written, read again, and takes its first steps on a small cell."""
    from bluepyopt.ephys.simulators import NrnSimulator

    files = sorted([*shared_data.glob("neuron/*/*_fit.json"), *shared_data.glob("neuron/*/fit_parameters.json")])
    assert len(files) >= 12
    morphology = tmp_path / "cell.swc"
    morphology.write_text(FULL_SWC)
    load_mechanisms()
    simulator = NrnSimulator()
    for path in files:
        fit = read_fit(path)
        again = rewritten(fit, tmp_path, sections=("soma", "axon", "dend", "apic"))
        voltages = []
        for model in (fit, again):
            cell = model.cell_model("published", CellMorphology(morphology))
            cell.instantiate(sim=simulator)
            record = simulator.neuron.h.Vector().record(cell.icell.soma[0](0.5)._ref_v)
            simulator.run(tstop=20, dt=0.05, cvode_active=False)
            voltages.append(np.array(record))
            cell.destroy(sim=simulator)
        assert np.all(np.isfinite(voltages[0]))
        np.testing.assert_array_equal(*voltages)
        assert fit.junction_potential_mV == 14.0
