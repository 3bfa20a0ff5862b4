"""A density mechanism as arithmetic: its initial state, its current and one step of its states."""

from collections.abc import Mapping
from dataclasses import dataclass

from neurosim.vector.equations import Settling, solve
from neurosim.vector.graph import Graph, Node, NotDifferentiable
from neurosim.vector.statements import Run, ion_input
from neurosim.vector.syntax import Syntax, kind, parts


@dataclass
class Density:
    """What a kernel is generated from; nodes belong to `graph`.

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
        """Tell whether it writes the concentration of an ion."""
        return any(name.startswith(("ci:", "co:")) for name in self.step)


def make_density(syntax: Syntax, celsius: float, v_init_mV: float) -> Density:
    """Turn a mechanism into arithmetic at a temperature in degrees Celsius, which starts at a voltage.

    Raises
    ------
    Unsupported
        Something in it that no kernel is made of; the mechanism is named.
    """
    graph = Graph()
    start = _started(syntax, graph, celsius, v_init_mV)
    changing = {*syntax.states, *_solve_and_draw(syntax, graph, celsius, {})[2]}
    fixed = {
        name: node
        for name, node in start.values.items()
        if graph.value(node) is not None and name not in changing
    }
    solved, drawn, _ = _solve_and_draw(syntax, graph, celsius, fixed)

    ions: dict[str, tuple[Node, Node]] = {}
    total = slope = graph.const(0.0)
    hints = dict(syntax.conductances)
    currents = {f"i{ion}": ion for ion, (_, written) in syntax.ions.items() if f"i{ion}" in written}
    for name in (*currents, *syntax.nonspecific):
        ion = currents.get(name, "")
        current = drawn.read(name)
        if syntax.conductances:  # NEURON then looks at nothing else
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
        raise syntax.refuse(f"the current {name} without a CONDUCTANCE statement ({error})") from error


def _started(syntax: Syntax, graph: Graph, celsius: float, v_init_mV: float) -> Run:
    """Carry out INITIAL."""
    run = Run(syntax, graph, celsius, at_start=True)
    run.values |= {name: run.parameter(name) for name in syntax.parameters if name in syntax.assigned}
    for state in syntax.states:
        if ion_input(syntax, state) is None:
            known = f"{state}0" in syntax.parameters
            run.values[state] = run.read(f"{state}0") if known else graph.const(0.0)
    run.carry_out(syntax.blocks.get("INITIAL", []), Settling(v_init_mV))
    return run


def _solve_and_draw(
    syntax: Syntax, graph: Graph, celsius: float, fixed: Mapping[str, Node]
) -> tuple[Run, Run, set[str]]:
    """Carry out what BREAKPOINT solves, and BREAKPOINT; return also the names of all that they write."""
    solved = Run(syntax, graph, celsius, constants=fixed)
    drawing, methods = [], set()
    for statement in syntax.blocks.get("BREAKPOINT", []):
        if kind(statement) == "ExpressionStatement" and kind(parts(statement)[0]) == "SolveBlock":
            methods.add(solve(solved, parts(statement)[0]))
        else:
            drawing.append(statement)
    if len(methods) > 1:  # one of them would have NEURON halve the steps of the others at second order
        raise syntax.refuse("SOLVE statements with different METHODs")
    drawn = Run(syntax, graph, celsius, constants=fixed)
    drawn.carry_out(drawing)
    return solved, drawn, {*solved.values, *drawn.values}


def _stored(syntax: Syntax, graph: Graph, solved: Run, drawn: list[Node]) -> tuple[str, ...]:
    """Return the states, and the variables that blocks find as an earlier call left them."""
    stored = [state for state in syntax.states if ion_input(syntax, state) is None]
    while True:
        kept = [solved.values[name] for name in (*stored, *syntax.states) if name in solved.values]
        read = {name[2:] for name in graph.inputs([*kept, *drawn]) if name.startswith("s:")}
        if read <= {*stored}:
            return tuple(stored)
        stored += sorted(read - {*stored})


def _refuse_inputs(syntax: Syntax, density: Density, drawn: Run) -> None:
    """Refuse what would not have its value when a kernel asks for it."""
    inputs = density.inputs()
    for name in ("t", "diam", "area"):
        if name in inputs:
            raise syntax.refuse(f"the variable {name}")
    graph = density.graph
    others = [*density.initial.values(), density.current, density.conductance]
    others += [node for pair in density.ion_currents.values() for node in pair]
    if "dt" in graph.inputs(others):
        raise syntax.refuse("the variable dt elsewhere than in the equations of states")
    for ion in density.ion_currents:
        if f"i:{ion}" in inputs:
            raise syntax.refuse(f"i{ion}, which it writes, as something that it reads")
    for name in density.stored:
        if name in drawn.values and f"s:{name}" in inputs:
            raise syntax.refuse(f"{name}, which BREAKPOINT writes after it was read,")
    if any(name.startswith("i:") for name in graph.inputs(others)):
        raise syntax.refuse("the current of an ion elsewhere than in the equations of states")


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
