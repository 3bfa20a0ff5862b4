"""A user's own mod files: what is read of a folder, and that a model is simulated with them."""

import pickle
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells.cell_model import Conditions, reversal_notes
from neurofleet.neurosim.cells.fit_model import FitModel
from neurofleet.neurosim.features.step_protocols import StepProtocol
from neurofleet.neurosim.mechanisms import (
    MECHANISMS,
    UserMechanisms,
    compile_mechanisms,
    nmodl_compilation,
    nmodl_files,
    read_mechanism,
)
from neurofleet.neurosim.mechanisms.catalogue import MOD_FOLDER, parse_mechanism, read_nmodl
from neurofleet.neurosim.mechanisms.nmodl_compilation import not_loaded, unit_fault
from tests.fresh_process import in_fresh_process
from tests.neurosim.mechanisms.test_channels import LEAK
from tests.neurosim.vector.reference import fixed_steps, made_up_cell, neuron_voltages

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


CHANNEL = """
NEURON { SUFFIX kv USEION hcn READ ehcn, hcni WRITE ihcn VALENCE 1 RANGE gbar, ninf, n POINTER used, unused GLOBAL vh }
PARAMETER { gbar = 1e-4 (S/cm2) vh = -30 (mV) tau = 2 (ms) <1e-3, 1e3> ehcn = -45 (mV) v (mV) celsius (degC) }
ASSIGNED { ihcn (mA/cm2) ninf used unused hcni (mM) }
STATE { n }
BREAKPOINT { ihcn = gbar*n*(v - ehcn)*used }
VERBATIM
  if (unused) { x = used ? 1 : 0; }
  ENDVERBATIM
"""


def test_what_a_recipe_cannot_set_is_told_from_what_it_can():
    found = parse_mechanism(CHANNEL)
    assert found.parameters == {"gbar": 1e-4}
    assert found.shared == ("vh", "tau")
    assert found.calculated == ("ninf", "n")
    assert found.pointers == ("used",)
    assert found.without_effect == {"ehcn": -45.0}
    assert (found.ions, found.reversal_ions, found.written_concentrations) == (("hcn",), ("hcn",), ())


WITH_UNITS = """
NEURON { SUFFIX kv USEION k READ ek WRITE ik RANGE gbar }
UNITS { (mV) = (millivolt) (mA) = (milliamp) (uA) = (microamp) (mS) = (millisiemens) }
PARAMETER { gbar = 0.1 (mS/cm2) }
ASSIGNED { v (mV) ek (mV) ik (mA/cm2) ninf }
PROCEDURE rates() { ninf = 1/(1 + exp(-v/9)) }
BREAKPOINT { if (v > 0) { rates() } ik = (0.001)*gbar*ninf*(v - ek) }
"""


@pytest.mark.parametrize(
    ("nmodl", "said"),
    [
        (WITH_UNITS, ""),
        (WITH_UNITS.replace("(0.001)*", ""), "a factor of 0.001 is missing in `BREAKPOINT .*ik = gbar"),
        (WITH_UNITS.replace("ik (mA/", "ik (uA/"), "ik is declared in uA/cm2, and NEURON takes it in milliamp/cm2"),
        (WITH_UNITS.replace("ik (mA/cm2)", "ik"), ""),  # as in many mechanisms
        (LEAK.format(name="Leak"), ""),
    ],
)  # fmt: skip
def test_a_current_that_is_off_by_a_factor_is_told(nmodl, said):
    assert re.search(said, unit_fault(nmodl))
    assert bool(unit_fault(nmodl)) == bool(said)
    notes = UserMechanisms({"kv": nmodl}, files={"kv": "my.mod"}).unit_notes()
    assert [note.startswith("mechanism kv (my.mod): ") for note in notes] == [True] * bool(said)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"\xef\xbb\xbf: a\r\n: b\r", ": a\n: b\n"),
        (": caf\xe9\n".encode("latin-1"), ": caf_\n"),
        ("\ufeff: 2\u03c0 \u03bcS\n".encode("utf-16-le"), ": 2_ uS\n"),
        ("TITLE \u5c71\nx\xa0=\xa01 (\u00b5S)\nCOMMENT\n \u00e9 ENDCOMMENT \u00e9\nENDCOMMENT\n".encode(),
         "TITLE _\nx = 1 (uS)\nCOMMENT\n _ ENDCOMMENT _\nENDCOMMENT\n"),
    ],
)  # fmt: skip
def test_text_in_any_encoding_becomes_what_neurons_compiler_takes(tmp_path, content, read):
    (tmp_path / "odd.mod").write_bytes(content)
    assert read_nmodl(tmp_path / "odd.mod") == read


def test_a_file_without_a_suffix_is_called_as_the_file():
    assert parse_mechanism("NEURON { RANGE g }\nPARAMETER { g = 1 }", "kv").name == "kv"
    assert parse_mechanism("FUNCTION f(x) { f = x }", "kv") is None


def test_included_files_are_gathered_from_wherever_they_are_included(tmp_path):
    (tmp_path / "sub").mkdir()
    files = {
        "kv.mod": 'INCLUDE "sub/a.inc"\n: INCLUDE "gone.inc"\nVERBATIM\n#include "c.h"\n#include "nrnran123.h"\n'
        'INCLUDE "gone"\nENDVERBATIM\n',
        "sub/a.inc": 'NEURON { SUFFIX Kv RANGE g }\nINCLUDE "b.inc"\n',
        "b.inc": "PARAMETER { g = 2 }\n",
        "c.h": '#include "d.h"\n',
        "d.h": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert read_mechanism(tmp_path / "kv.mod").parameters == {"g": 2.0}
    own = UserMechanisms.read(tmp_path)
    assert own.included == {name: files[name] for name in ("sub/a.inc", "b.inc", "c.h", "d.h")}
    assert own.known["Kv"].parameters == {"g": 2.0}
    assert own.only(["Kv"]) == own
    assert own.only([]).included == {}
    own.copy(["Kv"], tmp_path / "copied")
    copied = {str(path.relative_to(tmp_path / "copied")) for path in (tmp_path / "copied").rglob("*.*")}
    assert copied == {"Kv.mod", "sub/a.inc", "b.inc", "c.h", "d.h"}
    assert {path.name for path in nmodl_files(tmp_path)} == {"kv.mod", "a.inc", "b.inc", "c.h", "d.h"}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ('INCLUDE "gone.inc"', 'INCLUDE "gone.inc": no such file beside the mod file'),
        ('INCLUDE "../other/x.inc"', 'INCLUDE "../other/x.inc" is outside the folder'),
        ('INCLUDE "/etc/passwd"', "is outside the folder"),
        ('INCLUDE "again.inc"', "is within that file itself"),
    ],
)
def test_what_cannot_be_included_is_said_of_a_mechanism_that_is_named(tmp_path, statement, said):
    (tmp_path / "kv.mod").write_text(f"NEURON {{ SUFFIX Kv }}\n{statement}\n")
    (tmp_path / "again.inc").write_text(statement)
    assert said in UserMechanisms.read(tmp_path).unfit["Kv"]
    with pytest.raises(InputError, match=said):
        compile_mechanisms([tmp_path / "kv.mod"])


def test_mechanisms_that_no_recipe_can_name_are_known_with_the_reason(tmp_path):
    texts = {
        "hh": "SUFFIX hh",
        "syn": "POINT_PROCESS Syn",
        "net": "ARTIFICIAL_CELL Net",
        "fine": "SUFFIX Fine",
    }
    for name, declared in texts.items():
        (tmp_path / f"{name}.mod").write_text(f"NEURON {{ {declared} }}")
    (tmp_path / "._fine.mod").write_bytes(b"\0\5\x16\7 left by a Mac")
    (tmp_path / "kv.mod").write_text(CHANNEL)
    own = UserMechanisms.read(tmp_path)
    assert own.sources.keys() == {"Fine"}
    assert "declares the SUFFIX hh, which is built into NEURON" in own.unfit["hh"]
    assert "is declared as POINT_PROCESS (syn.mod)" in own.unfit["Syn"]
    assert "is declared as ARTIFICIAL_CELL (net.mod)" in own.unfit["Net"]
    assert "(kv.mod) needs the POINTER used" in own.unfit["kv"]


def test_a_folder_gives_its_density_mechanisms_and_travels(tmp_path):
    (tmp_path / "first.mod").write_text(LEAK.format(name="MyLeak"))
    (tmp_path / "Ih.mod").write_bytes(b": \xb5S of old\r\n" + LEAK.format(name="Ih").encode())
    for name, text in (("syn", POINT_PROCESS), ("misc", FUNCTIONS), ("more", FUNCTIONS)):
        (tmp_path / f"{name}.mod").write_text(text)
    own = pickle.loads(pickle.dumps(UserMechanisms.read(tmp_path)))
    assert list(own.sources) == ["Ih", "MyLeak"]
    assert own.sources["Ih"].startswith(": uS of old\n")  # NEURON's compiler takes no other characters
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("exp", "mechanism exp: its SUFFIX is a name that is built into NEURON"),
        ("vh_kv", "mechanism kv: NEURON takes the name vh once, and it is declared twice"),
        ("other", "mechanism exp, kv: NEURON takes the name other once"),
    ],
)
def test_a_name_that_neuron_has_already_is_told(name, said):
    assert not_loaded(f"hoc_execerror: The user defined name already exists: {name}", ["exp", "kv"]).startswith(said)


@pytest.mark.parametrize(
    ("statement", "said"),
    [("abort();", "crashes NEURON .*signal 6"), ("while (1) { sleep(1); }", "does not come to an end")],
)
def test_a_mechanism_that_stops_neuron_is_named_before_anything_is_run(monkeypatch, statement, said):
    monkeypatch.setattr(nmodl_compilation, "TRY_LIMIT_S", 10.0)
    fine = LEAK.format(name="Fine")
    stops = fine.replace("Fine", "Stops").replace(
        "BREAKPOINT {", f"BREAKPOINT {{\nVERBATIM\n{statement}\nENDVERBATIM\n"
    )
    stops = f"VERBATIM\n#include <unistd.h>\nENDVERBATIM\n{stops}"
    own = UserMechanisms({"Fine": fine, "Stops": stops}, files={"Stops": "my.mod"})
    with pytest.raises(InputError, match=rf"mechanism Stops \(my.mod\) {said}"):
        own.compile()


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


RATES = "PROCEDURE rates(v) { ninf = 1/(1 + exp((v + 80)/7)) ntau = 5 }\n"
H_CURRENT = """
NEURON { SUFFIX %s RANGE gbar %s }
PARAMETER { gbar = 1e-3 ehcn = -45 ek ki }
ASSIGNED { v i ihcn ik ninf ntau }
STATE { n }
INITIAL { rates(v) n = ninf }
BREAKPOINT { SOLVE states METHOD cnexp %s }
DERIVATIVE states { rates(v) n' = (ninf - n)/ntau }
INCLUDE "rates.inc"
"""
BY_ION = H_CURRENT % ("ByIon", "USEION hcn READ ehcn WRITE ihcn VALENCE 1", "ihcn = gbar*n*(v - ehcn)")
PLAIN = H_CURRENT % ("Plain", "NONSPECIFIC_CURRENT i", "i = gbar*n*(v - ehcn)")
INSIDE = H_CURRENT % ("Inside", "USEION k READ ek, ki WRITE ik", "ik = gbar*n*(v - ek)*ki/54.4")


def test_the_reversal_potential_of_any_ion_and_what_is_included():
    own = UserMechanisms({"ByIon": BY_ION, "Plain": PLAIN, "Inside": INSIDE}, {"rates.inc": RATES})
    h_current = Conditions(other_reversals_mV={"hcn": -45.0})
    made = {
        name: made_up_cell({"all": ("pas",), "soma": (name,)}, {"g_pas.all": 5e-5, f"gbar_{name}.soma": 1e-3}, own=own)
        for name in own.sources
    }
    models = [replace(made["ByIon"], conditions=h_current), made["Plain"], made["ByIon"], made["Inside"]]
    by_ion, plain, without, inside = in_fresh_process(voltages, models)
    assert np.ptp(plain) > 5.0
    np.testing.assert_allclose(by_ion, plain, atol=1e-6)
    assert (without.max(axis=1) > plain.max(axis=1) + 5.0).all()  # NEURON's own 0 mV
    np.testing.assert_allclose(*inside, atol=1e-6)  # of ek -107 mV, and NEURON's -81.6 mV of its concentrations
    given = ["g_pas.all", "gbar_ByIon.soma"]
    assert not reversal_notes(models[0].mechanisms, given, h_current, own.known)
    (missing,) = reversal_notes(models[2].mechanisms, given, Conditions(), own.known)
    assert missing.startswith(
        "ByIon (in soma) reads ehcn, which nobody gives: NEURON's own 0 mV counts. Give it as `ehcn"
    )
    assert "the -45 mV in the PARAMETER block of ByIon has no effect" in missing
    (in_vain,) = reversal_notes(models[3].mechanisms, given, Conditions(), own.known)
    assert in_vain.startswith("the given ek has no effect in soma: Inside uses the concentrations of k")
