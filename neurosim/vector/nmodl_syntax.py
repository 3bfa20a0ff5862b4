"""Read NMODL through NEURON's own compiler: its syntax tree, reduced to what a kernel is made of."""

import functools
import json
import math
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from neurofleet.errors import InputError
from neurofleet.neurosim.mechanisms.catalogue import (
    PROJECT_SOURCES,
    describe,
    read_with_includes,
    without_comments,
)
from neurofleet.scratch import scratch_folder


class Unsupported(InputError):
    """A mechanism, something in it, or a cell that the vector engine does not support.

    Raised while a kernel is made, before anything is simulated: for a mechanism by this module, `nmodl_statements`,
    `state_equations` and `membrane`, for the shape of a cell by `kernel_setup`, for its size by `vector_evaluator`.
    With ``engine: auto`` a job then uses NEURON (`neurofleet.jobs.fit.engine_choice`), with ``engine: vector`` it ends.
    """


SyntaxTree = dict[str, Any]
BUILT_IN = {"pas": "passive.mod", "hh": "hh.mod"}
# The project's mechanisms that contain VERBATIM text, which NEURON needs, written without it.
PLAIN_SOURCES = tuple(sorted(Path(__file__).with_name("mod").glob("*.mod")))
# The values that NEURON itself uses.
_FARADAY, _GAS = 96485.3321233100184, 8.3144626181532395
_BOLTZMANN, _ELEMENTARY_CHARGE = 1.380649e-23, 1.602176634e-19
UNIT_FACTORS = {
    ("faraday", "coulombs"): _FARADAY,
    ("faraday", "coulomb"): _FARADAY,
    ("faraday", "kilocoulombs"): _FARADAY / 1e3,
    ("faraday", "10000 coulomb"): _FARADAY / 1e4,
    ("k-mole", "joule/degC"): _GAS,
    ("k-mole", "joule/kelvin"): _GAS,
    ("k", "joule/degC"): _BOLTZMANN,
    ("k", "joule/kelvin"): _BOLTZMANN,
    ("e", "coulomb"): _ELEMENTARY_CHARGE,
    ("e", "coulombs"): _ELEMENTARY_CHARGE,
    ("pi", "1"): math.pi,
}


@dataclass
class Syntax:
    """The blocks and declarations of a density mechanism.

    Attributes
    ----------
    name : str
    parameters : dict
        Name -> default value.
    constants : dict
        Unit factors, CONSTANTs and DEFINEs, name -> value.
    ranges : set of str
    states : tuple of str
    nonspecific : tuple of str
        Nonspecific currents.
    ions : dict
        Ion -> (names read, names written).
    conductances : dict
        Ion, or ``""`` for none, -> variable of a CONDUCTANCE hint.
    blocks : dict
        ``INITIAL`` and ``BREAKPOINT`` -> statements.
    derivatives, schemes, systems : dict
        Name of a DERIVATIVE, KINETIC or LINEAR block -> statements.
    procedures : dict
        Name of a PROCEDURE or FUNCTION -> (arguments, statements).
    """

    name: str
    parameters: dict[str, float] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)
    ranges: set[str] = field(default_factory=set)
    states: tuple[str, ...] = ()
    nonspecific: tuple[str, ...] = ()
    ions: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)
    conductances: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, list[SyntaxTree]] = field(default_factory=dict)
    derivatives: dict[str, list[SyntaxTree]] = field(default_factory=dict)
    schemes: dict[str, list[SyntaxTree]] = field(default_factory=dict)
    systems: dict[str, list[SyntaxTree]] = field(default_factory=dict)
    procedures: dict[str, tuple[tuple[str, ...], list[SyntaxTree]]] = field(default_factory=dict)

    @functools.cached_property
    def assigned(self) -> set[str]:
        """The names that statements give a value to, locals included."""
        blocks = (self.blocks, self.derivatives, self.schemes, self.systems)
        statements = [s for named in blocks for block in named.values() for s in block]
        statements += [s for _, body in self.procedures.values() for s in body]
        assignments = (e for s in statements for e in find(s, "BinaryExpression"))
        return {text(parts(e)[0]) for e in assignments if text(parts(e)[1]) == "="}

    def number(self, literal: SyntaxTree) -> float:
        """Return the value of a literal."""
        value = float(text(literal))
        if not math.isfinite(value):
            raise self.unsupported(f"the number {text(literal)}")
        return value

    def unsupported(self, what: str) -> Unsupported:
        """Return the error that names this mechanism and what the engine does not support in it."""
        return Unsupported(
            f"mechanism {self.name}: the vector engine does not support {what}. Use the NEURON engine for "
            "cells that have it."
        )


def read_syntax(names: Sequence[str], sources: Sequence[Path] = ()) -> dict[str, Syntax]:
    """Read mechanisms by name.

    Parameters
    ----------
    names : sequence of str
    sources : sequence of Path
        NMODL files of the user's own, beside the mechanisms of the project and those built into NEURON.

    Raises
    ------
    Unsupported
        A mechanism without a known source, or with something that the engine does not support; it is named.
    InputError
        A source is not there, or is no density mechanism; or NEURON comes without its NMODL compiler.
    """
    data = _neuron_data()
    paths = {path.stem: path for path in (*PROJECT_SOURCES, *PLAIN_SOURCES)}
    paths |= {name: data / "share" / "modfile" / file for name, file in BUILT_IN.items()}
    paths |= dict(zip(describe(sources), sources, strict=True))
    unknown = sorted(set(names) - paths.keys())
    if unknown:
        raise Unsupported(
            f"the vector engine has no NMODL source of {', '.join(unknown)}. Use the NEURON engine for cells "
            "that have it."
        )
    return {name: read_tree(*_parsed(data, name, paths[name])) for name in names}


def _neuron_data() -> Path:
    spec = find_spec("neuron")
    if spec is None or spec.origin is None:
        raise InputError("NEURON is not installed in this Python. Install it with `pip install neuron`.")
    return Path(spec.origin).parent / ".data"


def _parsed(data: Path, mechanism: str, source: Path) -> tuple[SyntaxTree, str]:
    """Return the syntax tree of an NMODL file, and its text."""
    compiler = data / "bin" / "nmodl"
    if not compiler.is_file():
        raise InputError(
            f"{compiler}: expected the NMODL compiler of NEURON, found none. Install NEURON from its wheel "
            "(`pip install --force-reinstall neuron`)."
        )
    nmodl = read_with_includes(source).whole
    with scratch_folder() as folder:
        (folder / f"{mechanism}.mod").write_text(nmodl)
        result = subprocess.run(
            # Without --force it stops at whatever its own C++ back end does not support.
            [str(compiler), "--scratch", str(folder), "--output", str(folder), f"{mechanism}.mod"]
            + ["passes", "--json-ast", "codegen", "--force"],
            cwd=folder,
            env={**os.environ, "NMODLHOME": str(data)},
            capture_output=True,
            text=True,
        )
        # The exit code does not count: the tree is written first, and for KINETIC blocks it then fails, as the
        # solver that it would use is not installed.
        tree = folder / f"{mechanism}.ast.json"
        if not tree.is_file():
            raise Unsupported(
                f"{source}: the vector engine reads mechanisms with NEURON's nmodl compiler, which could not "
                f"read this one (exit code {result.returncode}). Fix the file, or use the NEURON engine for "
                f"cells that have it:\n{(result.stdout + result.stderr)[-2000:].strip()}"
            )
        return json.loads(tree.read_text()), nmodl


def kind(tree: SyntaxTree) -> str:
    """Return the type of a syntax node."""
    return next(iter(tree))


def parts(tree: SyntaxTree) -> list[SyntaxTree]:
    """Return what a syntax node consists of."""
    return next(iter(tree.values()))


def text(tree: SyntaxTree) -> str:
    """Return the first word in a syntax node."""
    while True:
        content = next(iter(tree.values()))
        if isinstance(content, str):
            return content
        tree = content[0]


def find(tree: SyntaxTree, what: str) -> Iterator[SyntaxTree]:
    """Yield the nodes of a kind, in the order of the text."""
    if kind(tree) == what:
        yield tree
    if isinstance(inner := next(iter(tree.values())), list):
        for part in inner:
            yield from find(part, what)


_IGNORED = {
    "Model",
    "BlockComment",
    "LineComment",
    "AssignedBlock",
    "IndependentBlock",
    "UnitState",
    "LocalListStatement",
}
_EQUATIONS = {"DerivativeBlock": "derivatives", "KineticBlock": "schemes", "LinearBlock": "systems"}
_WORDS = {
    "BbcorePointer": "BBCOREPOINTER",
    "ElectrodeCurrent": "ELECTRODE_CURRENT",
    "FunctionTableBlock": "FUNCTION_TABLE",
    "NetReceiveBlock": "NET_RECEIVE",
    "NonLinearBlock": "NONLINEAR",
    "RandomVarList": "RANDOM",
}


def read_tree(tree: SyntaxTree, source: str) -> Syntax:
    """Read the syntax tree of one mechanism; its text is needed too, as the tree does not have STEADYSTATE.

    Raises
    ------
    Unsupported
        A block or statement that the engine does not support.
    """
    blocks = parts(tree)
    suffix = next((s for b in blocks if kind(b) == "NeuronBlock" for s in find(b, "Suffix")), None)
    if suffix is None:
        raise Unsupported("the vector engine reads mechanisms with a SUFFIX only, found none.")
    word, name = map(text, parts(suffix))
    syntax = Syntax(name)
    if word != "SUFFIX":
        raise syntax.unsupported(word)
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):  # it becomes part of the C++ text
        raise syntax.unsupported("its name")
    for block in blocks:
        _read_block(syntax, block)
    _mark_steady(syntax, tree, source)
    return syntax


def _mark_steady(syntax: Syntax, tree: SyntaxTree, source: str) -> None:
    """Rename SOLVE blocks with STEADYSTATE to ``SteadyBlock``: the tree does not tell it from ``METHOD``."""
    solves = re.findall(r"\bSOLVE\s+(\w+)(?:\s+(STEADYSTATE)\b)?", without_comments(source))
    blocks = list(find(tree, "SolveBlock"))
    if [name for name, _ in solves] != [text(block) for block in blocks]:
        raise syntax.unsupported("its SOLVE statements")
    for (_, steady), block in zip(solves, blocks, strict=True):
        if steady:
            block["SteadyBlock"] = block.pop("SolveBlock")


def _read_block(syntax: Syntax, block: SyntaxTree) -> None:
    what = kind(block)
    if what == "NeuronBlock":
        _read_declarations(syntax, parts(parts(block)[0]))
    elif what == "ParamBlock":
        for given in parts(block):
            value = [p for p in parts(given) if kind(p) in ("Double", "Integer", "Float")]
            syntax.parameters[text(parts(given)[0])] = syntax.number(value[0]) if value else 0.0
    elif what == "UnitBlock":
        for factor in (p for p in parts(block) if kind(p) == "FactorDef"):
            _read_factor(syntax, parts(factor))
    elif what == "ConstantBlock":
        for given in (parts(p)[0] for p in parts(block)):
            syntax.constants[text(given)] = syntax.number(parts(given)[1])
    elif what == "Define":
        syntax.constants[text(block)] = syntax.number(parts(block)[1])
    elif what == "StateBlock":
        syntax.states = tuple(text(p) for p in parts(block))
    elif what in ("InitialBlock", "BreakpointBlock"):
        statements = parts(parts(block)[0])
        for hint in (s for s in statements if kind(s) == "ConductanceHint"):
            name, *ion = parts(hint)
            syntax.conductances[text(ion[0]) if ion else ""] = text(name)
        syntax.blocks[what.removesuffix("Block").upper()] = statements
    elif what in _EQUATIONS:
        body = next(p for p in parts(block) if kind(p) == "StatementBlock")
        getattr(syntax, _EQUATIONS[what])[text(block)] = parts(body)
    elif what in ("ProcedureBlock", "FunctionBlock"):
        arguments = tuple(text(p) for p in parts(block) if kind(p) == "Argument")
        body = next(p for p in parts(block) if kind(p) == "StatementBlock")
        syntax.procedures[text(block)] = (arguments, parts(body))
    elif what not in _IGNORED:
        raise syntax.unsupported(f"{_WORDS.get(what, what.removesuffix('Block').upper())} blocks")


def _read_declarations(syntax: Syntax, statements: list[SyntaxTree]) -> None:
    for statement in statements:
        what = kind(statement)
        if what == "Range":
            syntax.ranges |= {text(p) for p in parts(statement)}
        elif what == "Nonspecific":
            syntax.nonspecific += tuple(text(p) for p in parts(statement))
        elif what == "Useion":
            read = tuple(text(p) for p in parts(statement) if kind(p) == "ReadIonVar")
            written = tuple(text(p) for p in parts(statement) if kind(p) == "WriteIonVar")
            syntax.ions[text(statement)] = (read, written)
        elif what not in ("name", "Suffix", "Global"):
            raise syntax.unsupported(f"{_WORDS.get(what, what.upper())} in the NEURON block")


def _read_factor(syntax: Syntax, factor: list[SyntaxTree]) -> None:
    name, units = text(factor[0]), tuple(text(p) for p in factor if kind(p) == "Unit")
    value = [p for p in factor if kind(p) in ("Double", "Integer")]
    if value and len(units) == 1:
        syntax.constants[name] = syntax.number(value[0])
    elif units in UNIT_FACTORS:
        syntax.constants[name] = UNIT_FACTORS[units]
    else:
        raise syntax.unsupported(f"the unit factor {name}")
