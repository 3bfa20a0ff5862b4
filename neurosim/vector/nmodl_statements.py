"""Carry out statements of NMODL symbolically: on nodes of a graph instead of numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from neurofleet.neurosim.vector.arithmetic_graph import COMPARISONS, FUNCTIONS, Graph, Node
from neurofleet.neurosim.vector.nmodl_syntax import Syntax, SyntaxTree, kind, parts, text

_WITHOUT_MEANING = {
    "LocalListStatement",
    "LineComment",
    "BlockComment",
    "UnitState",
    "ConductanceHint",
    "TableStatement",  # what it would interpolate is evaluated
    "MutexLock",
    "MutexUnlock",
    "name",
}
_WORDS = {
    "Verbatim": "VERBATIM text",
    "WhileStatement": "WHILE loops",
    "FromStatement": "FROM loops",
    "ReactionStatement": "a reaction outside of a KINETIC block that BREAKPOINT solves, or within IF,",
    "Conserve": "CONSERVE outside of a KINETIC block, or within IF,",
    "LinEquation": "an equation outside of a LINEAR block that INITIAL solves, or within IF,",
    "DiffEqExpression": "an equation outside of a DERIVATIVE block that BREAKPOINT solves, or within IF,",
    "SolveBlock": "SOLVE elsewhere than in BREAKPOINT, or within IF,",
    "SteadyBlock": "SOLVE with STEADYSTATE elsewhere than in INITIAL, or within IF,",
    "Compartment": "COMPARTMENT",
    "LonDiffuse": "LONGITUDINAL_DIFFUSION",
}
_ARITHMETIC = ("+", "-", "*", "/", "pow")


class Equations(Protocol):
    """Handles the statements of a DERIVATIVE, KINETIC or LINEAR block that are not assignments."""

    def take(self, run: "SymbolicRun", what: str, inner: list[SyntaxTree]) -> bool:
        """Handle a statement; return False if it is of another kind."""


def ion_input(syntax: Syntax, name: str) -> str | None:
    """Return the input that a variable of an ion stands for, None for any other variable."""
    for ion, (read, written) in syntax.ions.items():
        if name in (*read, *written):
            known = {f"e{ion}": "e", f"{ion}i": "ci", f"{ion}o": "co", f"i{ion}": "i"}
            if name not in known:
                raise syntax.unsupported(f"the ion variable {name}")
            return f"{known[name]}:{ion}"
    return None


@dataclass
class SymbolicRun:
    """Carries out blocks of a mechanism one after the other, and holds the variables that they wrote.

    Attributes
    ----------
    syntax : Syntax
    graph : Graph
    celsius : float
    values : dict
        Variables that statements wrote -> their value.
    constants : mapping
        Variables with a value that no block but INITIAL writes.
    at_start : bool
        Whether variables without a value are 0, as when a simulation starts.
    """

    syntax: Syntax
    graph: Graph
    celsius: float
    values: dict[str, Node] = field(default_factory=dict)
    constants: Mapping[str, Node] = field(default_factory=dict)
    at_start: bool = False
    _frame: dict[str, Node] = field(default_factory=dict)
    _local: frozenset[str] = frozenset()
    _equations: Equations | None = None
    _calls: tuple[str, ...] = ()
    _choices: int = 0

    def read(self, name: str) -> Node:
        """Return the value of a variable."""
        if name in self._local:
            return self._frame[name] if name in self._frame else self.graph.const(0.0)
        return self.values[name] if name in self.values else self.given(name)

    def given(self, name: str) -> Node:
        """Return the value that a variable has before any statement."""
        syntax = self.syntax
        if name == "celsius":
            return self.graph.const(self.celsius)
        if name in ("v", "t", "dt", "diam", "area"):
            return self.graph.input(name)
        ion = ion_input(syntax, name)
        if ion is not None:
            return self.graph.input(ion)
        if name in syntax.constants:
            return self.graph.const(syntax.constants[name])
        if name in syntax.parameters and name not in syntax.assigned:
            return self.parameter(name)
        if name in self.constants:
            return self.constants[name]
        return self.graph.const(0.0) if self.at_start else self.graph.input(f"s:{name}")

    def parameter(self, name: str) -> Node:
        """Return what a PARAMETER is set to: RANGE parameters differ from compartment to compartment."""
        if name in self.syntax.ranges:
            return self.graph.input(f"p:{name}")
        return self.graph.const(self.syntax.parameters[name])

    def write(self, name: str, node: Node) -> None:
        """Give a variable a value."""
        (self._frame if name in self._local else self.values)[name] = node

    def carry_out(self, block: list[SyntaxTree], equations: Equations | None = None) -> None:
        """Carry out a block with variables of its own."""
        self._local, self._frame, self._equations = frozenset(_locals(block)), {}, equations
        self.statements(block)

    def statements(self, block: list[SyntaxTree]) -> None:
        for statement in block:
            self.statement(statement)

    def statement(self, statement: SyntaxTree) -> None:
        what, inner = kind(statement), parts(statement)
        if what == "ExpressionStatement":
            self.effect(inner[0])
        elif what == "StatementBlock":
            self.statements(inner)
        elif what == "ProtectStatement":
            self.effect(inner[0])
        elif what == "IfStatement":
            self.branch(inner)
        elif what not in _WITHOUT_MEANING:
            self._special(what, inner)

    def effect(self, expression: SyntaxTree) -> None:
        what, inner = kind(expression), parts(expression)
        if what == "WrappedExpression":
            self.effect(inner[0])
        elif what == "BinaryExpression" and text(inner[1]) == "=":
            if kind(inner[0]) != "VarName" or kind(parts(inner[0])[0]) != "Name":
                raise self.syntax.unsupported(f"the array {text(inner[0])}")
            self.write(text(inner[0]), self.value(inner[2]))
        elif what == "FunctionCall":
            self.call(expression)
        else:
            self._special(what, inner)

    def _special(self, what: str, inner: list[SyntaxTree]) -> None:
        equations = None if self._choices else self._equations
        if equations is None or not equations.take(self, what, inner):
            raise self.syntax.unsupported(_WORDS.get(what, f"the statement {what}"))

    def branch(self, inner: list[SyntaxTree]) -> None:
        condition, then, *others = inner
        if _remembers(condition, then, self.syntax) and not others:
            self.statement(then)
            return
        self._choices += 1
        chosen = self.value(condition)
        before = dict(self.values), dict(self._frame)
        self.statement(then)
        after = self.values, self._frame
        self.values, self._frame = dict(before[0]), dict(before[1])
        if others and kind(others[0]) == "ElseIfStatement":
            self.branch([*parts(others[0]), *others[1:]])
        elif others:
            self.statement(parts(others[0])[0])
        for name in after[0].keys() | self.values.keys():
            a, b = (v[name] if name in v else self.given(name) for v in (after[0], self.values))
            self.values[name] = self.graph.apply("select", chosen, a, b)
        for name, node in after[1].items():
            self._frame[name] = self.graph.apply("select", chosen, node, self._frame.get(name, node))
        self._choices -= 1

    def value(self, expression: SyntaxTree) -> Node:
        """Return the value of an expression."""
        what, inner = kind(expression), parts(expression)
        if what in ("WrappedExpression", "ParenExpression"):
            return self.value(inner[0])
        if what in ("Double", "Integer", "Float", "DoubleUnit"):
            return self.graph.const(self.syntax.number(expression))
        if what == "VarName" and len(inner) == 1 and kind(inner[0]) == "Name":
            return self.read(text(expression))
        if what == "Name":
            return self.read(text(expression))
        if what == "UnaryExpression":
            operator = {"-": "neg", "!": "!"}[text(inner[0])]
            return self.graph.apply(operator, self.value(inner[1]))
        if what == "BinaryExpression":
            operator = text(inner[1])
            operator = {"^": "pow"}.get(operator, operator)
            if operator in COMPARISONS or operator in _ARITHMETIC:
                return self.graph.apply(operator, self.value(inner[0]), self.value(inner[2]))
        if what == "FunctionCall":
            return self.call(expression)
        raise self.syntax.unsupported(f"the expression {what} {text(expression)}")

    def call(self, expression: SyntaxTree) -> Node:
        """Return what a function returns; procedures return 0."""
        name, *given = parts(expression)
        function, arguments = text(name), [self.value(a) for a in given]
        if function in self.syntax.procedures:
            return self.call_procedure(function, arguments)
        n_expected = 2 if function == "pow" else 1
        if len(arguments) == n_expected:
            if function in FUNCTIONS or function == "pow":
                return self.graph.apply(function, *arguments)
            if function == "abs":
                return self.graph.apply("fabs", *arguments)
            if function in ("sinh", "cosh", "tanh"):
                return self._hyperbolic(function, *arguments)
        raise self.syntax.unsupported(f"the function {function}")

    def call_procedure(self, function: str, arguments: list[Node]) -> Node:
        """Carry out a PROCEDURE or FUNCTION of the mechanism."""
        names, body = self.syntax.procedures[function]
        if function in self._calls or len(names) != len(arguments):
            raise self.syntax.unsupported(
                f"{function}, which calls itself"
                if function in self._calls
                else f"a call of {function} with {len(arguments)} arguments instead of {len(names)}"
            )
        outer = self._frame, self._local, self._calls
        self._frame = dict(zip(names, arguments, strict=True)) | {function: self.graph.const(0.0)}
        self._local = frozenset({*names, function, *_locals(body)})
        self._calls += (function,)
        self.statements(body)
        result = self._frame[function]
        self._frame, self._local, self._calls = outer
        return result

    def _hyperbolic(self, function: str, x: Node) -> Node:
        apply, two = self.graph.apply, self.graph.const(2.0)
        if function == "tanh":
            grown = apply("expm1", apply("*", x, two))
            return apply("/", grown, apply("+", grown, two))
        exponentials = apply("exp", x), apply("exp", apply("neg", x))
        return apply("/", apply("+" if function == "cosh" else "-", *exponentials), two)


def _locals(body: list[SyntaxTree]) -> set[str]:
    names = set()
    for statement in body:
        if kind(statement) == "LocalListStatement":
            names |= {text(p) for p in parts(statement)}
        elif kind(statement) in ("StatementBlock", "IfStatement", "ElseStatement", "ElseIfStatement"):
            names |= _locals(parts(statement))
    return names


def _remembers(condition: SyntaxTree, then: SyntaxTree, syntax: Syntax) -> bool:
    """Return whether an ``if (x != old_x) { old_x = x ... }`` only avoids repeated work, so may always be taken."""
    if kind(condition) != "BinaryExpression" or text(parts(condition)[1]) != "!=":
        return False
    sides = {text(parts(condition)[0]), text(parts(condition)[2])}
    first = parts(then)[0]
    if kind(first) != "ExpressionStatement" or kind(parts(first)[0]) != "BinaryExpression":
        return False
    target, operator, source = parts(parts(first)[0])
    return (
        text(operator) == "="
        and kind(source) == "VarName"
        and {text(target), text(source)} == sides
        and text(target) not in syntax.states
    )
