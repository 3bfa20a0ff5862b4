"""A user's own mod files: what is read of a folder, and that a model is simulated with them."""

import pickle
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.features.step_protocols import StepProtocol
from neurofleet.neurosim.mechanisms import MECHANISMS, UserMechanisms
from neurofleet.neurosim.mechanisms.catalogue import MOD_FOLDER, parse_mechanism
from tests.fresh_process import in_fresh_process
from tests.neurosim.mechanisms.test_channels import LEAK
from tests.neurosim.vector.reference import made_up_cell, neuron_voltages

POINT_PROCESS = "NEURON { POINT_PROCESS Syn NONSPECIFIC_CURRENT i RANGE g }"
FUNCTIONS = "NEURON { SUFFIX nothing }"
KV, NA = MOD_FOLDER / "Kv3_1.mod", MOD_FOLDER / "NaTa_t.mod"
STEP = StepProtocol("step", 0.3, 10.0, 40.0, 50.0)
DT_MS = 0.025
SLOW = KV.read_text().replace("m_tau = 4/", "m_tau = 8/")


def test_the_neuron_block_is_read_as_it_may_be_written():
    text = """
    NEURON { SUFFIX Odd RANGE GBAR, EREV
        USEION na READ ena, nai WRITE ina VALENCE 1 RANGE shift GLOBAL q USEION ca READ cai }
    PARAMETER { GBAR (S/cm2) EREV = -70. (mV) <-1e2, 1e2> shift = 1e-3 q = 3 other = 4 }
    """
    found = parse_mechanism(text)
    assert found.name == "Odd"
    assert found.parameters == {"GBAR": 0.0, "EREV": -70.0, "shift": 1e-3}
    assert (found.ions, found.reversal_ions) == (("na", "ca"), ("na",))
    for other in (POINT_PROCESS, FUNCTIONS, ": SUFFIX Commented\nNEURON { GLOBAL a }", ""):
        assert parse_mechanism(other) is None


def test_a_folder_gives_its_density_mechanisms_and_travels(tmp_path):
    (tmp_path / "first.mod").write_text(LEAK.format(name="MyLeak"))
    (tmp_path / "Ih.mod").write_bytes(b": \xb5S of old\r\n" + LEAK.format(name="Ih").encode())
    for name, text in (("syn", POINT_PROCESS), ("misc", FUNCTIONS), ("more", FUNCTIONS)):
        (tmp_path / f"{name}.mod").write_text(text)
    own = pickle.loads(pickle.dumps(UserMechanisms.read(tmp_path)))
    assert list(own.sources) == ["Ih", "MyLeak"]
    assert own.sources["Ih"].startswith(": µS of old\n")
    assert own.replacing == ["Ih"]
    assert own.known["Ih"].parameters == {"g": 0.001, "e": -65.0}
    assert own.known.keys() == MECHANISMS.keys() | {"MyLeak"}
    assert list(own.only({"MyLeak", "Kv3_1"}).sources) == ["MyLeak"]
    with own.written() as paths:
        assert [path.name for path in paths] == ["Ih.mod", "MyLeak.mod"]
        assert paths[1].read_text() == own.sources["MyLeak"]
    own.copy({"pas", "hh", "Ih", "Kv3_1"}, tmp_path / "copied")
    assert {path.name: path.read_text() for path in (tmp_path / "copied").iterdir()} == {
        "Ih.mod": own.sources["Ih"],
        "Kv3_1.mod": KV.read_text(),
    }


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "expected a folder of .mod files, found nothing"),
        ({}, "with a SUFFIX .*, found none"),
        ({"a.mod": POINT_PROCESS, "b.txt": "NEURON { SUFFIX A }"}, "with a SUFFIX .*, found none"),
        (
            {"Kv.mod": "NEURON { SUFFIX Kv }", "Kv_old.mod": "NEURON { SUFFIX Kv }"},
            "found Kv in Kv.mod and in Kv_old.mod",
        ),
    ],
    ids=["no folder", "empty", "nothing to insert", "one SUFFIX twice"],
)
def test_a_folder_that_cannot_be_used_is_refused(tmp_path, files, said):
    folder = tmp_path / "modfiles"
    if files is not None:
        folder.mkdir()
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    with pytest.raises(InputError, match=said):
        UserMechanisms.read(folder)


def cell(sodium: str, potassium: str, own: dict[str, str]) -> FitModel:
    """Return a cell whose soma has two channels."""
    values = {"g_pas.all": 5e-5, f"gbar_{sodium}.soma": 0.5, f"gbar_{potassium}.soma": 0.3}
    return made_up_cell({"all": ("pas",), "soma": (sodium, potassium)}, values, own=UserMechanisms(own))


def voltages(models: list[FitModel]) -> list[np.ndarray]:
    """Return the voltages of each model by NEURON and by the vector engine, shape (2, t)."""
    from neurofleet.neurosim.mechanisms import nmodl_compilation
    from neurofleet.neurosim.vector.kernel_setup import fixed_steps
    from neurofleet.neurosim.vector.vector_evaluator import VectorCell

    nmodl_compilation.PROJECT_SOURCES = tuple(
        path for path in nmodl_compilation.PROJECT_SOURCES if path in (KV, NA)
    )  # fewer to compile
    found = []
    for model in models:
        values = [(parameter.lower + parameter.upper) / 2 for parameter in model.free]
        neuron = neuron_voltages(model, values, STEP, DT_MS, order=2)[0]
        (run,) = VectorCell(model).run([values], [STEP], fixed_steps(DT_MS, order=2))
        found.append(np.stack([neuron, run.soma_mV[0]]))
    return found


@pytest.fixture(scope="module")
def beside() -> dict[str, np.ndarray]:
    """Voltages of our channels, of copies of them, and of one with a slower channel."""
    own = {"MyKv": KV.read_text(), "MyNa": NA.read_text(), "Slow": SLOW}
    own = {name: re.sub(r"SUFFIX \w+", f"SUFFIX {name}", text) for name, text in own.items()}
    models = [cell("NaTa_t", "Kv3_1", {}), cell("MyNa", "MyKv", own), cell("NaTa_t", "Slow", own)]
    return dict(zip(("ours", "copies", "slow"), in_fresh_process(voltages, models), strict=True))


def test_copies_of_our_channels_under_other_names_give_the_same_voltages(beside):
    assert (np.ptp(beside["ours"], axis=1) > 80.0).all()
    np.testing.assert_array_equal(beside["copies"], beside["ours"])


def test_a_mechanism_of_our_name_takes_the_place_of_ours(beside):
    (instead,) = in_fresh_process(voltages, [cell("NaTa_t", "Kv3_1", {"Kv3_1": SLOW})])
    assert (np.abs(instead - beside["ours"]).max(axis=1) > 1.0).all()
    np.testing.assert_allclose(instead, beside["slow"], atol=1e-6)  # currents are summed in another order


def test_channels_of_neurons_own_demonstration_are_a_users_too():
    folder = Path(find_spec("neuron").origin).parent / ".data" / "share" / "nrn" / "demo" / "release"
    sources = UserMechanisms.read(folder).only({"HHna", "HHk", "cachan1"}).sources
    # NEURON would read rates off a TABLE of one point for each mV.
    demo = UserMechanisms({name: re.sub("TABLE.*", "", text) for name, text in sources.items()})
    values = {"g_pas.all": 5e-5, "gnabar_HHna.soma": 0.2, "gkbar_HHk.soma": 0.05, "imax_cachan1.soma": 0.01}
    names = list(demo.sources)
    model = made_up_cell({"all": ("pas",), "soma": names}, values, own=demo)
    ((neuron, vector),) = in_fresh_process(voltages, [model])
    assert np.ptp(neuron) > 15.0
    np.testing.assert_allclose(vector, neuron, atol=1e-6)


def test_a_chain_that_settles_by_linear_equations():
    folder = Path(find_spec("bmtk").origin).parent / "utils" / "scripts" / "bionet" / "mechanisms" / "modfiles"
    own = UserMechanisms.read(folder).only({"NaV", "Kv3_1"})
    assert "LINEAR" in own.sources["NaV"]
    ((neuron, vector),) = in_fresh_process(voltages, [cell("NaV", "Kv3_1", dict(own.sources))])
    assert np.ptp(neuron) > 80.0
    np.testing.assert_allclose(vector, neuron, atol=1e-6)
