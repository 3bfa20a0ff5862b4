"""Write the C++ of a kernel around the solver in ``kernel.hpp``, compile it for this machine and keep it by content."""

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurofleet.cache import cache_folder, keep_small, locked, used
from neurofleet.errors import InputError
from neurofleet.neurosim.vector.arithmetic_graph import COMPARISONS, FUNCTIONS, Graph, Node
from neurofleet.neurosim.vector.membrane import (
    LARGEST_EXPONENT,
    REACH_MV,
    CompartmentKind,
    Density,
    Membrane,
    join,
    straight,
)
from neurofleet.scratch import scratch_folder

_EXPORT = 'extern "C" __attribute__((visibility("default")))'
PARTS = tuple(Path(__file__).with_name(name) for name in ("maths.hpp", "kernel.hpp"))


@dataclass(frozen=True)
class KernelPlan:
    """What the kernel and its tables have to agree on: the kinds of compartments, in order."""

    membranes: tuple[Membrane, ...]

    @classmethod
    def from_densities(
        cls, densities: Sequence[Density], kinds: Sequence[CompartmentKind], nernst_mV: Mapping[str, float]
    ) -> "KernelPlan":
        """Return the plan of compartments of some kinds, of which `densities` are the mechanisms."""
        ordered = sorted(densities, key=lambda density: not density.writes_concentration())
        return cls(tuple(join(kind, [d for d in ordered if d.name in kind.mechanisms], nernst_mV) for kind in kinds))


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
    expressions = {name: _row(membrane, name) for name in membrane.constants()}
    expressions |= {"v": "b.v[n]", "dt": "dt", "second": "M::splat(second)", "dv": "b.dv[n] * second"}
    for k, name in enumerate(membrane.stored):
        expressions[name] = f"g.stored[i * {len(membrane.stored)} + {k}]"
    return expressions


def _loop(
    number: int,
    membrane: Membrane,
    places: Mapping[str, str],
    results: Mapping[str, Node],
    first: Sequence[str] = (),
) -> str:
    graph = membrane.graph
    lines = list(first)
    inverted: set[Node] = set()  # a division costs ten multiplications, so each divisor is inverted once
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
        steepness = graph.value(slope)
        if straight(graph, line) is not None and steepness is not None:
            if abs(steepness) * REACH_MV < LARGEST_EXPONENT:
                return f"M::exp_of({_name(graph, line)}, {steepness!r})"
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


# Not -ffast-math: it assumes that there is no NaN, and NaN shows that an individual ran away.
FLAGS = (
    "-std=c++17 -O3 -march=native -fno-math-errno -fno-trapping-math -fno-signed-zeros "
    "-fvisibility=hidden -fPIC -shared -w"
).split()


@functools.cache
def _machine() -> str:
    """Return what -march=native depends on: the processor's model and its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(dict.fromkeys(line for line in lines if line.startswith(("flags", "Features", "model name"))))


def _compiler() -> str:
    names = os.environ.get("CXX", "").split()[:1] or ["g++", "clang++", "c++"]
    compiler = next((path for name in names if (path := shutil.which(name))), None)
    if compiler is None:
        raise InputError(
            f"The vector engine compiles its kernel on this machine, and there is no C++ compiler "
            f"({' or '.join(names)}) here. Install one (Debian, Ubuntu: `apt-get install g++`; Fedora: `dnf "
            "install gcc-c++`; macOS: `xcode-select --install`), or use the NEURON engine."
        )
    return compiler


def compile_kernel(source: str) -> ctypes.CDLL:
    """Compile C++ text into a library and load it; at once when that was done before on this machine.

    Raises
    ------
    InputError
        There is no compiler, it fails (its output is in the message), or the cache cannot be written.
    """
    compiler = _compiler()
    digest = hashlib.sha256()
    for part in (source, compiler, *FLAGS, _machine()):
        digest.update(part.encode() + b"\0")
    path = cache_folder() / "kernels" / f"{digest.hexdigest()[:20]}.so"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                if not path.is_file():
                    _compile(compiler, source, path)
            keep_small()
        except OSError as error:
            raise InputError(
                f"{path.parent}: expected a folder to keep compiled kernels in, but writing there failed "
                f"({error.strerror or error}). Free some space, or set NEUROFLEET_CACHE to a folder of yours."
            ) from error
    used(path)
    return ctypes.CDLL(str(path))


def _compile(compiler: str, source: str, path: Path) -> None:
    """Compile in a temporary folder and rename the result, so that no process ever loads half a library."""
    with scratch_folder(".compiling", path.parent) as folder:
        (folder / "kernel.cpp").write_text(source)
        result = subprocess.run(
            [compiler, *FLAGS, "-o", "kernel.so", "kernel.cpp"], cwd=folder, capture_output=True, text=True
        )
        if result.returncode != 0:
            raise InputError(
                f"The kernel of the vector engine did not compile ({compiler}, exit code "
                f"{result.returncode}). Use a compiler that knows C++17 and {FLAGS[2]}, or the NEURON "
                f"engine:\n{result.stderr[-2000:].strip()}"
            )
        (folder / "kernel.so").rename(path)
