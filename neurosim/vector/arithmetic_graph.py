"""Arithmetic as a graph: equal nodes are one node, constants are folded, derivatives are exact.

The rules of simplification change results by rounding only. They matter for speed: a division costs about ten
multiplications, an exponential more, and channels share many terms.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Node = int
Operation = Callable[..., Any]
FUNCTIONS: dict[str, Operation] = {
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "sqrt": np.sqrt,
    "fabs": np.abs,
}
COMPARISONS: dict[str, Operation] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "&&": np.logical_and,
    "||": np.logical_or,
}
_OPERATIONS: dict[str, Operation] = {
    **FUNCTIONS,
    **COMPARISONS,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "neg": operator.neg,
    "!": operator.not_,
    "pow": np.power,
    "expm1": np.expm1,
    "select": lambda condition, a, b: a if condition else b,
}


class NotDifferentiable(ValueError):
    """A derivative that is not supported."""


class Graph:
    """Expressions that share equal parts.

    Attributes
    ----------
    terms : list of tuple
        What each node (a number) stands for: ``("const", value)``, ``("in", name)`` or ``(operation, *nodes)``.
        A node comes after its arguments.
    """

    def __init__(self) -> None:
        self.terms: list[tuple[Any, ...]] = []
        self._known: dict[tuple[Any, ...], Node] = {}

    def _node(self, *term: Any) -> Node:
        if term not in self._known:
            self._known[term] = len(self.terms)
            self.terms.append(term)
        return self._known[term]

    def const(self, value: float) -> Node:
        return self._node("const", float(value))

    def input(self, name: str) -> Node:
        return self._node("in", name)

    def value(self, node: Node) -> float | None:
        """Return the number that a node stands for, None for anything else."""
        kind, *rest = self.terms[node]
        return rest[0] if kind == "const" else None

    def apply(self, operation: str, *arguments: Node) -> Node:
        """Return the node of an operation, simplified."""
        values = [value for argument in arguments if (value := self.value(argument)) is not None]
        if len(values) == len(arguments):
            return self.const(_calculate(operation, values))
        if operation in _RULES:
            return _RULES[operation](self, *arguments)
        return self._node(operation, *arguments)

    def inputs(self, nodes: Iterable[Node]) -> set[str]:
        """Return the names of all inputs that nodes depend on."""
        return {self.terms[n][1] for n in self.order(nodes) if self.terms[n][0] == "in"}

    def order(self, nodes: Iterable[Node], *, smooth: bool = False) -> list[Node]:
        """Return nodes and all they depend on; a node is made after its arguments, so by number.

        With `smooth` the conditions of `select` are left out: a derivative does not depend on them.
        """
        visited: set[Node] = set()
        left = list(nodes)
        while left:
            node = left.pop()
            if node not in visited:
                visited.add(node)
                kind, *rest = self.terms[node]
                if kind not in ("const", "in"):
                    left += _smooth_arguments(kind, rest) if smooth else rest
        return sorted(visited)

    def replace(self, node: Node, values: Mapping[str, Node]) -> Node:
        """Return a node with inputs replaced."""
        new: dict[Node, Node] = {}
        for n in self.order([node]):
            kind, *rest = self.terms[n]
            if kind == "in":
                new[n] = values.get(rest[0], n)
            else:
                new[n] = n if kind == "const" else self.apply(kind, *(new[a] for a in rest))
        return new[node]

    def derivative(self, node: Node, name: str) -> Node:
        """Return the derivative of a node with respect to an input.

        Raises
        ------
        NotDifferentiable
            An operation without a derivative here.
        """
        zero = self.const(0.0)
        slope: dict[Node, Node] = {}
        for n in self.order([node], smooth=True):
            kind, *rest = self.terms[n]
            if kind in ("const", "in"):
                slope[n] = self.const(float(kind == "in" and rest[0] == name))
            elif all(slope[a] == zero for a in _smooth_arguments(kind, rest)):
                slope[n] = zero
            else:
                slope[n] = self._slope(n, kind, rest, slope)
        return slope[node]

    def _slope(self, node: Node, kind: str, arguments: list[Node], slope: Mapping[Node, Node]) -> Node:
        d = [slope.get(a, a) for a in arguments]
        if kind in ("+", "-"):
            return self.apply(kind, *d)
        if kind == "neg":
            return self.apply("neg", d[0])
        a = arguments[0]
        if kind == "*":
            b = arguments[1]
            return self.apply("+", self.apply("*", d[0], b), self.apply("*", a, d[1]))
        if kind == "/":
            b = arguments[1]
            return self.apply("/", self.apply("-", d[0], self.apply("*", node, d[1])), b)
        if kind == "exp":
            return self.apply("*", node, d[0])
        if kind == "log":
            return self.apply("/", d[0], a)
        if kind == "expm1":
            return self.apply("*", self.apply("+", node, self.const(1.0)), d[0])
        if kind == "sqrt":
            return self.apply("/", d[0], self.apply("*", node, self.const(2.0)))
        if kind == "pow" and (power := self.value(arguments[1])) is not None:
            less = self.apply("pow", a, self.const(power - 1))
            return self.apply("*", self.apply("*", less, d[0]), self.const(power))
        if kind == "select":
            return self.apply("select", a, d[1], d[2])
        raise NotDifferentiable(f"the derivative of {kind!r} is not supported")


def _smooth_arguments(kind: str, arguments: list[Node]) -> list[Node]:
    if kind in COMPARISONS or kind == "!":
        return []
    return arguments[1:] if kind == "select" else arguments


def _calculate(operation: str, values: list[float]) -> float:
    """Calculate with numbers; NaN where undefined, as may happen in a branch that is never taken."""
    with np.errstate(all="ignore"):
        return float(_OPERATIONS[operation](*map(np.float64, values)))


def _add(graph: Graph, a: Node, b: Node) -> Node:
    if graph.value(a) == 0:
        return b
    if graph.value(b) == 0:
        return a
    if graph.terms[b][0] == "neg":
        return graph.apply("-", a, graph.terms[b][1])
    return graph._node("+", min(a, b), max(a, b))


def _subtract(graph: Graph, a: Node, b: Node) -> Node:
    if a == b:
        return graph.const(0.0)
    if graph.value(a) == 0:
        return graph.apply("neg", b)
    if graph.value(b) == 0:
        return a
    if graph.terms[b][0] == "neg":
        return graph.apply("+", a, graph.terms[b][1])
    return graph._node("-", a, b)


def _multiply(graph: Graph, a: Node, b: Node) -> Node:
    if graph.value(a) is not None:
        a, b = b, a  # a constant stands second
    factor = graph.value(b)
    if factor == 0:
        return b
    if factor == 1:
        return a
    if factor == -1:
        return graph.apply("neg", a)
    if factor is not None and graph.terms[a][0] == "neg":
        return graph.apply("*", graph.terms[a][1], graph.const(-factor))
    if factor is not None and graph.terms[a][0] == "*" and graph.value(graph.terms[a][2]) is not None:
        return graph.apply("*", graph.terms[a][1], graph.apply("*", graph.terms[a][2], b))
    return graph._node("*", a, b) if factor is not None else graph._node("*", min(a, b), max(a, b))


def _divide(graph: Graph, a: Node, b: Node) -> Node:
    divisor = graph.value(b)
    if divisor is not None and divisor != 0:
        return graph.apply("*", a, graph.const(1.0 / divisor))
    if graph.value(a) == 0:
        return a
    if a == b:
        return graph.const(1.0)
    over, under = graph.terms[a], graph.terms[b]
    if over[0] == under[0] == "/" and over[2] == under[2]:
        return graph.apply("/", over[1], under[1])
    if under[0] == "/":
        return graph.apply("/", graph.apply("*", a, under[2]), under[1])
    if under[0] == "neg":
        return graph.apply("/", graph.apply("neg", a), under[1])
    if over[0] == under[0] == "*" and None not in (graph.value(over[2]), graph.value(under[2])):
        ratio = graph.apply("/", over[1], under[1])  # of products with constants
        return graph.apply("*", ratio, graph.apply("/", over[2], under[2]))
    if over[0] == "*" and b in over[1:]:
        return over[1] if over[2] == b else over[2]
    if under[0] == "-" and graph.terms[under[2]][0] == "/":  # a / (c - p/q) = a q / (c q - p)
        p, q = graph.terms[under[2]][1:]
        below = graph.apply("-", graph.apply("*", under[1], q), p)
        return graph.apply("/", graph.apply("*", a, q), below)
    if under[0] == "+":  # a / (c + p/q) = a q / (c q + p)
        for c, ratio in ((under[1], under[2]), (under[2], under[1])):
            if graph.terms[ratio][0] == "/":
                p, q = graph.terms[ratio][1:]
                below = graph.apply("+", graph.apply("*", c, q), p)
                return graph.apply("/", graph.apply("*", a, q), below)
    return graph._node("/", a, b)


def _negate(graph: Graph, a: Node) -> Node:
    kind, *rest = graph.terms[a]
    if kind == "neg":
        return rest[0]
    if kind == "-":
        return graph.apply("-", rest[1], rest[0])
    if kind == "/" and graph.value(rest[0]) is not None:
        return graph.apply("/", graph.apply("neg", rest[0]), rest[1])
    if kind == "*" and graph.value(rest[1]) is not None:
        return graph.apply("*", rest[0], graph.apply("neg", rest[1]))
    return graph._node("neg", a)


def _power(graph: Graph, a: Node, b: Node) -> Node:
    exponent = graph.value(b)
    if exponent is not None and exponent in range(9):
        product = graph.const(1.0)
        for _ in range(int(exponent)):
            product = graph.apply("*", product, a)
        return product
    if exponent is not None and -exponent in range(1, 9):
        return graph.apply("/", graph.const(1.0), graph.apply("pow", a, graph.const(-exponent)))
    return graph._node("pow", a, b)


def _select(graph: Graph, condition: Node, a: Node, b: Node) -> Node:
    known = graph.value(condition)
    if known is not None:
        return a if known else b
    return a if a == b else graph._node("select", condition, a, b)


_RULES: dict[str, Callable[..., Node]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "neg": _negate,
    "pow": _power,
    "select": _select,
}
