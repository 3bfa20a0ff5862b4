"""Mechanisms become arithmetic; what cannot is refused by name."""

import math

import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.mechanisms.catalogue import MOD_FOLDER, read_mechanism
from neurofleet.neurosim.vector.membrane import make_density
from neurofleet.neurosim.vector.nmodl_syntax import BUILT_IN, PLAIN_SOURCES, Unsupported, read_syntax

LEAK = """
NEURON { SUFFIX odd NONSPECIFIC_CURRENT i RANGE g }
PARAMETER { g = 0.001 }
ASSIGNED { v i last }
STATE { n }
INITIAL { n = 0 last = 0 }
BREAKPOINT { SOLVE states METHOD cnexp i = g*n*v }
DERIVATIVE states { %s }
"""
SCHEME = """
NEURON { SUFFIX odd NONSPECIFIC_CURRENT i RANGE g }
PARAMETER { g = 0.001 }
ASSIGNED { v i }
STATE { c o x }
INITIAL { %s }
BREAKPOINT { SOLVE states METHOD sparse i = g*o*v }
KINETIC states { %s }
"""
STEADY = "SOLVE states STEADYSTATE sparse"


@pytest.fixture
def density(tmp_path):
    """Make a mechanism from its text."""

    def make(text):
        path = tmp_path / "odd.mod"
        path.write_text(text)
        return make_density(read_syntax(["odd"], [path])["odd"], 34.0, -80.0)

    return make


def test_every_mechanism_of_the_project_and_of_neuron_is_read():
    names = sorted([*(path.stem for path in MOD_FOLDER.glob("*.mod")), *BUILT_IN])
    read = read_syntax(names)
    assert {make_density(read[name], 34.0, -80.0).name for name in read} == {*names}


def test_a_plain_source_is_of_the_same_mechanism_as_the_one_for_neuron():
    assert [path.stem for path in PLAIN_SOURCES] == ["NaV"]
    for path in PLAIN_SOURCES:
        assert read_mechanism(path) == read_mechanism(MOD_FOLDER / path.name)


def test_a_users_file_comes_before_ours(tmp_path):
    (tmp_path / "NaV.mod").write_text(PLAIN_SOURCES[0].read_text().replace("gbar = 0.015", "gbar = 0.5"))
    assert read_syntax(["NaV"])["NaV"].parameters["gbar"] == 0.015
    assert read_syntax(["NaV"], [tmp_path / "NaV.mod"])["NaV"].parameters["gbar"] == 0.5


def test_the_temperature_becomes_a_number():
    density = make_density(read_syntax(["Im"])["Im"], 34.0, -80.0)
    graph = density.graph
    at = {"v": -40.0, "s:m": 0.2, "dt": 0.1, "p:gbar": 1.0, "e:k": -107.0}
    step = density.step["s:m"]
    assert graph.inputs([step]) == {"v", "s:m", "dt"}
    share = next(graph.terms[n][1] for n in graph.order([step]) if graph.terms[n][0] == "expm1")
    found = graph.value(graph.replace(share, {name: graph.const(value) for name, value in at.items()}))
    rates = 0.0033 * (math.exp(0.1 * -5.0) + math.exp(0.1 * 5.0))
    assert found == pytest.approx(-0.1 * rates * 2.3**1.3, rel=1e-12)


@pytest.mark.parametrize(
    ("equation", "said"),
    [
        ("n' = 1 - n*n", "the equation of n, which is not linear"),
        ("n' = -sqrt(n)", "the equation of n, which hands n to a function"),
        ("VERBATIM\n ; \nENDVERBATIM\n n' = -n", "VERBATIM text"),
        ("n' = -n*t", "the variable t"),
        ("n' = -n*diam", "the variable diam"),
        ("n' = -n*i", "i, which BREAKPOINT writes after it was read"),
        ("if (v > 0) { n' = -n }", "an equation .* within IF"),
        ("last' = -n", "the equation of last, .* STATE"),
        ("LOCAL k k = 0 while (k < 3) { k = k + 1 } n' = -n", "WHILE loops"),
        ("FROM k = 0 TO 3 { last = k } n' = -n", "FROM loops"),
        ("at_time(3) n' = -n", "the function at_time"),
        ("n' = -n*unknown(v)", "the function unknown"),
        ("n' = -n*1e999", "the number 1e999"),
    ],
)
def test_an_equation_that_is_not_supported(density, equation, said):
    with pytest.raises(Unsupported, match=f"mechanism odd: .*{said}"):
        density(LEAK % equation)


@pytest.mark.parametrize(
    ("equation", "said"),
    [
        ("n' = 1 - n*n", "the equation of n, which is not linear"),
        ("LOCAL r if (n > v) { r = 2 } else { r = 1 } n' = r - n", "the equation of n, which is not linear"),
        ("n' = -fabs(n)", "the equation of n .*'fabs'"),
        ("n' = -n*dt", "the variable dt"),
    ],
)
def test_an_equation_that_an_implicit_step_does_not_do(density, equation, said):
    with pytest.raises(Unsupported, match=f"mechanism odd: .*{said}"):
        density((LEAK % equation).replace("cnexp", "derivimplicit"))


def test_a_hint_of_a_conductance_is_all_that_neuron_looks_at(density):
    text = (LEAK % "n' = -n").replace("BREAKPOINT {", "BREAKPOINT { CONDUCTANCE last last = g*n")
    text = text.replace("CURRENT i", "CURRENT i, j").replace("i = g*n*v", "i = last*v j = v*v")
    found = density(text)
    assert found.graph.inputs([found.conductance]) == {"p:g", "s:n"}


def test_a_current_that_has_no_slope_needs_a_hint(density):
    text = (LEAK % "n' = -n").replace("i = g*n*v", "i = g*n*fabs(v)")
    with pytest.raises(Unsupported, match="the current i without a CONDUCTANCE statement"):
        density(text)


def test_constants_are_numbers(density):
    text = "DEFINE seven 7\n" + LEAK % "n' = -n" + "CONSTANT { eight = -8 }\nUNITS { F = (faraday) (coulomb) }"
    found = density(text.replace("i = g*n*v", "i = v*seven*eight*F/2 (mV)"))
    assert found.graph.value(found.conductance) == pytest.approx(-28 * 96485.33212331)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("NET_RECEIVE(w) { n = 1 }", "NET_RECEIVE blocks"),
        ("FUNCTION_TABLE f(v)", "FUNCTION_TABLE blocks"),
        ("NONLINEAR l { ~ n*n = 1 }", "NONLINEAR blocks"),
        ("VERBATIM\n#include <stdlib.h>\nENDVERBATIM", "VERBATIM blocks"),
        ("BEFORE STEP { n = 1 }", "BEFORE blocks"),
        ("UNITS { x = (furlong) (meter) }", "the unit factor x"),
    ],
)
def test_a_block_that_is_not_supported(density, added, said):
    with pytest.raises(Unsupported, match=f"mechanism odd: .*{said}"):
        density(LEAK % "n' = -n" + added)


@pytest.mark.parametrize("word", ["POINTER x", "RANDOM x", "ELECTRODE_CURRENT x", "BBCOREPOINTER x"])
def test_a_declaration_that_is_not_supported(density, word):
    with pytest.raises(Unsupported, match=f"mechanism odd: .*{word.split()[0]} in the NEURON block"):
        density((LEAK % "n' = -n").replace("RANGE", f"{word} RANGE"))


@pytest.mark.parametrize(
    ("solve", "said"),
    [
        ("SOLVE states METHOD runge", "SOLVE states with METHOD runge"),
        ("SOLVE states METHOD sparse", "SOLVE states with METHOD sparse"),
        ("SOLVE states", "SOLVE states with no METHOD"),
        ("SOLVE nothing METHOD cnexp", "SOLVE nothing"),
        ("if (v > 0) { SOLVE states METHOD cnexp }", "SOLVE elsewhere than in BREAKPOINT, or within IF"),
        ("SOLVE states STEADYSTATE sparse", "STEADYSTATE elsewhere than in INITIAL"),
        ("SOLVE states METHOD cnexp SOLVE others", "different METHODs"),
    ],
)
def test_a_way_to_solve_that_is_not_supported(density, solve, said):
    text = (LEAK % "n' = -n").replace("SOLVE states METHOD cnexp", solve) + "PROCEDURE others() { n = 1 }"
    with pytest.raises(Unsupported, match=f"mechanism odd: .*{said}"):
        density(text)


@pytest.mark.parametrize(
    ("initial", "reactions", "said"),
    [
        ("", "~ 2 c <-> o (1, 2)", "more than one of a state"),
        ("", "~ c + x <-> o (1, 2)", "the reaction of c with x, which is not linear"),
        ("", "~ c <-> o (o, 2)", "a reaction whose rate depends on states"),
        ("", "if (v > 0) { ~ c <-> o (1, 2) }", "a reaction .* within IF"),
        ("", "~ c <-> o (1, 2)\n~ o -> (3)\nCONSERVE c + o = 1", "that its reactions do not keep"),
        ("", "~ c <-> o (1, 2)\n~ o <-> x (3, 1)\nCONSERVE c + o = 1", "that its reactions do not keep"),
        ("", "COMPARTMENT v { c o }\n~ c <-> o (1, 2)", "COMPARTMENT"),
        (STEADY, "~ c <-> o (1, 2)", "SOLVE states STEADYSTATE without a CONSERVE"),
        ("SOLVE states METHOD sparse", "~ c <-> o (1, 2)", "SOLVE elsewhere than in BREAKPOINT"),
        ("", "~ c[0] <-> o (1, 2)", "the array c"),
    ],
)
def test_a_scheme_that_is_not_supported(density, initial, reactions, said):
    with pytest.raises(Unsupported, match=f"mechanism odd: .*{said}"):
        density(SCHEME % (initial, reactions))


def test_a_scheme_is_read(density):
    reactions = "~ c <-> o (0.5*v, 1)\n ~ o <-> x (2, v)\n CONSERVE c + x + o = 1"
    found = density(SCHEME % (f"{STEADY} : and SOLVE in a comment\n", reactions))
    assert found.stored == ("c", "o", "x")
    assert found.graph.inputs(found.step.values()) == {"v", "dt", "second", "s:c", "s:o", "s:x"}
    assert found.graph.inputs(found.initial.values()) == {"v"}


def start(density, equations, initial="x = 7 SOLVE start"):
    return density(SCHEME % (initial, "~ c <-> o (1, 2)") + f"LINEAR start {{ {equations} }}")


def test_linear_equations_are_solved_where_a_simulation_starts(density):
    found = start(density, "LOCAL a a = v/8 \n ~ c + o = 3 \n ~ c*a = 2*o - 12 + fabs(v)")
    graph = found.graph
    values = {name: graph.value(node) for name, node in found.initial.items()}
    # -10 c = 2 o + 68, c = 3 - o; x is as it was
    assert values == {"s:c": pytest.approx(-74 / 8), "s:o": pytest.approx(3 + 74 / 8), "s:x": 7.0}


@pytest.mark.parametrize(
    ("equations", "said"),
    [
        ("~ c + o = 3", "do not determine its states"),
        ("~ c + o = 3 \n ~ 2*c + 2*o = 6", "do not determine its states"),
        ("~ c*o = 3 \n ~ c = 1", "the equation of start, which is not linear"),
        ("~ c*g + o = 3 \n ~ c = 1", "start, whose equations depend on more than the voltage"),
        ("if (v > 0) { ~ c = 1 }", "an equation .*or within IF"),
    ],
)
def test_linear_equations_that_are_not_supported(density, equations, said):
    with pytest.raises(Unsupported, match=f"mechanism odd: .*{said}"):
        start(density, equations)


def test_only_a_remembered_condition_is_dropped(density):
    kept = "LOCAL a if (v != last) { last = v a = 2 } n' = -n*a"
    assert "select" not in operations(density(LEAK % kept))
    true = "LOCAL a a = 1 if (v != -70) { a = 2 } n' = -n*a"
    assert "select" in operations(density(LEAK % true))


def operations(density):
    return {density.graph.terms[n][0] for n in density.graph.order(density.step.values())}


def test_what_initial_writes_over_is_no_parameter_any_more(density):
    text = (LEAK % "n' = -n*last").replace("last = 0", "g = g + 1")
    found = density(text)
    graph = found.graph
    assert graph.inputs([found.current]) == {"s:g", "s:n", "v"}
    assert graph.inputs([found.initial["s:g"]]) == {"p:g"}


def test_procedures_that_call_each_other_are_refused(density):
    text = LEAK % "n' = -n*f(v)" + "FUNCTION f(x) { f = h(x) }\nFUNCTION h(x) { h = f(x) }"
    with pytest.raises(Unsupported, match="which calls itself"):
        density(text)


def test_mechanisms_that_are_not_there_or_not_densities_are_named(density, tmp_path):
    with pytest.raises(Unsupported, match="no NMODL source of elsewhere"):
        read_syntax(["elsewhere"])
    with pytest.raises(InputError, match="odd.mod: expected a NEURON block with a SUFFIX"):
        density((LEAK % "n' = -n").replace("SUFFIX", "POINT_PROCESS"))


def test_a_file_that_is_no_nmodl_is_named(density, tmp_path):
    with pytest.raises(Unsupported, match="odd.mod: (?s:.*)could not read this one(?s:.*)syntax error"):
        density(LEAK % "n' = = n")
    with pytest.raises(InputError, match="nowhere.mod"):
        read_syntax(["odd"], [tmp_path / "nowhere.mod"])
