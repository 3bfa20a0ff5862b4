"""Mechanisms become arithmetic; what cannot is refused by name."""

import math

import pytest

from neurosim.mechanisms.catalogue import MOD_FOLDER
from neurosim.vector import syntax
from neurosim.vector.density import make_density
from neurosim.vector.syntax import Unsupported, read_syntax

LEAK = """
NEURON { SUFFIX odd NONSPECIFIC_CURRENT i RANGE g }
PARAMETER { g = 0.001 }
ASSIGNED { v i last }
STATE { n }
INITIAL { n = 0 last = 0 }
BREAKPOINT { SOLVE states METHOD cnexp i = g*n*v }
DERIVATIVE states { %s }
"""


def read_text(tmp_path, monkeypatch, text, name="odd"):
    (tmp_path / f"{name}.mod").write_text(text)
    monkeypatch.setattr(syntax, "OWN_SOURCES", (tmp_path / f"{name}.mod",))
    return make_density(read_syntax([name])[name], 34.0)


def test_every_mechanism_of_the_project_but_nav_is_read():
    names = sorted(path.stem for path in MOD_FOLDER.glob("*.mod") if path.stem != "NaV")
    read = read_syntax([*names, "pas"])
    assert {make_density(read[name], 34.0).name for name in read} == {*names, "pas"}


def test_the_temperature_becomes_a_number():
    density = make_density(read_syntax(["Im"])["Im"], 34.0)
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
        ("VERBATIM\n ; \nENDVERBATIM\n n' = -n", "odd: .* Verbatim"),
        ("n' = -sqrt(n)", "the equation of n .*'sqrt'"),
        ("n' = -n*t", "the variable t"),
    ],
)
def test_an_equation_that_is_not_supported(tmp_path, monkeypatch, equation, said):
    with pytest.raises(Unsupported, match=said):
        read_text(tmp_path, monkeypatch, LEAK % equation)


def test_only_a_remembered_condition_is_dropped(tmp_path, monkeypatch):
    kept = "if (v != last) { last = v n' = -n }"
    assert "select" not in operations(read_text(tmp_path, monkeypatch, LEAK % kept))
    true = "LOCAL a a = 1 if (v != -70) { a = 2 } n' = -n*a"
    assert "select" in operations(read_text(tmp_path, monkeypatch, LEAK % true))


def operations(density):
    return {density.graph.terms[n][0] for n in density.graph.order(density.step.values())}


def test_markov_schemes_and_point_processes_are_named(tmp_path, monkeypatch):
    kinetic = """
NEURON { SUFFIX odd NONSPECIFIC_CURRENT i RANGE g }
PARAMETER { g = 0.001 }
ASSIGNED { v i }
STATE { c o }
BREAKPOINT { SOLVE states METHOD sparse i = g*o*v }
KINETIC states { ~ c <-> o (1, 2) }
"""
    with pytest.raises(Unsupported, match="odd: .* KINETIC blocks"):
        read_text(tmp_path, monkeypatch, kinetic)
    point = LEAK.replace("SUFFIX", "POINT_PROCESS") % "n' = -n"
    with pytest.raises(Unsupported, match="odd: .* POINT_PROCESS"):
        read_text(tmp_path, monkeypatch, point)
    with pytest.raises(Unsupported, match="no NMODL source of elsewhere"):
        read_syntax(["elsewhere"])


def test_the_markov_sodium_channel_is_named():
    with pytest.raises(Unsupported, match="NaV: .* VERBATIM blocks"):
        read_syntax(["NaV"])
