"""NMODL of random density mechanisms, of the forms that published ones have."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

Rng = np.random.Generator
CURRENTS = ("na", "k", "own", "instant", "calcium", "ghk")
VTRAP = """
FUNCTION vtrap(x, y) {
    if (fabs(x/y) < 1e-6) {
        vtrap = y*(1 - x/y/2)
    } else {
        vtrap = x/(exp(x/y) - 1)
    }
}
"""
GHK = """
FUNCTION ghk(v (mV), inside, outside) { LOCAL z
    z = 2*v/RT
    ghk = 2*FARADAY*(inside*efun(-z) - outside*efun(z))*1e-6
}

FUNCTION efun(z) {
    if (fabs(z) < 1e-4) {
        efun = 1 - z/2
    } else {
        efun = z/(exp(z) - 1)
    }
}
"""


@dataclass(frozen=True)
class Gates:
    """The part of a mechanism that opens and closes.

    Attributes
    ----------
    states : str
        Inside of STATE.
    rates : str
        Inside of the procedure that gives the variables below their values.
    assigned : tuple of str
    initial, solve, block : str
        Statements of INITIAL, the SOLVE statement, and the block it solves.
    opened : str
        The open fraction, as an expression.
    functions, parameters : str
    """

    states: str
    rates: str
    assigned: tuple[str, ...]
    initial: str
    solve: str
    block: str
    opened: str
    functions: str = ""
    parameters: str = ""


def number(rng: Rng, low: float, high: float) -> str:
    """Return a number as text, evenly distributed on a logarithmic scale if both ends are positive."""
    if low > 0:
        return f"{np.exp(rng.uniform(np.log(low), np.log(high))):.4g}"
    return f"{rng.uniform(low, high):.4g}"


def rate(rng: Rng, falling: bool) -> str:
    """Return a rate of the voltage, per ms."""
    half, slope = number(rng, -70, -10), number(rng, 6, 25)
    sign, scale = ("-" if falling else ""), number(rng, 0.02, 2)
    forms = (
        f"{scale}*exp({sign}(v - {half} + shift)/{slope})",
        f"{scale}*exp({sign}{number(rng, 0.02, 0.1)}*(v + {number(rng, 20, 60)}))",
        f"{scale}/(1 + exp({'' if falling else '-'}(v - {half})/{slope}))",
        f"{scale}*vtrap({'' if falling else '-'}(v - {half}), {slope})/{slope}",
        f"{scale}*(1 + tanh({sign}(v - {half})/{slope}))",
        f"{scale}*(1 + exp({'' if falling else '-'}(v - {half})/{slope}))^-2",
    )
    return str(rng.choice(forms))


def gate(rng: Rng, name: str, calcium: bool) -> tuple[str, tuple[str, ...], str]:
    """Return statements that set the steady state and time constant of a gate, and their variables."""
    inf, tau = f"{name}inf", f"{name}tau"
    falling = bool(rng.random() < 0.4)
    kinds = ["rates", "rates", "sigmoid", "bell", "pieces", "cosh"]
    kind = rng.choice(["calcium"] if calcium else kinds)
    if kind == "calcium":
        power, half = rng.integers(1, 5), number(rng, 1e-4, 5e-4)
        text = f"{inf} = cai^{power}/(cai^{power} + {half}^{power})\n    {tau} = {number(rng, 0.5, 20)}"
        return text, (inf, tau), ""
    if kind == "rates":
        text = f"{name}a = {rate(rng, falling)}\n    {name}b = {rate(rng, not falling)}\n"
        text += f"    {tau} = 1/({name}a + {name}b + 0.001)/tadj\n"
        return text + f"    {inf} = {name}a/({name}a + {name}b)", (inf, tau, f"{name}a", f"{name}b"), VTRAP
    half, slope = number(rng, -60, -20), number(rng, 4, 15)
    text = f"{inf} = 1/(1 + exp({'' if falling else '-'}(v - {half})/{slope}))\n    "
    low, high = number(rng, 0.3, 3), number(rng, 1, 60)
    if kind == "sigmoid":
        wide = number(rng, 8, 30)
        text += f"{tau} = ({low} + {high}/(exp((v - {half})/{wide}) + exp(({half} - v)/{wide})))/tadj"
    elif kind == "bell":
        text += f"{tau} = ({low} + {high}*exp(-((v + {number(rng, 20, 60)})/{number(rng, 15, 40)})^2))/tadj"
    elif kind == "cosh":
        text += f"{tau} = {low} + {high}/cosh((v - {half})/{number(rng, 15, 40)})/tadj"
    else:
        text += f"if (v < {half}) {{\n        {tau} = {low}\n    }} else if (v > {float(half) + 30}) {{\n"
        text += f"        {tau} = {low} + {high}\n    }} else {{\n"
        text += f"        {tau} = {low} + {high}*(v - {half})/30\n    }}\n    {tau} = {tau}/tadj"
    return text, (inf, tau), ""


def independent_gates(rng: Rng, calcium: bool) -> Gates:
    """Return one to three gates, each with an equation of its own."""
    names = ["m", "h", "n"][: rng.integers(1, 4)]
    made = [gate(rng, name, calcium and name == "m") for name in names]
    method = str(rng.choice(["cnexp", "cnexp", "cnexp", "derivimplicit", "euler", "procedure"]))
    rates = [text for text, _, _ in made]
    if method == "euler":  # an explicit step needs a time constant above its length
        rates += [f"{name}tau = {name}tau + 0.2" for name in names]
    equations = "\n    ".join(
        f"{n}' = ({n}inf - {n})/{n}tau" if rng.random() < 0.7 else f"{n}' = {n}inf/{n}tau - {n}/{n}tau" for n in names
    )
    solve, block = f"SOLVE states METHOD {method}", f"DERIVATIVE states {{\n    rates(v)\n    {equations}\n}}"
    if method == "procedure":
        steps = "\n    ".join(f"{n} = {n} + (1 - exp(-dt/{n}tau))*({n}inf - {n})" for n in names)
        solve, block = "SOLVE states", f"PROCEDURE states() {{\n    rates(v)\n    {steps}\n}}"
    left_out = names[-1] if rng.random() < 0.2 else ""  # its value is then the parameter called n0
    powers = [int(rng.integers(1, 5)) for _ in names]
    return Gates(
        states=" ".join(names),
        rates="\n    ".join(rates),
        assigned=tuple(v for _, variables, _ in made for v in variables),
        initial="\n    ".join(f"{n} = {n}inf" for n in names if n != left_out),
        solve=solve,
        block=block,
        opened="*".join(n if p == 1 else (f"{n}^{p}" if rng.random() < 0.5 else "*".join([n] * p))
                        for n, p in zip(names, powers, strict=True)),
        functions=next((f for _, _, f in made if f), ""),
        parameters=f"{left_out}0 = 0.2" if left_out else "",
    )  # fmt: skip


def coupled(rng: Rng) -> Gates:
    """Return two states whose equations have each other in them."""
    method = rng.choice(["cnexp", "derivimplicit", "derivimplicit"])
    closing = f"c' = closes*o - opens*c - {number(rng, 0.01, 0.1)}*(c - 0.5)"
    return Gates(
        states="c o",
        rates=f"opens = {rate(rng, False)}*tadj\n    closes = {rate(rng, True)}*tadj",
        assigned=("opens", "closes"),
        initial="c = 1\n    o = opens/(opens + closes)",
        solve=f"SOLVE states METHOD {method}",
        block=f"DERIVATIVE states {{\n    rates(v)\n    {closing}\n    o' = opens*c - closes*o\n}}",
        opened="o",
        functions=VTRAP,
    )


def chain(rng: Rng) -> Gates:
    """Return a scheme of two to five states, connected at random."""
    names = [f"s{k}" for k in range(rng.integers(2, 6))]
    ways = [(int(rng.integers(k)), k) for k in range(1, len(names))]
    ways += [(0, len(names) - 1)] if len(names) > 2 and rng.random() < 0.5 else []
    rates, variables, reactions = [], [], []
    for number_of, (a, b) in enumerate(ways):
        forth, back = f"f{number_of}", f"b{number_of}"
        rates += [f"{forth} = {rate(rng, False)}*tadj", f"{back} = {rate(rng, True)}*tadj"]
        variables += [forth, back]
        reactions.append(f"~ {names[a]} <-> {names[b]} ({forth}, {number(rng, 0.5, 2)}*{back})")
    order = [str(name) for name in rng.permutation(names)]
    conserve = f"CONSERVE {' + '.join(order)} = 1"
    kind = rng.choice(["steady", "steady", "conserved", "free"])
    initial = {
        "steady": "SOLVE states STEADYSTATE sparse",
        "conserved": f"{names[0]} = 0.5",  # the first step brings the sum to 1
        "free": "\n    ".join(f"{name} = {1 / len(names)}" for name in names),
    }[str(kind)]
    if kind == "free" and rng.random() < 0.5:
        reactions += [f"~ {names[0]} -> ({number(rng, 0.01, 0.1)})", f"~ {names[0]} << (0.005)"]
    body = "\n    ".join([*reactions, *([] if kind == "free" else [conserve])])
    return Gates(
        states=" ".join(names),
        rates="\n    ".join(rates),
        assigned=tuple(variables),
        initial=initial,
        solve="SOLVE states METHOD sparse",
        block=f"KINETIC states {{\n    rates(v)\n    {body}\n}}",
        opened=names[-1] if rng.random() < 0.7 else f"({names[-1]} + {names[0]}/10)",
        functions=VTRAP,
    )


def mechanism(name: str, seed: int) -> str:
    """Return the NMODL of a mechanism; its numbers and forms are drawn from `seed`."""
    rng = np.random.default_rng(seed)
    current = str(rng.choice(CURRENTS))
    kind = rng.random()
    gates = chain(rng) if kind < 0.3 else coupled(rng) if kind < 0.4 else None
    gates = gates or independent_gates(rng, current == "calcium")
    gbar = number(rng, 5e-5, 5e-4)
    uses = {
        "na": "USEION na READ ena WRITE ina",
        "k": "USEION k READ ek WRITE ik",
        "own": "NONSPECIFIC_CURRENT i",
        "instant": "NONSPECIFIC_CURRENT i",
        "calcium": "USEION ca READ cai\n    USEION k READ ek WRITE ik",
        "ghk": "USEION ca READ cai, cao WRITE ica",
    }[current]
    through = {"na": ("ina", "ena"), "k": ("ik", "ek"), "calcium": ("ik", "ek")}.get(current, ("i", "er"))
    opened = f"g = gbar*{gates.opened}"
    hint = rng.random() < 0.4 and current not in ("instant", "ghk")
    if current == "ghk":
        draw = f"{opened}\n    ica = 0.1*g*ghk(v, cai, cao)"
    elif current == "instant":
        draw = f"{opened}/(1 + exp(-(v + {number(rng, 20, 50)})/{number(rng, 6, 15)}))\n    i = g*(v - er)"
    else:
        draw = f"{opened}\n    {through[0]} = g*(v - {through[1]})"
    ion = {"na": " USEION na", "k": " USEION k", "calcium": " USEION k"}.get(current, "")
    keep = bool(rng.random() < 0.4) and current != "calcium"
    rates = f"if (v != v_kept) {{\n    v_kept = v\n    {gates.rates}\n    }}" if keep else gates.rates
    early = bool(rng.random() < 0.5)
    tadj = f"tadj = {number(rng, 2, 3)}^((celsius - {number(rng, 16, 36)})/10)"
    voltages = "er = -40 (mV)" if through[1] == "er" else ""
    written = "tadj = 1" if early and rng.random() < 0.5 else ""  # a parameter that INITIAL overwrites
    shift = ", shift" if rng.random() < 0.5 else ""
    own = "" if written else "tadj"
    assigned = " ".join(dict.fromkeys([*gates.assigned, own, "v_kept", "dt", "g", "ek", "ena", "cai", "cao",
                                       "ina", "ik", "ica", "i"]))  # fmt: skip
    return f"""TITLE random mechanism {seed}
NEURON {{
    SUFFIX {name}
    {uses}
    RANGE gbar, g{shift}{", er" if voltages else ""}
}}

PARAMETER {{
    gbar = {gbar} (S/cm2)
    shift = {number(rng, -5, 5)} (mV)
    {written}
    {gates.parameters}
    {voltages}
}}

CONSTANT {{
    RT = 25.8 (mV)
}}

UNITS {{
    FARADAY = (faraday) (coulombs)
    (mV) = (millivolt)
    (S) = (siemens)
}}

ASSIGNED {{ v (mV) celsius (degC) {assigned} }}

STATE {{ {gates.states} }}

BREAKPOINT {{
    {f"CONDUCTANCE g{ion}" if hint else ""}
    {gates.solve}
    {draw}
}}

INITIAL {{
    {tadj if early else ""}
    {"v_kept = v + 1" if keep else ""}
    rates(v)
    {gates.initial}
}}

{gates.block}

PROCEDURE rates(v (mV)) {{
    {"" if early else tadj}
    {rates}
}}
{gates.functions}{GHK if current == "ghk" else ""}"""


def write_mechanisms(folder: Path, seeds: list[int]) -> list[Path]:
    """Write a mechanism ``rnd<seed>`` for each seed and return their files."""
    paths = []
    for seed in seeds:
        paths.append(folder / f"rnd{seed}.mod")
        paths[-1].write_text(mechanism(f"rnd{seed}", seed))
    return paths
