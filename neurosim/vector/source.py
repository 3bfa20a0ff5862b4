"""The C++ text of a kernel: the arithmetic of each mechanism around the solver of `kernel.hpp`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurosim.vector.density import Density
from neurosim.vector.graph import COMPARISONS, FUNCTIONS, Graph, Node

_EXPORT = 'extern "C" __attribute__((visibility("default")))'
SOLVER = Path(__file__).with_name("kernel.hpp")


@dataclass(frozen=True)
class KernelPlan:
    """What the kernel and the tables that it is given have to agree on.

    Attributes
    ----------
    densities : tuple of Density
        In the order of their groups, those that write a concentration first, as NEURON steps them.
    ions : tuple of str
        Those with a concentration that some mechanism writes, or a current that one reads; the rest of the
        ions have constant reversal potentials and concentrations.
    """

    densities: tuple[Density, ...]
    ions: tuple[str, ...]

    @classmethod
    def of(cls, densities: Sequence[Density]) -> "KernelPlan":
        ordered = sorted(densities, key=lambda density: not density.writes_concentration())
        changing = {name for d in densities for name in d.step if name.startswith(("ci:", "co:"))}
        changing |= {name for d in densities for name in d.inputs() if name.startswith("i:")}
        return cls(tuple(ordered), tuple(sorted({name.partition(":")[2] for name in changing})))

    def rows(self, density: Density) -> tuple[str, ...]:
        """Return the inputs of a mechanism that are rows of the parameter table: they stay constant."""
        constant = (
            name
            for name in sorted(density.inputs())
            if name.startswith("p:")
            or (":" in name and not name.startswith("s:") and name.partition(":")[2] not in self.ions)
        )
        return tuple(constant)


def kernel_source(plan: KernelPlan) -> str:
    """Return the whole C++ text of a kernel."""
    n_stored = ", ".join(str(len(d.stored)) for d in plan.densities) or "0"
    n_rows = ", ".join(str(len(plan.rows(d))) for d in plan.densities) or "0"
    size = max(1, len(plan.densities))
    calls = {
        block: "\n".join(f"    {_struct(d)}<T>::{block}(b{dt});" for d in plan.densities)
        for block, dt in (("initial", ""), ("current", ""), ("step", ", dt"))
    }
    return "\n".join(
        [
            SOLVER.read_text(),
            *(_mechanism(plan, number, density) for number, density in enumerate(plan.densities)),
            "struct Mechanisms {",
            f"  static constexpr int n_ions = {len(plan.ions)}, n_groups = {len(plan.densities)};",
            f"  static constexpr int n_stored[{size}] = {{{n_stored}}};",
            f"  static constexpr int n_rows[{size}] = {{{n_rows}}};",
            "  template <class T, class B> static void initial(B &b) {",
            calls["initial"],
            "  }",
            "  template <class T, class B> static void current(B &b) {",
            calls["current"],
            "  }",
            "  template <class T, class B> static void step(B &b, typename Types<T>::V dt) {",
            calls["step"],
            "  }",
            "};",
            f"{_EXPORT} void run_float32(const Setup *s) {{ run_all<float, Mechanisms>(*s); }}",
            f"{_EXPORT} void run_float64(const Setup *s) {{ run_all<double, Mechanisms>(*s); }}",
            "",
        ]
    )


def _struct(density: Density) -> str:
    return f"Mechanism_{density.name}"


def _mechanism(plan: KernelPlan, number: int, density: Density) -> str:
    places = _places(plan, number, density)
    drawn: dict[str, Node] = {}
    if density.graph.value(density.current) != 0:
        drawn = {"b.rhs[n]": density.current, "b.d[n]": density.conductance}
    for ion, (current, slope) in density.ion_currents.items():
        if ion in plan.ions:
            k = plan.ions.index(ion)
            drawn |= {f"b.current[{k}][n]": current, f"b.slope[{k}][n]": slope}
    return "\n".join(
        [
            f"template <class T> struct {_struct(density)} {{",
            "  typedef Maths<T> M;",
            "  typedef typename M::V V;",
            "  template <class B> static void initial(B &b) {",
            _loop(number, density, places, {places[k]: n for k, n in density.initial.items()}, "="),
            "  }",
            "  template <class B> static void current(B &b) {",
            _loop(number, density, places, drawn, "+="),
            "  }",
            "  template <class B> static void step(B &b, V dt) {",
            _loop(number, density, places, {places[k]: n for k, n in density.step.items()}, "="),
            "  }",
            "};",
        ]
    )


def _places(plan: KernelPlan, number: int, density: Density) -> dict[str, str]:
    """Return input -> where it lies."""
    rows = plan.rows(density)
    places = {"v": "b.v[n]", "dt": "dt"}
    places |= {name: f"b.rows[g.rows[i * {len(rows)} + {k}]]" for k, name in enumerate(rows)}
    for k, name in enumerate(density.stored):
        places[f"s:{name}"] = f"g.stored[i * {len(density.stored)} + {k}]"
    for k, ion in enumerate(plan.ions):
        arrays = (("e", "e"), ("ci", "ci"), ("co", "co"), ("i", "current"))
        places |= {f"{short}:{ion}": f"b.{array}[{k}][n]" for short, array in arrays}
    return places


def _loop(
    number: int, density: Density, places: Mapping[str, str], results: Mapping[str, Node], assign: str
) -> str:
    if not results:
        return "    (void)b;"
    graph = density.graph
    lines = []
    inverted: set[Node] = set()  # a division costs ten multiplications: once for each divisor
    for node in graph.order(results.values()):
        kind, *rest = graph.terms[node]
        if kind == "const" or kind in _CONDITIONS:
            continue
        if kind == "/" and rest[1] not in inverted:
            inverted.add(rest[1])
            lines.append(f"      const V over{rest[1]} = M::over({_name(graph, rest[1])});")
        lines.append(f"      const V x{node} = {_term(graph, node, places)};")
    return "\n".join(
        [
            f"    const auto &g = b.group[{number}];",
            "    for (int i = 0; i < g.size; ++i) {",
            "      const int n = g.nodes[i];",
            "      (void)n;",
            *lines,
            *(f"      {place} {assign} {_name(graph, node)};" for place, node in results.items()),
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
