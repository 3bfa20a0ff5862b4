"""Schemes of states are stepped and settled as linear algebra says, in half the precision too."""

import numpy as np
import pytest

from neurofleet.neurosim.vector.arithmetic_graph import FUNCTIONS, Graph
from neurofleet.neurosim.vector.membrane import make_density
from neurofleet.neurosim.vector.nmodl_syntax import read_syntax
from neurofleet.neurosim.vector.state_equations import NotUnique, Scheme, kinetic_settle, kinetic_step

BINARY = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


def evaluated(graph, nodes, given, dtype=np.float64):
    """Return the values of nodes, calculated in a precision."""
    known = {}
    for node in graph.order(nodes):
        kind, *rest = graph.terms[node]
        if kind in ("const", "in"):
            known[node] = dtype(rest[0] if kind == "const" else given[rest[0]])
        elif kind == "neg":
            known[node] = -known[rest[0]]
        else:
            known[node] = {**BINARY, **FUNCTIONS}[kind](*(known[a] for a in rest))
    return np.array([known[node] for node in nodes])


def random_scheme(draw, graph, n):
    """Return a scheme, its matrix of rates (to, from) and the inputs of both; all states are connected."""
    states = tuple(f"s{k}" for k in range(n))
    scheme, matrix, given = Scheme(states), np.zeros((n, n)), {}
    ways = {(int(draw.integers(k)), k) for k in range(1, n)}
    ways |= {tuple(draw.integers(n, size=2)) for _ in range(n)}
    for a, b in ways:
        for start, end in ((a, b), (b, a)):
            if start != end:
                name = f"{start}{end}"
                given[name] = matrix[end, start] = np.exp(draw.uniform(-7, 7))
                scheme.rates[states[end], states[start]] = graph.input(name)
    np.fill_diagonal(matrix, -matrix.sum(axis=0))
    return scheme, matrix, given


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_a_step_is_backward_euler(n):
    draw = np.random.default_rng(n)
    for _ in range(20):
        graph, dt = Graph(), 0.05
        scheme, matrix, given = random_scheme(draw, graph, n)
        old = draw.uniform(size=n)
        given |= {"dt": dt, "lost": 0.3, "gained": 0.7, **dict(zip(scheme.states, old, strict=True))}
        scheme.losses[scheme.states[0]] = graph.input("lost")
        scheme.gains[scheme.states[-1]] = graph.input("gained")
        matrix[0, 0] -= 0.3
        source = np.eye(n)[-1] * 0.7
        new = kinetic_step(graph, scheme, {s: graph.input(s) for s in scheme.states}, graph.input("dt"))
        expected = np.linalg.solve(np.eye(n) - dt * matrix, old + dt * source)
        found = evaluated(graph, [new[s] for s in scheme.states], given)
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_what_is_conserved_is_put_right_by_the_first_step():
    graph = Graph()
    scheme, matrix, given = random_scheme(np.random.default_rng(3), graph, 4)
    scheme.totals.append((("s2", "s0", "s3", "s1"), graph.const(2.0)))
    new = kinetic_step(graph, scheme, {s: graph.const(0.25) for s in scheme.states}, graph.const(0.05))
    found = evaluated(graph, [new[s] for s in scheme.states], given)
    expected = np.linalg.solve(np.eye(4) - 0.05 * matrix, [0.25, 1.25, 0.25, 0.25])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.sum() == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_a_steady_state_has_no_net_flow(dtype, rtol):
    draw = np.random.default_rng(1)
    for n in (2, 4, 8, 8, 8):
        graph = Graph()
        scheme, matrix, given = random_scheme(draw, graph, n)
        scheme.totals.append((scheme.states, graph.const(1.0)))
        settled = kinetic_settle(graph, scheme)
        found = evaluated(graph, [settled[s] for s in scheme.states], given, dtype).astype(float)
        assert found.sum() == pytest.approx(1.0, rel=1e-6)
        through = np.where(matrix > 0, matrix, 0.0)
        np.testing.assert_allclose(through @ found, -np.diag(matrix) * found, rtol=rtol * n)


def test_a_steady_state_that_is_not_determined_is_refused():
    graph = Graph()
    one = graph.const(1.0)
    with pytest.raises(NotUnique, match="without a CONSERVE"):
        kinetic_settle(graph, Scheme(("a", "b"), {("a", "b"): graph.input("x"), ("b", "a"): graph.input("y")}))
    with pytest.raises(NotUnique, match="no rates connect"):
        kinetic_settle(graph, Scheme(("a", "b"), totals=[(("a", "b"), graph.const(1.0))]))
    drained = Scheme(("a",), losses={"a": one}, totals=[(("a",), one)])
    with pytest.raises(NotUnique, match="nowhere"):
        kinetic_settle(graph, drained)


@pytest.fixture(scope="module")
def sodium():
    return make_density(read_syntax(["NaV"])["NaV"], 34.0, -80.0)


def test_the_chain_of_twelve_states_is_cheap(sodium):
    graph = sodium.graph
    kinds = [graph.terms[node] for node in graph.order(sodium.step.values())]
    assert len({kind[2] for kind in kinds if kind[0] == "/"}) == 12
    assert sum(kind[0] not in ("const", "in") for kind in kinds) < 330
    assert sum(kind[0] == "exp" for kind in kinds) == 2


@pytest.mark.parametrize("second", [0.0, 1.0])
def test_the_chain_keeps_its_sum_in_half_the_precision(sodium, second):
    graph, names = sodium.graph, [f"s:{state}" for state in sodium.stored]
    at_start = {"v": -80.0}
    states = evaluated(graph, [sodium.initial[name] for name in names], at_start, np.float32)
    exact = evaluated(graph, [sodium.initial[name] for name in names], at_start)
    np.testing.assert_allclose(states, exact, rtol=2e-5)
    for k in range(300):
        given = {"v": -80.0 + 100.0 * np.sin(k / 10) ** 2, "dt": 0.05, "second": second}
        steps = [sodium.step[name] for name in names]
        states, exact = (
            evaluated(graph, steps, given | dict(zip(names, old, strict=True)), dtype)
            for old, dtype in ((states, np.float32), (exact, np.float64))
        )
    assert states.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(states, exact, rtol=1e-4, atol=1e-5)
