"""Distance-dependent distributions of a parameter, from the user's expression to BluePyOpt's notation."""

import ast
import re

from neurosim.errors import InputError

UNIFORM = "uniform"
_FUNCTIONS = ("exp", "log", "log10", "sqrt", "sin", "cos")
_ARITHMETIC = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Load,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.Div,
    ast.USub,
)


def bluepyopt_distribution(expression: str) -> str:
    """Return an expression in ``distance`` and ``value`` in the notation of BluePyOpt's distance scaler.

    BluePyOpt evaluates the result as Python and writes it into hoc: only what is arithmetic in both may pass.

    Parameters
    ----------
    expression : str
        Numbers, ``value`` (the parameter), ``distance`` (um from the middle of the soma), + - * /,
        parentheses and the functions exp, log, log10, sqrt, sin, cos. BluePyOpt's braces and ``math.`` are
        allowed.

    Raises
    ------
    InputError
        The expression holds anything else, or no ``value``.
    """
    fault = InputError(
        "distribution: expected `uniform` or an expression in `value` and `distance` with + - * / and the "
        f"functions {', '.join(_FUNCTIONS)}, found {expression!r}"
    )
    try:
        tree = ast.parse(re.sub(r"[{}]|\bmath\.", "", expression).strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise fault from error
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    variables = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            allowed = len(node.args) == 1 and not node.keywords
        elif isinstance(node, ast.Name) and id(node) in calls:
            allowed = node.id in _FUNCTIONS
        elif isinstance(node, ast.Name):
            allowed = node.id in ("value", "distance")
            variables.add(node.id)
        elif isinstance(node, ast.Constant):
            allowed = type(node.value) in (int, float)
        else:
            allowed = isinstance(node, _ARITHMETIC)
        if not allowed:
            raise fault
    if "value" not in variables:
        raise fault
    text = re.sub(rf"\b({'|'.join(_FUNCTIONS)})\(", r"math.\1(", ast.unparse(tree))
    return re.sub(r"\b(value|distance)\b", r"{\1}", text)
