"""The C++ text of a kernel: the arithmetic of each kind of compartment around the solver of `kernel.hpp`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurosim.vector.density import Density
from neurosim.vector.graph import COMPARISONS, FUNCTIONS, Graph, Node
from neurosim.vector.membrane import LARGEST_EXPONENT, REACH_MV, Kind, Membrane, join, straight

_EXPORT = 'extern "C" __attribute__((visibility("default")))'
PARTS = tuple(Path(__file__).with_name(name) for name in ("maths.hpp", "kernel.hpp"))


@dataclass(frozen=True)
class KernelPlan:
    """What the kernel and its tables have to agree on: the kinds of compartments, in order."""

    membranes: tuple[Membrane, ...]

    @classmethod
    def of(
        cls, densities: Sequence[Density], kinds: Sequence[Kind], nernst_mV: Mapping[str, float]
    ) -> "KernelPlan":
        """Return the plan of compartments of some kinds, of which `densities` are the mechanisms."""
        ordered = sorted(densities, key=lambda density: not density.writes_concentration())
        return cls(
            tuple(join(kind, [d for d in ordered if d.name in kind.mechanisms], nernst_mV) for kind in kinds)
        )


def kernel_source(plan: KernelPlan) -> str:
    """Return the whole C++ text of a kernel."""
    numbers = range(len(plan.membranes))
    n_stored = ", ".join(str(len(m.stored)) for m in plan.membranes)
    n_rows = ", ".join(str(len(m.constants())) for m in plan.membranes)
    calls = {
        block: "\n".join(f"    Membrane{k}<T>::{block}(b{given});" for k in numbers)
        for block, given in (("initial", ""), ("draw", ""), ("advance", ", dt, second"))
    }
    return "\n".join(
        [
            *(part.read_text() for part in PARTS),
            *(_membrane(number, membrane) for number, membrane in enumerate(plan.membranes)),
            "struct Membranes {",
            f"  static constexpr int n_kinds = {len(plan.membranes)};",
            f"  static constexpr int n_stored[] = {{{n_stored}}};",
            f"  static constexpr int n_rows[] = {{{n_rows}}};",
            "  template <class T, class B> static void initial(B &b) {",
            calls["initial"],
            "  }",
            "  template <class T, class B> static void draw(B &b) {",
            calls["draw"],
            "  }",
            "  template <class T, class B> static void advance(B &b, typename Types<T>::V dt, T second) {",
            calls["advance"],
            "  }",
            "};",
            f"{_EXPORT} void run_float32(const Setup *s) {{ run_all<float, Membranes>(*s); }}",
            f"{_EXPORT} void run_float64(const Setup *s) {{ run_all<double, Membranes>(*s); }}",
            "",
        ]
    )


def _membrane(number: int, membrane: Membrane) -> str:
    places = _places(membrane)
    given = [f"      {places[name]} = {_row(membrane, name)};" for name in membrane.given()]
    return "\n".join(
        [
            f"// {', '.join(membrane.kind.mechanisms)}",
            f"template <class T> struct Membrane{number} {{",
            "  typedef Maths<T> M;",
            "  typedef typename M::V V;",
            "  template <class B> static void initial(B &b) {",
            _loop(number, membrane, places, membrane.initial, given),
            "  }",
            "  template <class B> static void draw(B &b) {",
            _loop(number, membrane, places, membrane.drawn),
            "  }",
            "  template <class B> static void advance(B &b, V dt, T second) {",
            _loop(number, membrane, places, membrane.advanced),
            "  }",
            "};",
        ]
    )


def _row(membrane: Membrane, name: str) -> str:
    constants = membrane.constants()
    return f"b.rows[g.rows[i * {len(constants)} + {constants.index(name)}]]"


def _places(membrane: Membrane) -> dict[str, str]:
    """Return input -> where it lies."""
    places = {name: _row(membrane, name) for name in membrane.constants()}
    places |= {"v": "b.v[n]", "dt": "dt", "second": "M::splat(second)", "dv": "b.dv[n] * second"}
    for k, name in enumerate(membrane.stored):
        places[name] = f"g.stored[i * {len(membrane.stored)} + {k}]"
    return places


def _loop(
    number: int,
    membrane: Membrane,
    places: Mapping[str, str],
    results: Mapping[str, Node],
    first: Sequence[str] = (),
) -> str:
    graph = membrane.graph
    lines = list(first)
    inverted: set[Node] = set()  # a division costs ten multiplications: once for each divisor
    for node in graph.order(results.values()):
        kind, *rest = graph.terms[node]
        if kind == "const" or kind in _CONDITIONS:
            continue
        if kind == "/" and rest[1] not in inverted:
            inverted.add(rest[1])
            lines.append(f"      const V over{rest[1]} = M::over({_name(graph, rest[1])});")
        lines.append(f"      const V x{node} = {_term(graph, node, places)};")
    for name, node in results.items():
        value = _name(graph, node)
        if name == "rhs":
            lines.append(f"      b.rhs[n] = -({value}) * b.area[n];")
        elif name == "d":
            lines.append(f"      b.d[n] = {value} * b.area[n] + (b.capacity[n] * b.per_step + b.axial[n]);")
        else:
            lines.append(f"      {places[name]} = {value};")
    return "\n".join(
        [
            f"    const auto &g = b.kind[{number}];",
            "    for (int i = 0; i < g.size; ++i) {",
            "      const int n = g.nodes[i];",
            "      (void)n;",
            *lines,
            "    }",
        ]
    )


_CONDITIONS = {*COMPARISONS, "!"}
_ARITHMETIC = {"+", "-", "*"}


def _name(graph: Graph, node: Node) -> str:
    value = graph.value(node)
    if value is None:
        return f"x{node}"
    return f"M::splat(T({value!r}))" if math.isfinite(value) else 'M::splat(T(__builtin_nan("")))'


def _term(graph: Graph, node: Node, places: Mapping[str, str]) -> str:
    kind, *rest = graph.terms[node]
    if kind == "in":
        return places[rest[0]]
    if kind == "/":
        return f"{_name(graph, rest[0])} * over{rest[1]}"
    if kind in _ARITHMETIC:
        return f"{_name(graph, rest[0])} {kind} {_name(graph, rest[1])}"
    if kind == "neg":
        return f"-{_name(graph, rest[0])}"
    if kind == "select":
        condition, a, b = rest
        return f"{_condition(graph, condition)} ? {_name(graph, a)} : {_name(graph, b)}"
    if kind == "exp" and graph.terms[rest[0]][0] == "*":
        line, slope = graph.terms[rest[0]][1:]
        if straight(graph, line) is not None and graph.value(slope) is not None:
            if abs(graph.value(slope)) * REACH_MV < LARGEST_EXPONENT:
                return f"M::exp_of({_name(graph, line)}, {graph.value(slope)!r})"
    if kind in FUNCTIONS or kind in ("pow", "expm1"):
        return f"M::{kind}({', '.join(_name(graph, a) for a in rest)})"
    raise AssertionError(f"no C++ for {kind}")


def _condition(graph: Graph, node: Node) -> str:
    kind, *rest = graph.terms[node]
    if kind == "!":
        return f"(!{_condition(graph, rest[0])})"
    if kind in ("&&", "||"):
        return f"({_condition(graph, rest[0])} {kind[0]} {_condition(graph, rest[1])})"
    if kind in COMPARISONS:
        return f"({_name(graph, rest[0])} {kind} {_name(graph, rest[1])})"
    return f"({_name(graph, node)} != T(0))"
