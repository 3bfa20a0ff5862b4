"""Cells as BluePyOpt models: names, conditions, distributions, faults, and the same cell in hoc."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import (
    CellParameter,
    Conditions,
    bluepyopt_distribution,
    build_cell_model,
    check_cell,
    hoc_name,
)
from neurofleet.neurosim.cells.cell_morphology import CellMorphology
from neurofleet.neurosim.cells.morphology_check import AXON_MODES
from neurofleet.neurosim.exchange.model_export import write_hoc
from neurofleet.neurosim.mechanisms import compile_mechanisms, load_mechanisms
from tests.neurosim.cells.small_cells import AXON_SWC, FULL_SWC

MECHANISMS = {
    "all": ("pas",),
    "soma": ("Ih", "NaTs2_t", "Kv3_1", "SK", "Ca_HVA", "CaDynamics"),
    "axon": ("NaTa_t", "Kv3_1"),
    "dend": ("Ih",),
    "apic": ("Ih", "Im"),
}
PARAMETERS = (
    CellParameter("gbar_NaTs2_t", "soma", 0, 5),
    CellParameter("gbar_NaTa_t", "axon", 0, 10),
    CellParameter("gbar_Kv3_1", "axon", 0, 2),
    CellParameter("cm", "all", 0.1, 10),
    CellParameter("gbar_Ih", "apic", 1e-7, 1e-2, "(-0.8696 + 2.087*exp(0.0031*distance))*value"),
)
VALUES = {
    "gbar_NaTs2_t.soma": 0.4,
    "gbar_NaTa_t.axon": 2.0,
    "gbar_Kv3_1.axon": 0.5,
    "cm.all": 1.3,
    "gbar_Ih.apic": 1e-4,
}
FIXED = {
    "Ra.all": 120.0, "g_pas.all": 5e-5, "e_pas.all": -85.0, "cm.soma": 0.9, "gbar_Kv3_1.soma": 0.1,
    "gamma_CaDynamics.soma": 0.03,
}  # fmt: skip


@pytest.fixture(scope="module")
def simulator():
    load_mechanisms()
    from bluepyopt.ephys.simulators import NrnSimulator

    return NrnSimulator()


@pytest.fixture
def morphology(tmp_path):
    path = tmp_path / "cell.swc"
    path.write_text(FULL_SWC)
    return path


def build(path, axon="stub", **changes):
    given = {
        "mechanisms": MECHANISMS,
        "parameters": PARAMETERS,
        "fixed": FIXED,
        "conditions": Conditions(),
    } | changes
    return build_cell_model("cell", CellMorphology(path, axon=axon), **given)


@pytest.fixture
def cell(simulator, morphology):
    model = build(morphology)
    model.freeze(VALUES)
    model.instantiate(sim=simulator)
    yield model.icell
    model.destroy(sim=simulator)


def test_parameters_reach_their_sections_and_a_single_section_has_the_last_word(cell):
    assert cell.soma[0].cm == 0.9
    assert cell.dend[0].cm == cell.axon[1].cm == cell.apic[0].cm == 1.3
    assert cell.soma[0].gbar_NaTs2_t == 0.4
    assert cell.axon[1].gbar_NaTa_t == 2.0
    assert cell.soma[0].gamma_CaDynamics == 0.03
    assert cell.soma[0].gbar_SK == 1e-6
    assert all(section.Ra == 120.0 and section.e_pas == -85.0 for section in cell.all)


def test_reversal_potentials_are_set_only_where_there_is_a_channel(cell):
    assert (cell.soma[0].ena, cell.soma[0].ek, cell.axon[0].ena, cell.axon[0].ek) == (53, -107, 53, -107)
    assert cell.apic[0].ek == -107
    assert not hasattr(cell.apic[0](0.5), "na_ion")
    assert not hasattr(cell.dend[0](0.5), "na_ion")
    assert not hasattr(cell.dend[0](0.5), "k_ion")


def test_conditions_are_global(simulator, cell):
    assert (simulator.neuron.h.celsius, simulator.neuron.h.v_init) == (34, -80)


def test_a_distribution_follows_the_distance_from_the_soma(simulator, cell):
    h = simulator.neuron.h
    h.distance(0, 0.5, sec=cell.soma[0])
    found = [segment.gbar_Ih for section in cell.apical for segment in section]
    distances = [h.distance(segment) for section in cell.apical for segment in section]
    expected = (-0.8696 + 2.087 * np.exp(0.0031 * np.array(distances))) * 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert max(found) > 1.5 * min(found)


def test_a_fixed_parameter_keeps_its_distribution(simulator, morphology):
    free = [parameter for parameter in PARAMETERS if parameter.name != "gbar_Ih"]
    model = build(
        morphology,
        parameters=free,
        fixed=FIXED | {"gbar_Ih.apic": 1e-4},
        distributions={"gbar_Ih.apic": PARAMETERS[-1].distribution},
    )
    assert model.params["gbar_Ih.apic"].frozen
    model.freeze({name: value for name, value in VALUES.items() if name != "gbar_Ih.apic"})
    model.instantiate(sim=simulator)
    found = [segment.gbar_Ih for section in model.icell.apical for segment in section]
    model.destroy(sim=simulator)
    assert max(found) > 1.5 * min(found)


def test_free_parameters_carry_their_bounds_and_full_names(morphology):
    model = build(morphology)
    free = {name: list(p.bounds) for name, p in model.params.items() if not p.frozen}
    assert free == {p.full_name: [p.lower, p.upper] for p in PARAMETERS}


def test_a_reversal_potential_may_be_given_by_section(simulator, morphology):
    model = build(morphology, fixed=FIXED | {"ena.axon": 50.0})
    assert model.params["ena.axon"].value == 50.0
    assert model.params["ena.soma"].value == 53.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mechanisms": {"soma": ["NaTa_T"]}}, r"mechanism 'NaTa_T' does not exist; did you mean 'NaTa_t'\?"),
        ({"mechanisms": {"dendrite": ["pas"]}}, r"section 'dendrite' does not exist; did you mean 'dend'\?"),
        ({"fixed": {"gbar_NaTat.axon": 1.0}}, r"'gbar_NaTat' does not exist; did you mean 'gbar_NaTa_t'\?"),
        ({"fixed": {"gbar_NaTa_t.soma": 1.0}}, "NaTa_t is not inserted in soma"),
        ({"fixed": {"gbar_Ih.all": 1.0}}, "Ih is not inserted in axon"),
        ({"fixed": {"cm": 1.0}}, "'cm': expected a name and a section"),
        ({"fixed": {"gbar_NaTa_t.axon": 1.0}, "parameters": PARAMETERS}, "gbar_NaTa_t.axon is given twice"),
        (
            {"parameters": [CellParameter("cm", "soma", 2, 1)]},
            r"lower bound below the upper one, found \[2, 1\]",
        ),
        ({"parameters": [CellParameter("cm", "soma", 1, 2, "value*distance")]}, "only uniform is possible"),
        ({"parameters": [CellParameter("g_pas", "soma", 0, 1, "import os")]}, "distribution: expected"),
    ],
)
def test_faults_are_named_with_the_nearest_known_name(changes, said):
    given = {"mechanisms": MECHANISMS, "parameters": (), "fixed": {}} | changes
    with pytest.raises(InputError, match=said):
        check_cell(**given)


def test_what_is_inserted_in_every_section_of_the_cell_is_inserted_in_all():
    listed = {section: ("pas",) for section in ("soma", "axon", "dend")}
    check_cell(listed, (), {"g_pas.all": 1e-4})
    with pytest.raises(InputError, match="pas is not inserted in apic"):
        check_cell(listed | {"apic": ("Ih",)}, (), {"g_pas.all": 1e-4})


def test_all_faults_are_said_at_once():
    with pytest.raises(InputError, match="soma, dend: mechanism 'Nope'.*gbar_Ih.soma"):
        check_cell({"soma": ["Nope"], "dend": ["Nope"]}, (), {"gbar_Nope.soma": 1.0, "gbar_Ih.soma": 1.0})


@pytest.mark.parametrize(
    "expression",
    ["value", "{value}*math.exp({distance}/100)", "(1 - -2.5e-3*distance)*value/sqrt(1 + distance)"],
)
def test_distributions_are_arithmetic(expression):
    import math

    written = bluepyopt_distribution(expression)
    found = eval(written.format(value="0.5", distance="100.0"))
    allowed = {"math": math, "sqrt": math.sqrt}
    expected = eval(expression.replace("{", "").replace("}", ""), allowed | {"value": 0.5, "distance": 100.0})
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    "expression",
    [
        "", "distance", "1.0", "value**2", "value + x", "__import__('os').system('true')", "value.real",
        "value if 1 else 2", "exp(value, 2)", "open(value)", "value; value", "(lambda: value)()", "exp*value",
        "value + True", "[value][0]", "exp(*value)", "'{value}'",
    ],
)  # fmt: skip
def test_distributions_that_are_more_than_arithmetic_are_refused(expression):
    with pytest.raises(InputError, match="distribution: expected"):
        bluepyopt_distribution(expression)


@pytest.mark.parametrize(
    ("name", "expected"), [("C060114A7", "C060114A7"), ("483101699", "cell_483101699"), ("a-b.c", "a_b_c")]
)
def test_any_name_becomes_one_that_hoc_takes(name, expected):
    assert hoc_name(name) == expected


HOC_RUN = """
import sys
from neuron import h
h.load_file("stdrun.hoc")
h.nrn_load_dll(sys.argv[1])
h.celsius, h.v_init = 34, -80
h.load_file(sys.argv[2])
cell = h.cell(sys.argv[3])
h.check_simulator()
stimulus = h.IClamp(cell.soma[0](0.5))
stimulus.delay, stimulus.dur, stimulus.amp = 5, 20, 0.3
places = [cell.soma[0](0.5), cell.axon[len(list(cell.axonal)) - 1](0.5), cell.apic[0](0.5)]
records = [h.Vector().record(place._ref_v) for place in places]
h.tstop = 30
h.run()
print("RESULT", *[repr(x) for record in records for x in record])
"""


def python_run(simulator, model):
    """The same run with the model built in Python."""
    h = simulator.neuron.h
    model.freeze(VALUES)
    model.instantiate(sim=simulator)
    cell = model.icell
    stimulus = h.IClamp(cell.soma[0](0.5))
    stimulus.delay, stimulus.dur, stimulus.amp = 5, 20, 0.3
    places = [cell.soma[0](0.5), list(cell.axonal)[-1](0.5), cell.apic[0](0.5)]
    records = [h.Vector().record(place._ref_v) for place in places]
    simulator.run(tstop=30, dt=0.025, cvode_active=False)
    found = np.array([x for record in records for x in record])
    model.destroy(sim=simulator)
    model.unfreeze(VALUES)
    return found


@pytest.mark.parametrize("axon", AXON_MODES)
def test_the_hoc_template_is_the_same_cell(simulator, tmp_path, axon):
    (tmp_path / "cell.swc").write_text(AXON_SWC)
    model = build(tmp_path / "cell.swc", axon=axon)
    write_hoc(tmp_path / "cell.hoc", model, VALUES)
    expected = python_run(simulator, model)
    library = next(compile_mechanisms().glob("*/libnrnmech.*"))
    (tmp_path / "run.py").write_text(textwrap.dedent(HOC_RUN))
    process = subprocess.run(
        [sys.executable, "run.py", str(library), "cell.hoc", str(tmp_path)],
        cwd=tmp_path, env=os.environ | {"NEURON_MODULE_OPTIONS": "-nogui"}, capture_output=True, text=True,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    (line,) = [line for line in process.stdout.splitlines() if line.startswith("RESULT")]
    found = np.array([float(word) for word in line.split()[1:]])
    assert expected[: len(expected) // 3].max() > 0  # it spikes: a different axon would show
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_hoc_needs_every_free_value(morphology, tmp_path):
    with pytest.raises(InputError, match="gbar_Ih.apic"):
        write_hoc(tmp_path / "cell.hoc", build(morphology), {n: v for n, v in VALUES.items() if n != "gbar_Ih.apic"})
