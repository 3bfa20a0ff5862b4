"""The mechanisms of a compartment joined into one graph, so that they share common terms.

A density mechanism is reduced to its initial state, its current with the slope over the voltage, and one step of
its states. Mechanisms are joined in NEURON's order: those that write a concentration come first, and reversal
potentials follow the new concentrations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from neurofleet.neurosim.vector.arithmetic_graph import Graph, Node, NotDifferentiable
from neurofleet.neurosim.vector.nmodl_statements import SymbolicRun, ion_input
from neurofleet.neurosim.vector.nmodl_syntax import Syntax, kind, parts
from neurofleet.neurosim.vector.state_equations import Settling, solve


@dataclass
class Density:
    """One mechanism as arithmetic; nodes belong to `graph`.

    Inputs of the graph are ``v``; in `step` ``dt`` and ``second`` (1 at second order, 0 at first); ``p:`` and
    a parameter, ``s:`` and a state or stored variable, and ``e:``, ``ci:``, ``co:`` or ``i:`` and an ion
    (reversal potential, concentrations, current).

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
        """Return whether it writes the concentration of an ion."""
        return any(name.startswith(("ci:", "co:")) for name in self.step)


def make_density(syntax: Syntax, celsius: float, v_init_mV: float) -> Density:
    """Return a mechanism as arithmetic.

    Parameters
    ----------
    syntax : Syntax
    celsius : float
        Temperature in degrees Celsius; becomes a constant.
    v_init_mV : float
        The voltage at which INITIAL is carried out.

    Raises
    ------
    Unsupported
        Something in it that the engine does not support; the mechanism is named.
    """
    graph = Graph()
    start = _started(syntax, graph, celsius, v_init_mV)
    changing = {*syntax.states, *_solve_and_draw(syntax, graph, celsius, {})[2]}
    fixed = {
        name: node for name, node in start.values.items() if graph.value(node) is not None and name not in changing
    }
    solved, drawn, _ = _solve_and_draw(syntax, graph, celsius, fixed)

    ions: dict[str, tuple[Node, Node]] = {}
    total = slope = graph.const(0.0)
    hints = dict(syntax.conductances)
    currents = {f"i{ion}": ion for ion, (_, written) in syntax.ions.items() if f"i{ion}" in written}
    for name in (*currents, *syntax.nonspecific):
        ion = currents.get(name, "")
        current = drawn.read(name)
        if syntax.conductances:  # NEURON then ignores all other currents
            over_v = drawn.read(hints.pop(ion)) if ion in hints else graph.const(0.0)
        else:
            over_v = _slope(syntax, graph, name, current)
        total, slope = graph.apply("+", total, current), graph.apply("+", slope, over_v)
        if ion:
            ions[ion] = (current, over_v)

    _refuse_writes(syntax)
    stored = _stored(syntax, graph, solved, [total, slope, *(n for pair in ions.values() for n in pair)])
    density = Density(
        name=syntax.name,
        graph=graph,
        stored=stored,
        initial=_kept(syntax, start.values, stored),
        step=_kept(syntax, solved.values, stored),
        current=total,
        conductance=slope,
        ion_currents=ions,
    )
    _refuse_inputs(syntax, density, drawn)
    return density


def _slope(syntax: Syntax, graph: Graph, name: str, current: Node) -> Node:
    try:
        return graph.derivative(current, "v")
    except NotDifferentiable as error:
        raise syntax.unsupported(f"the current {name} without a CONDUCTANCE statement ({error})") from error


def _started(syntax: Syntax, graph: Graph, celsius: float, v_init_mV: float) -> SymbolicRun:
    """Carry out INITIAL."""
    run = SymbolicRun(syntax, graph, celsius, at_start=True)
    run.values |= {name: run.parameter(name) for name in syntax.parameters if name in syntax.assigned}
    for state in syntax.states:
        if ion_input(syntax, state) is None:
            known = f"{state}0" in syntax.parameters
            run.values[state] = run.read(f"{state}0") if known else graph.const(0.0)
    run.carry_out(syntax.blocks.get("INITIAL", []), Settling(v_init_mV))
    return run


def _solve_and_draw(
    syntax: Syntax, graph: Graph, celsius: float, fixed: Mapping[str, Node]
) -> tuple[SymbolicRun, SymbolicRun, set[str]]:
    """Carry out what BREAKPOINT solves, and BREAKPOINT; return also the names of all that they write."""
    solved = SymbolicRun(syntax, graph, celsius, constants=fixed)
    drawing, methods = [], set()
    for statement in syntax.blocks.get("BREAKPOINT", []):
        if kind(statement) == "ExpressionStatement" and kind(parts(statement)[0]) == "SolveBlock":
            methods.add(solve(solved, parts(statement)[0]))
        else:
            drawing.append(statement)
    if len(methods) > 1:  # at second order NEURON would halve the steps of all because of one
        raise syntax.unsupported("SOLVE statements with different METHODs")
    drawn = SymbolicRun(syntax, graph, celsius, constants=fixed)
    drawn.carry_out(drawing)
    return solved, drawn, {*solved.values, *drawn.values}


def _stored(syntax: Syntax, graph: Graph, solved: SymbolicRun, drawn: list[Node]) -> tuple[str, ...]:
    """Return the states, and the variables that blocks find as an earlier call left them."""
    stored = [state for state in syntax.states if ion_input(syntax, state) is None]
    while True:
        kept = [solved.values[name] for name in (*stored, *syntax.states) if name in solved.values]
        read = {name[2:] for name in graph.inputs([*kept, *drawn]) if name.startswith("s:")}
        if read <= {*stored}:
            return tuple(stored)
        stored += sorted(read - {*stored})


def _refuse_inputs(syntax: Syntax, density: Density, drawn: SymbolicRun) -> None:
    """Raise `Unsupported` for variables that would not have their value yet, or any more, when a kernel reads them."""
    inputs = density.inputs()
    for name in ("t", "diam", "area"):
        if name in inputs:
            raise syntax.unsupported(f"the variable {name}")
    graph = density.graph
    others = [*density.initial.values(), density.current, density.conductance]
    others += [node for pair in density.ion_currents.values() for node in pair]
    if "dt" in graph.inputs(others):
        raise syntax.unsupported("the variable dt elsewhere than in the equations of states")
    for ion in density.ion_currents:
        if f"i:{ion}" in inputs:
            raise syntax.unsupported(f"i{ion}, which it writes, as something that it reads")
    for name in density.stored:
        if name in drawn.values and f"s:{name}" in inputs:
            raise syntax.unsupported(f"{name}, which BREAKPOINT writes after it was read,")
    if any(name.startswith("i:") for name in graph.inputs(others)):
        raise syntax.unsupported("the current of an ion elsewhere than in the equations of states")


def _refuse_writes(syntax: Syntax) -> None:
    for ion, (_, written) in syntax.ions.items():
        for name in written:
            if name not in (f"i{ion}", f"{ion}i") or (name == f"{ion}i" and name not in syntax.states):
                raise syntax.unsupported(f"writing {name}, which is not a state,")


def _kept(syntax: Syntax, values: Mapping[str, Node], stored: tuple[str, ...]) -> dict[str, Node]:
    """Return the values of stored variables and of concentrations, by name of their input."""
    kept = {f"s:{name}": values[name] for name in stored if name in values}
    for name in syntax.states:
        ion = ion_input(syntax, name)
        if ion is not None and name in values:
            kept[ion] = values[name]
    return kept


# Exponentials are shared as e^(|a| (v - MIDDLE_MV)) only where they neither overflow nor vanish in float32 within
# REACH_MV of the middle of the voltages that cells have.
MIDDLE_MV, REACH_MV, LARGEST_EXPONENT = -25.0, 175.0, 80.0


@dataclass(frozen=True)
class CompartmentKind:
    """What compartments have in common that are calculated by the same code.

    Attributes
    ----------
    mechanisms : tuple of str
    nernst : tuple of str
        Ions whose reversal potential follows their concentrations.
    """

    mechanisms: tuple[str, ...]
    nernst: tuple[str, ...]


@dataclass
class Membrane:
    """The arithmetic of the compartments of one kind; nodes belong to `graph`.

    Inputs of the graph are ``v``, ``dt``, ``second`` (1 at second order, 0 at first), ``dv`` (half of what
    the last step added to the voltage at second order, 0 at first), ``p:`` with mechanism and parameter,
    ``s:`` with mechanism and state, ``e:``, ``ci:``, ``co:`` and an ion; ``i:`` and ``di:``, an ion's current
    as it was drawn last and its slope.

    Attributes
    ----------
    kind : CompartmentKind
    graph : Graph
    stored : tuple of str
        Inputs that a compartment keeps from one step to the next; the others that are neither ``v`` nor a
        step are constant.
    initial : dict
        Input name of what is stored -> its value at the start.
    drawn : dict
        ``rhs`` and ``d``, the current and its slope, and ion currents that are stored, of the state as it is.
    advanced : dict
        All that is stored one step later, and what is drawn then.
    """

    kind: CompartmentKind
    graph: Graph = field(default_factory=Graph)
    stored: tuple[str, ...] = ()
    initial: dict[str, Node] = field(default_factory=dict)
    drawn: dict[str, Node] = field(default_factory=dict)
    advanced: dict[str, Node] = field(default_factory=dict)

    def constants(self) -> tuple[str, ...]:
        """Return the inputs that stay as they are."""
        roots = [*self.initial.values(), *self.drawn.values(), *self.advanced.values()]
        return tuple(sorted(self.graph.inputs(roots) - {"v", "dt", "second", "dv", *self.stored} | {*self.given()}))

    def given(self) -> tuple[str, ...]:
        """Return what is stored and has a value before INITIAL: concentrations."""
        return tuple(name for name in self.stored if name.startswith(("ci:", "co:")))


def join(kind: CompartmentKind, densities: Sequence[Density], nernst_mV: Mapping[str, float]) -> Membrane:
    """Put the mechanisms of one kind of compartment together.

    Parameters
    ----------
    kind : CompartmentKind
    densities : sequence of Density
        Those of the kind, those that write a concentration first, as NEURON steps them.
    nernst_mV : mapping
        Ion -> the potential of a ratio e between its concentrations.
    """
    membrane = Membrane(kind)
    joined = _Joined(membrane.graph, nernst_mV, kind.nernst, densities)
    membrane.initial = joined.initial()
    membrane.drawn = joined.drawn({})
    stepped = joined.stepped()
    later = joined.drawn(stepped)
    membrane.advanced = stepped | later
    kept = {f"s:{d.name}:{name}" for d in densities for name in d.stored}
    membrane.stored = tuple(sorted({*kept, *stepped, *(name for name in later if ":" in name)}))
    return membrane


class _Joined:
    def __init__(
        self,
        graph: Graph,
        nernst_mV: Mapping[str, float],
        nernst: Sequence[str],
        densities: Sequence[Density],
    ) -> None:
        self.graph, self.densities = graph, densities
        written = {n for d in densities for n in d.step if n[:3] in ("ci:", "co:")}
        self._nernst = {ion: nernst_mV[ion] for ion in nernst if {f"ci:{ion}", f"co:{ion}"} & written}
        self._read = sorted({n[2:] for d in densities for n in d.graph.inputs(d.step.values()) if n[:2] == "i:"})

    def initial(self) -> dict[str, Node]:
        return self._in_turn("initial", self._reversal({}))

    def stepped(self) -> dict[str, Node]:
        return self._in_turn("step", self._reversal({}) | self._currents_now())

    def _in_turn(self, block: str, known: Mapping[str, Node]) -> dict[str, Node]:
        """Carry out a block of one mechanism after the other; each knows the concentrations as they are."""
        new: dict[str, Node] = {}
        for density in self.densities:
            nodes = {_place(density, name): node for name, node in getattr(density, block).items()}
            concentrations = {n: node for n, node in new.items() if not n.startswith("s:")}
            new |= self._include(density, nodes, {**known, **concentrations})
        return new

    def _reversal(self, known: Mapping[str, Node]) -> dict[str, Node]:
        """Return the reversal potentials that belong to concentrations."""
        graph = self.graph
        potentials = {}
        for ion, scale in self._nernst.items():
            outside, inside = (known.get(n, graph.input(n)) for n in (f"co:{ion}", f"ci:{ion}"))
            ratio = graph.apply("log", graph.apply("/", outside, inside))
            potentials[f"e:{ion}"] = graph.apply("*", ratio, graph.const(scale))
        return potentials

    def drawn(self, values: Mapping[str, Node]) -> dict[str, Node]:
        graph = self.graph
        known = {**values, **self._reversal(values)}
        sums = {"rhs": graph.const(0.0), "d": graph.const(0.0)}
        sums |= {f"{what}:{ion}": graph.const(0.0) for ion in self._read for what in ("i", "di")}
        for density in self.densities:
            nodes = {"rhs": density.current, "d": density.conductance}
            for ion, (current, slope) in density.ion_currents.items():
                if ion in self._read:
                    nodes |= {f"i:{ion}": current, f"di:{ion}": slope}
            for name, node in self._include(density, nodes, known).items():
                sums[name] = graph.apply("+", sums[name], node)
        return sums

    def _currents_now(self) -> dict[str, Node]:
        """Return the ion currents at the new voltage."""
        graph = self.graph
        currents = {}
        for ion in self._read:
            change = graph.apply("*", graph.input(f"di:{ion}"), graph.input("dv"))
            currents[f"i:{ion}"] = graph.apply("+", graph.input(f"i:{ion}"), change)
        return currents

    def _include(self, density: Density, nodes: Mapping[str, Node], known: Mapping[str, Node]) -> dict[str, Node]:
        """Return nodes of a mechanism's graph as nodes of the joined one."""
        graph, source = self.graph, density.graph
        new: dict[Node, Node] = {}
        for node in source.order(nodes.values()):
            kind, *rest = source.terms[node]
            if kind == "const":
                new[node] = graph.const(rest[0])
            elif kind == "in":
                name = _place(density, rest[0])
                new[node] = known.get(name, graph.input(name))
            elif kind == "exp":
                new[node] = _exponential(graph, new[rest[0]])
            else:
                new[node] = graph.apply(kind, *(new[a] for a in rest))
        return {name: new[node] for name, node in nodes.items()}


def _place(density: Density, name: str) -> str:
    """Return the joined name of an input: parameters and states belong to a mechanism."""
    what, colon, which = name.partition(":")
    return f"{what}:{density.name}:{which}" if what in ("p", "s") and colon else name


def _exponential(graph: Graph, exponent: Node) -> Node:
    """Return e^(a v + b) as a multiple of e^(|a| (v - middle)) or of its inverse.

    Rates of many gates have the same slope a up to its sign, so one exponential serves for all of them.
    """
    line = straight(graph, exponent)
    if line is None:
        return graph.apply("exp", exponent)
    slope, offset = line
    factor = offset + slope * MIDDLE_MV
    if slope == 0 or abs(slope) * REACH_MV + abs(factor) > LARGEST_EXPONENT:
        return graph.apply("exp", exponent)
    v = graph.apply("-", graph.input("v"), graph.const(MIDDLE_MV))
    # Rounded to 14 digits: slopes that are equal, such as 1/6 and 0.5/3, differ in their last bits.
    shared = graph.apply("exp", graph.apply("*", v, graph.const(float(f"{abs(slope):.14g}"))))
    multiple = graph.const(math.exp(factor))
    return graph.apply("*" if slope > 0 else "/", *((shared, multiple) if slope > 0 else (multiple, shared)))


def straight(graph: Graph, node: Node) -> tuple[float, float] | None:
    """Return (a, b) of a node that is a v + b, None for any other."""
    kind, *rest = graph.terms[node]
    if kind == "const":
        return 0.0, rest[0]
    if kind == "in":
        return (1.0, 0.0) if rest[0] == "v" else None
    lines: list[tuple[float, float]] = []
    for argument in rest if kind in ("+", "-", "neg", "*", "/") else ():
        line = straight(graph, argument)
        if line is None:
            return None
        lines.append(line)
    if not lines:
        return None
    (a, b), *others = lines
    if kind == "neg":
        return -a, -b
    ((c, d),) = others
    if kind in ("+", "-"):
        sign = 1 if kind == "+" else -1
        return a + sign * c, b + sign * d
    if kind == "*" and (a == 0 or c == 0):
        return (a * d, b * d) if c == 0 else (b * c, b * d)
    if kind == "/" and c == 0 and d != 0:
        return a / d, b / d
    return None
