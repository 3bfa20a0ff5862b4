"""A density mechanism as arithmetic: its initial state, its current and one step of its states."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from neurosim.vector.graph import COMPARISONS, FUNCTIONS, Graph, Node, NotDifferentiable
from neurosim.vector.syntax import Syntax, Tree, kind, parts, text

_WITHOUT_MEANING = {
    "LocalListStatement",
    "LineComment",
    "BlockComment",
    "UnitState",
    "ConductanceHint",
    "name",
}


@dataclass
class Density:
    """What a kernel is generated from; nodes belong to `graph`.

    Inputs of the graph are ``v``, ``dt``, ``p:`` and a parameter, ``s:`` and a state or stored variable, and
    ``e:``, ``ci:``, ``co:`` or ``i:`` and an ion (reversal potential, concentrations, current).

    Attributes
    ----------
    name : str
    graph : Graph
    stored : tuple of str
        Variables that an instance keeps: states, and what else is carried from one call to the next.
    initial, step : dict
        Input name of a stored variable or concentration -> its value after INITIAL, or one step later.
    current, conductance : Node
        Sum of the currents in mA/cm2, and its slope over the voltage.
    ion_currents : dict
        Ion -> (current, slope).
    """

    name: str
    graph: Graph
    stored: tuple[str, ...]
    initial: dict[str, Node]
    step: dict[str, Node]
    current: Node
    conductance: Node
    ion_currents: dict[str, tuple[Node, Node]]

    def inputs(self) -> set[str]:
        """Return the names of all inputs of all blocks."""
        nodes = [*self.initial.values(), *self.step.values(), self.current, self.conductance]
        return self.graph.inputs([*nodes, *(n for pair in self.ion_currents.values() for n in pair)])

    def writes_concentration(self) -> bool:
        """Tell whether it writes the concentration of an ion."""
        return any(name.startswith(("ci:", "co:")) for name in self.step)


def ion_input(syntax: Syntax, name: str) -> str | None:
    """Return the input that a variable of an ion stands for, None for any other variable."""
    for ion, (read, written) in syntax.ions.items():
        if name in (*read, *written):
            known = {f"e{ion}": "e", f"{ion}i": "ci", f"{ion}o": "co", f"i{ion}": "i"}
            if name not in known:
                raise syntax.refuse(f"the ion variable {name}")
            return f"{known[name]}:{ion}"
    return None


@dataclass
class _Run:
    """Statements carried out on nodes."""

    syntax: Syntax
    graph: Graph
    celsius: float
    values: dict[str, Node] = field(default_factory=dict)
    constants: Mapping[str, Node] = field(default_factory=dict)
    frame: dict[str, Node] = field(default_factory=dict)
    local: frozenset[str] = frozenset()

    def read(self, name: str) -> Node:
        if name in self.frame:
            return self.frame[name]
        return self.values[name] if name in self.values else self.given(name)

    def given(self, name: str) -> Node:
        """Return the value that a variable has before any statement."""
        syntax = self.syntax
        if name == "v":
            return self.graph.input("v")
        if name == "celsius":
            return self.graph.const(self.celsius)
        ion = ion_input(syntax, name)
        if ion is not None:
            return self.graph.input(ion)
        if name in syntax.constants:
            return self.graph.const(syntax.constants[name])
        if name in syntax.parameters:
            default = syntax.parameters[name]
            return self.graph.input(f"p:{name}") if name in syntax.ranges else self.graph.const(default)
        if name in ("t", "dt", "diam", "area"):
            raise syntax.refuse(f"the variable {name}")
        return self.constants[name] if name in self.constants else self.graph.input(f"s:{name}")

    def write(self, name: str, node: Node) -> None:
        (self.frame if name in self.local else self.values)[name] = node

    def statements(self, block: list[Tree]) -> None:
        for statement in block:
            self.statement(statement)

    def statement(self, statement: Tree) -> None:
        what, inner = kind(statement), parts(statement)
        if what == "ExpressionStatement":
            self.effect(inner[0])
        elif what == "StatementBlock":
            self.statements(inner)
        elif what == "IfStatement":
            self.branch(inner)
        elif what not in _WITHOUT_MEANING:
            raise self.syntax.refuse(f"the statement {what}")

    def effect(self, expression: Tree) -> None:
        what, inner = kind(expression), parts(expression)
        if what == "WrappedExpression":
            self.effect(inner[0])
        elif what == "BinaryExpression" and text(inner[1]) == "=":
            self.write(text(inner[0]), self.value(inner[2]))
        elif what == "DiffEqExpression":
            target, _, rate = parts(inner[0])
            self.advance(text(target), self.value(rate))
        elif what == "FunctionCall":
            self.call(expression)
        elif what != "SolveBlock":
            raise self.syntax.refuse(f"the statement {what}")

    def branch(self, inner: list[Tree]) -> None:
        condition, then, *others = inner
        if self._remembers(condition, then) and not others:
            self.statement(then)
            return
        chosen = self.value(condition)
        before = dict(self.values), dict(self.frame)
        self.statement(then)
        after = self.values, self.frame
        self.values, self.frame = dict(before[0]), dict(before[1])
        if others and kind(others[0]) == "ElseIfStatement":
            self.branch([*parts(others[0]), *others[1:]])
        elif others:
            self.statement(parts(others[0])[0])
        for name in after[0].keys() | self.values.keys():
            a, b = (v[name] if name in v else self.given(name) for v in (after[0], self.values))
            self.values[name] = self.graph.apply("select", chosen, a, b)
        for name, node in after[1].items():
            self.frame[name] = self.graph.apply("select", chosen, node, self.frame.get(name, node))

    def _remembers(self, condition: Tree, then: Tree) -> bool:
        """Tell whether ``if (x != kept) { kept = x ... }`` only saves repeated work."""
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
            and text(target) not in self.syntax.states
        )

    def value(self, expression: Tree) -> Node:
        what, inner = kind(expression), parts(expression)
        if what in ("WrappedExpression", "ParenExpression"):
            return self.value(inner[0])
        if what in ("Double", "Integer", "Float"):
            return self.graph.const(float(text(expression)))
        if what == "VarName" and len(inner) == 1 and kind(inner[0]) == "Name":
            return self.read(text(expression))
        if what == "UnaryExpression":
            operator = {"-": "neg", "!": "!"}[text(inner[0])]
            return self.graph.apply(operator, self.value(inner[1]))
        if what == "BinaryExpression":
            operator = text(inner[1])
            operator = {"^": "pow"}.get(operator, operator)
            if operator in COMPARISONS or operator in ("+", "-", "*", "/", "pow"):
                return self.graph.apply(operator, self.value(inner[0]), self.value(inner[2]))
        if what == "FunctionCall":
            return self.call(expression)
        raise self.syntax.refuse(f"the expression {what} {text(expression)}")

    def call(self, expression: Tree) -> Node:
        name, *given = parts(expression)
        function, arguments = text(name), [self.value(a) for a in given]
        if function in self.syntax.procedures:
            names, body = self.syntax.procedures[function]
            outer = self.frame, self.local
            self.frame = dict(zip(names, arguments, strict=True)) | {function: self.graph.const(0.0)}
            self.local = frozenset({*names, function, *_locals(body)})
            self.statements(body)
            result = self.frame[function]
            self.frame, self.local = outer
            return result
        if function in FUNCTIONS or function == "pow":
            return self.graph.apply({"abs": "fabs"}.get(function, function), *arguments)
        raise self.syntax.refuse(f"the function {function}")

    def advance(self, name: str, rate: Node) -> None:
        """Step a state whose rate is linear in it, as NEURON's ``cnexp`` does."""
        graph, own = self.graph, self.given(name)
        own_name = graph.terms[own][1]
        try:
            slope = graph.derivative(rate, own_name)
        except NotDifferentiable as error:
            raise self.syntax.refuse(f"the equation of {name} ({error})") from error
        if own_name in graph.inputs([slope]):
            raise self.syntax.refuse(f"the equation of {name}, which is not linear in it")
        rest = graph.replace(rate, {own_name: graph.const(0.0)})
        dt = graph.input("dt")
        if graph.value(slope) == 0:
            self.write(name, graph.apply("+", own, graph.apply("*", dt, rest)))
            return
        settled = graph.apply("/", rest, graph.apply("neg", slope))
        share = graph.apply("expm1", graph.apply("*", dt, slope))
        way = graph.apply("*", share, graph.apply("-", own, settled))
        self.write(name, graph.apply("+", own, way))


def _locals(body: list[Tree]) -> set[str]:
    found = set()
    for statement in body:
        if kind(statement) == "LocalListStatement":
            found |= {text(p) for p in parts(statement)}
        elif kind(statement) in ("StatementBlock", "IfStatement", "ElseStatement", "ElseIfStatement"):
            found |= _locals(parts(statement))
    return found


def make_density(syntax: Syntax, celsius: float) -> Density:
    """Turn a mechanism into arithmetic at a temperature in degrees Celsius.

    Raises
    ------
    Unsupported
        Something in it that no kernel is made of; the mechanism is named.
    """
    graph = Graph()
    start = _Run(syntax, graph, celsius)
    _carry_out(start, syntax.blocks.get("INITIAL", []))
    changing = {*syntax.states, *_solve_and_draw(syntax, graph, celsius, {})[2]}
    fixed = {
        name: node
        for name, node in start.values.items()
        if graph.value(node) is not None and name not in changing
    }
    solved, drawn, _ = _solve_and_draw(syntax, graph, celsius, fixed)

    ions: dict[str, tuple[Node, Node]] = {}
    total = slope = graph.const(0.0)
    currents = {f"i{ion}": ion for ion, (_, written) in syntax.ions.items() if f"i{ion}" in written}
    for name in (*currents, *syntax.nonspecific):
        ion = currents.get(name, "")
        current = drawn.read(name)
        hint = syntax.conductances.get(ion)
        try:
            over_v = drawn.read(hint) if hint is not None else graph.derivative(current, "v")
        except NotDifferentiable as error:
            raise syntax.refuse(f"the current {name} without a CONDUCTANCE statement ({error})") from error
        total, slope = graph.apply("+", total, current), graph.apply("+", slope, over_v)
        if ion:
            ions[ion] = (current, over_v)

    roots = [*solved.values.values(), total, slope]
    read = {name[2:] for name in graph.inputs(roots) if name.startswith("s:")}
    stored = (*(s for s in syntax.states if ion_input(syntax, s) is None), *sorted(read - {*syntax.states}))
    _refuse_writes(syntax)
    return Density(
        name=syntax.name,
        graph=graph,
        stored=stored,
        initial=_kept(syntax, start.values, stored),
        step=_kept(syntax, solved.values, stored),
        current=total,
        conductance=slope,
        ion_currents=ions,
    )


def _solve_and_draw(
    syntax: Syntax, graph: Graph, celsius: float, fixed: Mapping[str, Node]
) -> tuple[_Run, _Run, set[str]]:
    """Carry out DERIVATIVE and BREAKPOINT; return also the names of all variables that they write."""
    solved = _Run(syntax, graph, celsius, constants=fixed)
    for block in _solved(syntax):
        _carry_out(solved, block)
    drawn = _Run(syntax, graph, celsius, constants=fixed)
    _carry_out(drawn, syntax.blocks.get("BREAKPOINT", []))
    return solved, drawn, {*solved.values, *drawn.values}


def _carry_out(run: _Run, block: list[Tree]) -> None:
    run.local = frozenset(_locals(block))
    run.statements(block)


def _solved(syntax: Syntax) -> list[list[Tree]]:
    """Return the DERIVATIVE blocks that BREAKPOINT solves."""
    blocks = []
    for statement in syntax.blocks.get("BREAKPOINT", []):
        if kind(statement) == "ExpressionStatement" and kind(parts(statement)[0]) == "SolveBlock":
            name, *method = parts(parts(statement)[0])
            used = text(method[0]) if method else "no METHOD"
            if used != "cnexp" or text(name) not in syntax.derivatives:
                raise syntax.refuse(f"SOLVE {text(name)} with {used}")
            blocks.append(syntax.derivatives[text(name)])
    return blocks


def _refuse_writes(syntax: Syntax) -> None:
    for ion, (_, written) in syntax.ions.items():
        for name in written:
            if name not in (f"i{ion}", f"{ion}i") or (name == f"{ion}i" and name not in syntax.states):
                raise syntax.refuse(f"writing {name}, which is not a state,")


def _kept(syntax: Syntax, values: Mapping[str, Node], stored: tuple[str, ...]) -> dict[str, Node]:
    """Return the values of stored variables and of concentrations, by name of their input."""
    found = {f"s:{name}": values[name] for name in stored if name in values}
    for name in syntax.states:
        ion = ion_input(syntax, name)
        if ion is not None and name in values:
            found[ion] = values[name]
    return found
