"""The equations and kinetic schemes of a mechanism's states, and the step that each METHOD of NEURON makes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from neurofleet.neurosim.vector.arithmetic_graph import Graph, Node, NotDifferentiable
from neurofleet.neurosim.vector.nmodl_statements import SymbolicRun
from neurofleet.neurosim.vector.nmodl_syntax import SyntaxTree, find, kind, parts, text

Rates = dict[tuple[str, str], Node]


@dataclass
class Scheme:
    """A linear system of states; all rates are per ms.

    Attributes
    ----------
    states : tuple of str
    rates : dict
        (to, from) -> rate.
    losses : dict
        State -> rate at which it goes nowhere.
    gains : dict
        State -> what comes from nowhere, per ms.
    totals : list of (tuple of str, Node)
        States, and the number that they sum up to.
    """

    states: tuple[str, ...]
    rates: Rates = field(default_factory=dict)
    losses: dict[str, Node] = field(default_factory=dict)
    gains: dict[str, Node] = field(default_factory=dict)
    totals: list[tuple[tuple[str, ...], Node]] = field(default_factory=list)


class NotUnique(ValueError):
    """A scheme whose steady state is not determined."""


def kinetic_step(graph: Graph, scheme: Scheme, old: Mapping[str, Node], dt: Node) -> dict[str, Node]:
    """Return the states after a step of backward Euler: the solution x of (1 - dt Q) x = old.

    As in NEURON's ``sparse``, the last state of each total is what the others leave of it, before the removal.
    """
    values = dict(old)
    for states, total in scheme.totals:
        others = _sum(graph, [values[s] for s in states[:-1]])
        values[states[-1]] = total if others is None else graph.apply("-", total, others)
    for state, gain in scheme.gains.items():
        values[state] = graph.apply("+", values[state], _scaled(graph, gain, dt))
    rates = {pair: _scaled(graph, rate, dt) for pair, rate in scheme.rates.items()}
    one = graph.const(1.0)
    leaks = {
        s: graph.apply("+", one, _scaled(graph, scheme.losses[s], dt)) if s in scheme.losses else one
        for s in scheme.states
    }
    removed = _eliminate(graph, scheme.states, rates, leaks)
    for removal in removed:
        for to, share in removal.shares.items():
            values[to] = graph.apply("+", values[to], graph.apply("*", share, values[removal.state]))
    for removal in reversed(removed):
        assert removal.pivot is not None  # at least its leak
        terms = [graph.apply("*", rate, values[s]) for s, rate in removal.feeds.items()]
        numerator = _sum(graph, [values[removal.state], *terms])
        assert numerator is not None
        values[removal.state] = graph.apply("/", numerator, removal.pivot)
    return values


def kinetic_settle(graph: Graph, scheme: Scheme) -> dict[str, Node]:
    """Return the states that no longer change.

    Raises
    ------
    NotUnique
        The totals and rates do not determine them; the message says why.
    """
    counted = [s for states, _ in scheme.totals for s in states]
    if sorted(counted) != sorted(scheme.states):
        raise NotUnique("without a CONSERVE statement that names each of its states once")
    if scheme.losses or scheme.gains:
        raise NotUnique("with states that come from or go to nowhere")
    removed = _eliminate(graph, scheme.states, dict(scheme.rates), {})
    settled: dict[str, Node] = {}
    for removal in reversed(removed):
        if removal.pivot is None:
            settled[removal.state] = graph.const(1.0)
            continue
        came = _sum(graph, [graph.apply("*", rate, settled[s]) for s, rate in removal.feeds.items()])
        settled[removal.state] = graph.const(0.0) if came is None else graph.apply("/", came, removal.pivot)
    for states, total in scheme.totals:
        if sum(removal.pivot is None for removal in removed if removal.state in states) != 1:
            raise NotUnique("with states that no rates connect, but that one CONSERVE statement counts")
        whole = _sum(graph, [settled[s] for s in states])
        assert whole is not None
        scale = graph.apply("/", total, whole)
        settled |= {s: graph.apply("*", settled[s], scale) for s in states}
    return settled


@dataclass(frozen=True)
class _Removed:
    """A state eliminated from a scheme.

    Attributes
    ----------
    state : str
    shares : mapping
        State -> share of what leaves this state that goes there.
    feeds : mapping
        State -> rate from there to this state.
    pivot : Node or None
        Sum of all that leaves this state; None when nothing does.
    """

    state: str
    shares: Mapping[str, Node]
    feeds: Mapping[str, Node]
    pivot: Node | None


def _eliminate(graph: Graph, states: Sequence[str], rates: Rates, leaks: Mapping[str, Node]) -> list[_Removed]:
    """Eliminate the states one by one, next the one with the fewest paths through it.

    Paths through an eliminated state are added to the rates between its neighbours, and a pivot is the sum of
    what leaves the state. With rates that are not negative nothing is ever subtracted, so no digits are lost,
    in single precision either (Grassmann, Taksar & Heyman 1985, Oper Res 33:1107).
    """
    left, leaks = list(states), dict(leaks)
    removed = []

    def paths(state: str) -> tuple[bool, int]:
        out = sum(start == state for _, start in rates)
        return out == 0, out * sum(end == state for end, _ in rates)

    while left:
        state = min(left, key=paths)
        left.remove(state)
        goes = {end: rates.pop((end, start)) for end, start in list(rates) if start == state}
        feeds = {start: rates.pop((end, start)) for end, start in list(rates) if end == state}
        leak = leaks.get(state)
        pivot = _sum(graph, [*([] if leak is None else [leak]), *goes.values()])
        shares = {}
        if pivot is not None:
            shares = {end: graph.apply("/", rate, pivot) for end, rate in goes.items()}
            for start, feed in feeds.items():
                for end, share in shares.items():
                    if end != start:
                        through = graph.apply("*", share, feed)
                        known = rates.get((end, start))
                        rates[end, start] = through if known is None else graph.apply("+", known, through)
                if leak is not None:
                    lost = graph.apply("*", graph.apply("/", leak, pivot), feed)
                    leaks[start] = graph.apply("+", leaks[start], lost)
        removed.append(_Removed(state, shares, feeds, pivot))
    return removed


def _sum(graph: Graph, nodes: Sequence[Node]) -> Node | None:
    if not nodes:
        return None
    total, *others = nodes
    for node in others:
        total = graph.apply("+", total, node)
    return total


def _scaled(graph: Graph, rate: Node, dt: Node) -> Node:
    """Return rate times dt, so that rates which differ by a constant factor share a product."""
    kind, *rest = graph.terms[rate]
    if kind == "*" and graph.value(rest[1]) is not None:
        return graph.apply("*", graph.apply("*", rest[0], dt), rest[1])
    return graph.apply("*", rate, dt)


def solve(run: SymbolicRun, statement: SyntaxTree) -> str:
    """Carry out a SOLVE statement of BREAKPOINT, which steps the states, and return its METHOD."""
    name, *method = (text(part) for part in parts(statement))
    used = method[0] if method else ""
    if name in run.syntax.derivatives and used in _METHODS:
        _METHODS[used](run, run.syntax.derivatives[name])
    elif name in run.syntax.schemes and used == "sparse":
        _step_by_halves(run, _reactions(run, name))
    elif name in run.syntax.procedures and not used:
        run.carry_out([])
        run.call_procedure(name, [])
    else:
        raise run.syntax.unsupported(f"SOLVE {name} with {f'METHOD {used}' if used else 'no METHOD'}")
    return used


@dataclass(frozen=True)
class Settling:
    """SOLVE statements of INITIAL, where all voltages are `v_init_mV`."""

    v_init_mV: float

    def take(self, run: SymbolicRun, what: str, inner: list[SyntaxTree]) -> bool:
        name, *method = (text(part) for part in inner) if what in ("SteadyBlock", "SolveBlock") else ("",)
        fresh = SymbolicRun(run.syntax, run.graph, run.celsius, dict(run.values), run.constants, run.at_start)
        if what == "SteadyBlock" and name in run.syntax.schemes and method == ["sparse"]:
            scheme = _reactions(fresh, name)
            try:
                run.values = fresh.values | kinetic_settle(run.graph, scheme)
            except NotUnique as error:
                raise run.syntax.unsupported(f"SOLVE {name} STEADYSTATE {error}") from error
            return True
        if what == "SolveBlock" and name in run.syntax.systems and not method:
            before = {state: run.values[state] for state in run.syntax.states if state in run.values}
            solved = self._solved(fresh, name)
            run.values = fresh.values | before | solved
            return True
        return False

    def _solved(self, run: SymbolicRun, name: str) -> dict[str, Node]:
        """Return the states that a LINEAR block determines, as numbers."""
        system = _System()
        unknown = {state: run.graph.input(f"x:{state}") for state in run.syntax.states}
        run.values |= unknown
        run.carry_out(run.syntax.systems[name], system)
        rows = [_linear(run, name, node, list(unknown.values())) for node in system.differences]
        states = [s for s, node in unknown.items() if any(run.graph.value(a[node]) != 0 for a, _ in rows)]
        numbers = [[self._number(run, name, a[unknown[s]]) for s in states] for a, _ in rows]
        right = [-self._number(run, name, rest) for _, rest in rows]
        try:
            solution = np.linalg.solve(np.array(numbers), np.array(right))
        except (ValueError, np.linalg.LinAlgError) as error:
            raise run.syntax.unsupported(f"{name}, whose equations do not determine its states ({error})") from error
        return {state: run.graph.const(value) for state, value in zip(states, solution.tolist(), strict=True)}

    def _number(self, run: SymbolicRun, name: str, node: Node) -> float:
        graph = run.graph
        value = graph.value(graph.replace(node, {"v": graph.const(self.v_init_mV)}))
        if value is None:
            raise run.syntax.unsupported(f"{name}, whose equations depend on more than the voltage,")
        return value


@dataclass
class _System:
    """The equations of a LINEAR block, each as the difference of its sides."""

    differences: list[Node] = field(default_factory=list)

    def take(self, run: SymbolicRun, what: str, inner: list[SyntaxTree]) -> bool:
        if what != "LinEquation":
            return False
        left, right = (run.value(side) for side in inner)
        self.differences.append(run.graph.apply("-", left, right))
        return True


class _Exponential:
    """METHOD cnexp: each state by itself, in the order of the equations; earlier ones have advanced already."""

    def take(self, run: SymbolicRun, what: str, inner: list[SyntaxTree]) -> bool:
        if what != "DiffEqExpression":
            return False
        name, expression = _equation(run, inner)
        calls = (part for call in find(expression, "FunctionCall") for part in find(call, "VarName"))
        if name in map(text, calls):
            raise run.syntax.unsupported(f"the equation of {name}, which hands {name} to a function")
        graph, state = run.graph, run.read(name)
        # Only the state as it stands in the equation counts, not values that statements calculated from it before.
        free = run.values[name] = graph.input(f"x:{name}")
        slopes, rest = _linear(run, name, run.value(expression), [free])
        dt, slope = graph.input("dt"), slopes[free]
        if graph.value(slope) == 0:
            run.write(name, graph.apply("+", state, graph.apply("*", dt, rest)))
            return True
        settled = graph.apply("/", rest, graph.apply("neg", slope))
        share = graph.apply("expm1", graph.apply("*", dt, slope))
        change = graph.apply("*", share, graph.apply("-", state, settled))
        run.write(name, graph.apply("+", state, change))
        return True


@dataclass
class _Together:
    """Equations that are kept until the end of their block."""

    rates: dict[str, Node] = field(default_factory=dict)

    def take(self, run: SymbolicRun, what: str, inner: list[SyntaxTree]) -> bool:
        if what != "DiffEqExpression":
            return False
        name, expression = _equation(run, inner)
        self.rates[name] = run.value(expression)
        return True


def _by_cnexp(run: SymbolicRun, block: list[SyntaxTree]) -> None:
    run.carry_out(block, _Exponential())


def _by_euler(run: SymbolicRun, block: list[SyntaxTree]) -> None:
    equations, graph = _Together(), run.graph
    run.carry_out(block, equations)
    dt = graph.input("dt")
    for name, rate in equations.rates.items():
        run.write(name, graph.apply("+", run.given(name), graph.apply("*", dt, rate)))


def _by_derivimplicit(run: SymbolicRun, block: list[SyntaxTree]) -> None:
    equations, graph = _Together(), run.graph
    run.carry_out(block, equations)
    scheme = Scheme(tuple(equations.rates))
    states = _old(run, scheme.states)
    names = {node: state for state, node in states.items()}
    for to, rate in equations.rates.items():
        slopes, rest = _linear(run, to, rate, list(states.values()))
        if graph.value(rest) != 0:
            scheme.gains[to] = rest
        for node, slope in slopes.items():
            start = names[node]
            if graph.value(slope) == 0:
                continue
            if start != to:
                scheme.rates[to, start] = slope
            lost = scheme.losses.get(start, graph.const(0.0))
            scheme.losses[start] = graph.apply("-", lost, slope)
    _step_by_halves(run, scheme)


_METHODS: dict[str, Callable[[SymbolicRun, list[SyntaxTree]], None]] = {
    "cnexp": _by_cnexp,
    "euler": _by_euler,
    "derivimplicit": _by_derivimplicit,
}


def _old(run: SymbolicRun, states: tuple[str, ...]) -> dict[str, Node]:
    return {state: run.given(state) for state in states}


def _step_by_halves(run: SymbolicRun, scheme: Scheme) -> None:
    """Step as NEURON does: by dt at first order; at second order by dt/2, and then as far again in a straight line."""
    graph = run.graph
    used = [*scheme.rates.values(), *scheme.losses.values(), *scheme.gains.values()]
    if "dt" in graph.inputs(used):
        raise run.syntax.unsupported("the variable dt in a block that is not solved with METHOD cnexp")
    dt, second, old = graph.input("dt"), graph.input("second"), _old(run, scheme.states)
    shorter = graph.apply("-", graph.const(1.0), graph.apply("*", second, graph.const(0.5)))
    reached = kinetic_step(graph, scheme, old, graph.apply("*", dt, shorter))
    for state, node in reached.items():
        further = graph.apply("*", second, graph.apply("-", node, old[state]))
        run.write(state, graph.apply("+", node, further))


def _equation(run: SymbolicRun, inner: list[SyntaxTree]) -> tuple[str, SyntaxTree]:
    """Return the state that an equation is of, and the expression of its rate."""
    target, _, expression = parts(inner[0])
    name, primed = text(target), parts(target)[0]
    if kind(primed) != "PrimeName" or text(parts(primed)[1]) != "1" or name not in run.syntax.states:
        raise run.syntax.unsupported(f"the equation of {name}, which is not {name}' of a STATE that is no array")
    return name, expression


def _linear(run: SymbolicRun, name: str, rate: Node, states: list[Node]) -> tuple[dict[Node, Node], Node]:
    """Return the slopes of a rate over states that it is linear in, and its value where these are 0."""
    graph = run.graph
    input_names = {node: graph.terms[node][1] for node in states}
    try:
        slopes = {node: graph.derivative(rate, input_names[node]) for node in states}
    except NotDifferentiable as error:
        raise run.syntax.unsupported(f"the equation of {name} ({error})") from error
    choices = [graph.terms[n][1] for n in graph.order([rate]) if graph.terms[n][0] == "select"]
    if graph.inputs([*slopes.values(), *choices]) & {*input_names.values()}:
        raise run.syntax.unsupported(f"the equation of {name}, which is not linear")
    return slopes, graph.replace(rate, {state_input: graph.const(0.0) for state_input in input_names.values()})


def _reactions(run: SymbolicRun, name: str) -> Scheme:
    """Carry out a KINETIC block and return its scheme."""
    reactions = _Reactions(Scheme(()))
    run.carry_out(run.syntax.schemes[name], reactions)
    scheme = reactions.scheme
    for states, _ in scheme.totals:
        inside = {state for state in states if state in scheme.states}
        crossing = any((to in inside) != (start in inside) for to, start in scheme.rates)
        if len(inside) < len(states) or crossing or inside & {*scheme.losses, *scheme.gains}:
            raise run.syntax.unsupported(f"a CONSERVE statement in {name} that its reactions do not keep")
    counted = [state for states, _ in scheme.totals for state in states]
    if len(counted) > len({*counted}):
        raise run.syntax.unsupported(f"CONSERVE statements in {name} that name a state twice")
    return scheme


@dataclass
class _Reactions:
    """The reactions of a KINETIC block: linear ones, of one state to another."""

    scheme: Scheme

    def take(self, run: SymbolicRun, what: str, inner: list[SyntaxTree]) -> bool:
        if what == "Conserve":
            names = tuple(self._names(run, inner[0]))
            self.scheme.totals.append((names, run.value(inner[1])))
        elif what == "ReactionStatement":
            self._react(run, inner)
        else:
            return False
        return True

    def _react(self, run: SymbolicRun, inner: list[SyntaxTree]) -> None:
        graph = run.graph
        left, operator, *rest = inner
        arrow = text(operator)
        start, factor = self._side(run, left)
        if arrow == "<->":
            end, back_factor = self._side(run, rest[0])
            self._flow(run, start, end, graph.apply("*", self._rate(run, rest[1]), factor))
            self._flow(run, end, start, graph.apply("*", self._rate(run, rest[2]), back_factor))
        elif arrow == "->":
            self._flow(run, start, None, graph.apply("*", self._rate(run, rest[0]), factor))
        elif arrow == "<<":
            self._flow(run, None, start, self._rate(run, rest[0]))
        else:
            raise run.syntax.unsupported(f"reactions with {arrow}")

    def _flow(self, run: SymbolicRun, start: str | None, end: str | None, rate: Node) -> None:
        graph, zero = run.graph, run.graph.const(0.0)
        if start == end:
            return
        if start is not None and end is not None:
            known = self.scheme.rates.get((end, start), zero)
            self.scheme.rates[end, start] = graph.apply("+", known, rate)
        elif start is not None:
            self.scheme.losses[start] = graph.apply("+", self.scheme.losses.get(start, zero), rate)
        elif end is not None:
            self.scheme.gains[end] = graph.apply("+", self.scheme.gains.get(end, zero), rate)

    def _rate(self, run: SymbolicRun, expression: SyntaxTree) -> Node:
        rate = run.value(expression)
        states = {run.graph.terms[run.given(state)][1] for state in run.syntax.states}
        if run.graph.inputs([rate]) & states:
            raise run.syntax.unsupported("a reaction whose rate depends on states")
        return rate

    def _side(self, run: SymbolicRun, side: SyntaxTree) -> tuple[str | None, Node]:
        """Return the state on one side of a reaction, if any, and the product of what is no state."""
        state, factor = None, run.graph.const(1.0)
        for name in self._names(run, side):
            if name not in run.syntax.states:
                factor = run.graph.apply("*", factor, run.read(name))
            elif state is not None:
                raise run.syntax.unsupported(f"the reaction of {state} with {name}, which is not linear")
            else:
                state = name
        if state is not None and state not in self.scheme.states:
            self.scheme.states += (state,)
        return state, factor

    def _names(self, run: SymbolicRun, side: SyntaxTree) -> list[str]:
        if kind(side) == "BinaryExpression" and text(parts(side)[1]) == "+":
            left, _, right = parts(side)
            return [*self._names(run, left), *self._names(run, right)]
        if kind(side) != "ReactVarName" or kind(parts(side)[0]) != "VarName":
            raise run.syntax.unsupported("a reaction with more than one of a state")
        if kind(parts(parts(side)[0])[0]) != "Name":
            raise run.syntax.unsupported(f"the array {text(side)}")
        return [text(side)]
