"""States that turn into each other at linear rates: one step of all of them, or where they settle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from neurosim.vector.graph import Graph, Node

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


def step(graph: Graph, scheme: Scheme, old: Mapping[str, Node], dt: Node) -> dict[str, Node]:
    """Return the states after a step of backward Euler, the solution x of (1 - dt Q) x = old.

    As in NEURON's ``sparse``, the last state of each total is what the others leave of it, before the step.
    """
    values = dict(old)
    for states, total in scheme.totals:
        others = _sum(graph, [values[s] for s in states[:-1]])
        values[states[-1]] = total if others is None else graph.apply("-", total, others)
    for state, gain in scheme.gains.items():
        values[state] = graph.apply("+", values[state], _scaled(graph, gain, dt))
    rates = {way: _scaled(graph, rate, dt) for way, rate in scheme.rates.items()}
    one = graph.const(1.0)
    leaks = {
        s: graph.apply("+", one, _scaled(graph, scheme.losses[s], dt)) if s in scheme.losses else one
        for s in scheme.states
    }
    removed = _eliminate(graph, scheme.states, rates, leaks)
    for each in removed:
        for to, share in each.shares.items():
            values[to] = graph.apply("+", values[to], graph.apply("*", share, values[each.state]))
    for each in reversed(removed):
        assert each.pivot is not None  # at least its leak
        terms = [graph.apply("*", rate, values[s]) for s, rate in each.feeds.items()]
        found = _sum(graph, [values[each.state], *terms])
        assert found is not None
        values[each.state] = graph.apply("/", found, each.pivot)
    return values


def settle(graph: Graph, scheme: Scheme) -> dict[str, Node]:
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
    for each in reversed(removed):
        if each.pivot is None:
            settled[each.state] = graph.const(1.0)
            continue
        came = _sum(graph, [graph.apply("*", rate, settled[s]) for s, rate in each.feeds.items()])
        settled[each.state] = graph.const(0.0) if came is None else graph.apply("/", came, each.pivot)
    for states, total in scheme.totals:
        if sum(each.pivot is None for each in removed if each.state in states) != 1:
            raise NotUnique("with states that no rates connect, but that one CONSERVE statement counts")
        whole = _sum(graph, [settled[s] for s in states])
        assert whole is not None
        scale = graph.apply("/", total, whole)
        settled |= {s: graph.apply("*", settled[s], scale) for s in states}
    return settled


@dataclass(frozen=True)
class _Removed:
    """A state taken out of a scheme: what of it goes where, what it gets, and all that leaves it.

    No pivot means that nothing leaves it.
    """

    state: str
    shares: Mapping[str, Node]
    feeds: Mapping[str, Node]
    pivot: Node | None


def _eliminate(
    graph: Graph, states: Sequence[str], rates: Rates, leaks: Mapping[str, Node]
) -> list[_Removed]:
    """Take out the states one by one, next the one with the fewest ways through it.

    The ways through a state that is taken out are added to the rates between its neighbours, and a pivot is
    the sum of what leaves the state: with rates that are not negative nothing is subtracted, and rounding
    does no harm in half the precision either (Grassmann, Taksar & Heyman 1985, Oper Res 33:1107).
    """
    left, leaks = list(states), dict(leaks)
    removed = []

    def ways(state: str) -> tuple[bool, int]:
        out = sum(start == state for _, start in rates)
        return out == 0, out * sum(end == state for end, _ in rates)

    while left:
        state = min(left, key=ways)
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
    """Return rate times dt; rates that differ by a number only share the product."""
    kind, *rest = graph.terms[rate]
    if kind == "*" and graph.value(rest[1]) is not None:
        return graph.apply("*", graph.apply("*", rest[0], dt), rest[1])
    return graph.apply("*", rate, dt)
