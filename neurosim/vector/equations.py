"""The equations and reactions of a mechanism's states, and the step that each METHOD of NEURON makes."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from neurosim.vector import kinetic
from neurosim.vector.graph import Node, NotDifferentiable
from neurosim.vector.kinetic import NotUnique, Scheme
from neurosim.vector.statements import Run
from neurosim.vector.syntax import Tree, find, kind, parts, text


def solve(run: Run, statement: Tree) -> str:
    """Carry out a SOLVE statement of BREAKPOINT, so that states are stepped, and return its METHOD."""
    name, *method = (text(part) for part in parts(statement))
    used = method[0] if method else ""
    if name in run.syntax.derivatives and used in _METHODS:
        _METHODS[used](run, run.syntax.derivatives[name])
    elif name in run.syntax.schemes and used == "sparse":
        _step_by_halves(run, _reactions(run, name))
    elif name in run.syntax.procedures and not used:
        run.carry_out([])
        run.call_own(name, [])
    else:
        raise run.syntax.refuse(f"SOLVE {name} with {f'METHOD {used}' if used else 'no METHOD'}")
    return used


@dataclass(frozen=True)
class Settling:
    """SOLVE statements of INITIAL, where all voltages are `v_init_mV`."""

    v_init_mV: float

    def take(self, run: Run, what: str, inner: list[Tree]) -> bool:
        name, *method = (text(part) for part in inner) if what in ("SteadyBlock", "SolveBlock") else ("",)
        fresh = Run(run.syntax, run.graph, run.celsius, dict(run.values), run.constants, run.at_start)
        if what == "SteadyBlock" and name in run.syntax.schemes and method == ["sparse"]:
            scheme = _reactions(fresh, name)
            try:
                run.values = fresh.values | kinetic.settle(run.graph, scheme)
            except NotUnique as error:
                raise run.syntax.refuse(f"SOLVE {name} STEADYSTATE {error}") from error
            return True
        if what == "SolveBlock" and name in run.syntax.systems and not method:
            before = {state: run.values[state] for state in run.syntax.states if state in run.values}
            solved = self._solved(fresh, name)
            run.values = fresh.values | before | solved
            return True
        return False

    def _solved(self, run: Run, name: str) -> dict[str, Node]:
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
            found = np.linalg.solve(np.array(numbers), np.array(right))
        except (ValueError, np.linalg.LinAlgError) as error:
            raise run.syntax.refuse(
                f"{name}, whose equations do not determine its states ({error})"
            ) from error
        return {state: run.graph.const(value) for state, value in zip(states, found.tolist(), strict=True)}

    def _number(self, run: Run, name: str, node: Node) -> float:
        graph = run.graph
        value = graph.value(graph.replace(node, {"v": graph.const(self.v_init_mV)}))
        if value is None:
            raise run.syntax.refuse(f"{name}, whose equations depend on more than the voltage,")
        return value


@dataclass
class _System:
    """The equations of a LINEAR block, each as the difference of its sides."""

    differences: list[Node] = field(default_factory=list)

    def take(self, run: Run, what: str, inner: list[Tree]) -> bool:
        if what != "LinEquation":
            return False
        left, right = (run.value(side) for side in inner)
        self.differences.append(run.graph.apply("-", left, right))
        return True


class _Exponential:
    """METHOD cnexp: each state by itself, in the order of the equations; those before have advanced."""

    def take(self, run: Run, what: str, inner: list[Tree]) -> bool:
        if what != "DiffEqExpression":
            return False
        name, expression = _equation(run, inner)
        calls = (part for call in find(expression, "FunctionCall") for part in find(call, "VarName"))
        if name in map(text, calls):
            raise run.syntax.refuse(f"the equation of {name}, which hands {name} to a function")
        graph, own = run.graph, run.read(name)
        # What the equation itself says of the state counts, not what was calculated from it before.
        free = run.values[name] = graph.input(f"x:{name}")
        slopes, rest = _linear(run, name, run.value(expression), [free])
        dt, slope = graph.input("dt"), slopes[free]
        if graph.value(slope) == 0:
            run.write(name, graph.apply("+", own, graph.apply("*", dt, rest)))
            return True
        settled = graph.apply("/", rest, graph.apply("neg", slope))
        share = graph.apply("expm1", graph.apply("*", dt, slope))
        way = graph.apply("*", share, graph.apply("-", own, settled))
        run.write(name, graph.apply("+", own, way))
        return True


@dataclass
class _Together:
    """Equations that are kept until the end of their block."""

    rates: dict[str, Node] = field(default_factory=dict)

    def take(self, run: Run, what: str, inner: list[Tree]) -> bool:
        if what != "DiffEqExpression":
            return False
        name, expression = _equation(run, inner)
        self.rates[name] = run.value(expression)
        return True


def _by_cnexp(run: Run, block: list[Tree]) -> None:
    run.carry_out(block, _Exponential())


def _by_euler(run: Run, block: list[Tree]) -> None:
    equations, graph = _Together(), run.graph
    run.carry_out(block, equations)
    dt = graph.input("dt")
    for name, rate in equations.rates.items():
        run.write(name, graph.apply("+", run.given(name), graph.apply("*", dt, rate)))


def _by_derivimplicit(run: Run, block: list[Tree]) -> None:
    equations, graph = _Together(), run.graph
    run.carry_out(block, equations)
    scheme = Scheme(tuple(equations.rates))
    own = _old(run, scheme.states)
    names = {node: state for state, node in own.items()}
    for to, rate in equations.rates.items():
        slopes, rest = _linear(run, to, rate, list(own.values()))
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


_METHODS: dict[str, Callable[[Run, list[Tree]], None]] = {
    "cnexp": _by_cnexp,
    "euler": _by_euler,
    "derivimplicit": _by_derivimplicit,
}


def _old(run: Run, states: tuple[str, ...]) -> dict[str, Node]:
    return {state: run.given(state) for state in states}


def _step_by_halves(run: Run, scheme: Scheme) -> None:
    """Step as NEURON does at either order: by dt, or by dt/2 and as far again along the same way."""
    graph = run.graph
    used = [*scheme.rates.values(), *scheme.losses.values(), *scheme.gains.values()]
    if "dt" in graph.inputs(used):
        raise run.syntax.refuse("the variable dt in a block that is not solved with METHOD cnexp")
    dt, second, old = graph.input("dt"), graph.input("second"), _old(run, scheme.states)
    shorter = graph.apply("-", graph.const(1.0), graph.apply("*", second, graph.const(0.5)))
    reached = kinetic.step(graph, scheme, old, graph.apply("*", dt, shorter))
    for state, node in reached.items():
        further = graph.apply("*", second, graph.apply("-", node, old[state]))
        run.write(state, graph.apply("+", node, further))


def _equation(run: Run, inner: list[Tree]) -> tuple[str, Tree]:
    """Return the state that an equation is of, and the expression of its rate."""
    target, _, expression = parts(inner[0])
    name, primed = text(target), parts(target)[0]
    if kind(primed) != "PrimeName" or text(parts(primed)[1]) != "1" or name not in run.syntax.states:
        raise run.syntax.refuse(f"the equation of {name}, which is not {name}' of a STATE that is no array")
    return name, expression


def _linear(run: Run, name: str, rate: Node, states: list[Node]) -> tuple[dict[Node, Node], Node]:
    """Return the slopes of a rate over states that it is linear in, and what is left without them."""
    graph = run.graph
    called = {node: graph.terms[node][1] for node in states}
    try:
        slopes = {node: graph.derivative(rate, called[node]) for node in states}
    except NotDifferentiable as error:
        raise run.syntax.refuse(f"the equation of {name} ({error})") from error
    choices = [graph.terms[n][1] for n in graph.order([rate]) if graph.terms[n][0] == "select"]
    if graph.inputs([*slopes.values(), *choices]) & {*called.values()}:
        raise run.syntax.refuse(f"the equation of {name}, which is not linear")
    return slopes, graph.replace(rate, {one: graph.const(0.0) for one in called.values()})


def _reactions(run: Run, name: str) -> Scheme:
    """Carry out a KINETIC block and return its scheme."""
    reactions = _Reactions(Scheme(()))
    run.carry_out(run.syntax.schemes[name], reactions)
    scheme = reactions.scheme
    for states, _ in scheme.totals:
        inside = {state for state in states if state in scheme.states}
        crossing = any((to in inside) != (start in inside) for to, start in scheme.rates)
        if len(inside) < len(states) or crossing or inside & {*scheme.losses, *scheme.gains}:
            raise run.syntax.refuse(f"a CONSERVE statement in {name} that its reactions do not keep")
    counted = [state for states, _ in scheme.totals for state in states]
    if len(counted) > len({*counted}):
        raise run.syntax.refuse(f"CONSERVE statements in {name} that name a state twice")
    return scheme


@dataclass
class _Reactions:
    """The reactions of a KINETIC block: linear ones, of one state to another."""

    scheme: Scheme

    def take(self, run: Run, what: str, inner: list[Tree]) -> bool:
        if what == "Conserve":
            names = tuple(self._names(run, inner[0]))
            self.scheme.totals.append((names, run.value(inner[1])))
        elif what == "ReactionStatement":
            self._react(run, inner)
        else:
            return False
        return True

    def _react(self, run: Run, inner: list[Tree]) -> None:
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
            raise run.syntax.refuse(f"reactions with {arrow}")

    def _flow(self, run: Run, start: str | None, end: str | None, rate: Node) -> None:
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

    def _rate(self, run: Run, expression: Tree) -> Node:
        rate = run.value(expression)
        own = {run.graph.terms[run.given(state)][1] for state in run.syntax.states}
        if run.graph.inputs([rate]) & own:
            raise run.syntax.refuse("a reaction whose rate depends on states")
        return rate

    def _side(self, run: Run, side: Tree) -> tuple[str | None, Node]:
        """Return the state on one side of a reaction, if any, and the product of what is no state."""
        state, factor = None, run.graph.const(1.0)
        for name in self._names(run, side):
            if name not in run.syntax.states:
                factor = run.graph.apply("*", factor, run.read(name))
            elif state is not None:
                raise run.syntax.refuse(f"the reaction of {state} with {name}, which is not linear")
            else:
                state = name
        if state is not None and state not in self.scheme.states:
            self.scheme.states += (state,)
        return state, factor

    def _names(self, run: Run, side: Tree) -> list[str]:
        if kind(side) == "BinaryExpression" and text(parts(side)[1]) == "+":
            left, _, right = parts(side)
            return [*self._names(run, left), *self._names(run, right)]
        if kind(side) != "ReactVarName" or kind(parts(side)[0]) != "VarName":
            raise run.syntax.refuse("a reaction with more than one of a state")
        if kind(parts(parts(side)[0])[0]) != "Name":
            raise run.syntax.refuse(f"the array {text(side)}")
        return [text(side)]
