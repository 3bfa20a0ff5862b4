"""Simplified arithmetic has the value of what was written; derivatives are those of the function."""

import math
import operator

import numpy as np
import pytest

from neurofleet.neurosim.vector.arithmetic_graph import Graph, NotDifferentiable


def evaluated(graph, node, given):
    """Evaluate by replacing all inputs with numbers."""
    return graph.value(graph.replace(node, {name: graph.const(value) for name, value in given.items()}))


def rate(graph):
    """Return x/(1 - exp(-x/k)) of x = v + 38, as sodium channels have it, with a guard at 0."""
    apply, v = graph.apply, graph.input("v")
    x = apply("+", v, graph.const(38.0))
    scaled = apply("/", apply("neg", x), graph.const(6.0))
    above = apply("/", x, apply("-", graph.const(1.0), apply("exp", scaled)))
    near = apply("<", apply("fabs", x), graph.const(6e-6))
    return apply("select", near, graph.const(6.0), above)


def test_a_rate_and_its_derivative():
    graph = Graph()
    node = rate(graph)
    slope = graph.derivative(node, "v")
    for v in (-80.0, -40.0, -38.5, 10.0):
        x = v + 38.0
        assert evaluated(graph, node, {"v": v}) == pytest.approx(x / (1 - math.exp(-x / 6)), rel=1e-12)
        around = [evaluated(graph, node, {"v": v + d}) for d in (-1e-5, 1e-5)]
        assert evaluated(graph, slope, {"v": v}) == pytest.approx((around[1] - around[0]) / 2e-5, rel=1e-6)
    assert evaluated(graph, node, {"v": -38.0}) == 6.0


def test_random_arithmetic_keeps_its_value():
    draw = np.random.default_rng(5)
    given = {"a": 0.7, "b": -1.3, "c": 2.1}
    plain = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    for _ in range(300):
        graph = Graph()
        known = [(graph.input(name), value) for name, value in given.items()]
        known += [(graph.const(value), value) for value in (0.0, 1.0, -1.0, 3.0)]
        for _ in range(12):
            operation = draw.choice([*plain, "neg"])
            (x, x_value), (y, y_value) = (known[i] for i in draw.integers(len(known), size=2))
            if operation == "neg":
                known.append((graph.apply("neg", x), -x_value))
            elif operation != "/" or abs(y_value) > 1e-3:
                known.append((graph.apply(operation, x, y), plain[operation](x_value, y_value)))
        node, expected = known[-1]
        assert evaluated(graph, node, given) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_gate_of_rates_alpha_and_beta_needs_no_division_for_its_speed():
    graph = Graph()
    a, b, m = (graph.input(name) for name in "abm")
    total = graph.apply("+", a, b)
    tau = graph.apply("/", graph.const(1.0), graph.apply("*", total, graph.const(2.95)))
    slope = graph.derivative(graph.apply("/", graph.apply("-", graph.apply("/", a, total), m), tau), "m")
    assert "/" not in {graph.terms[n][0] for n in graph.order([slope])}


def test_what_has_no_derivative_is_named():
    graph = Graph()
    size = graph.apply("fabs", graph.input("v"))
    with pytest.raises(NotDifferentiable, match="'fabs'"):
        graph.derivative(size, "v")


@pytest.mark.parametrize(
    ("operation", "power"),
    [("exp", None), ("expm1", None), ("log", None), ("sqrt", None), ("pow", 3), ("pow", -2), ("pow", 2.5)],
)
def test_derivatives_of_functions(operation, power):
    graph = Graph()
    inner = graph.apply("*", graph.input("v"), graph.const(0.5))
    node = graph.apply(operation, inner, *([] if power is None else [graph.const(power)]))
    slope = evaluated(graph, graph.derivative(node, "v"), {"v": 3.0})
    low, high = (evaluated(graph, node, {"v": 3.0 + d}) for d in (-1e-5, 1e-5))
    assert slope == pytest.approx((high - low) / 2e-5, rel=1e-8)
