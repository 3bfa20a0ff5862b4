"""The bounds that one stage of a fit hands to the next: those about its best model."""

from collections.abc import Mapping


def next_stage_bounds(
    bounds: Mapping[str, tuple[float, float]],
    best: Mapping[str, float],
    tolerance: float | None,
    tolerances: Mapping[str, float | None] | None = None,
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """Return the bounds of the next stage after a stage whose best model has the parameters `best`.

    Parameters
    ----------
    bounds : mapping
        Full bounds of every parameter of the next stage.
    best : mapping
        Full parameter name -> value. Parameters that are not in it keep their full bounds.
    tolerance : float or None
        A parameter is searched within value +- tolerance * |value|, clipped to its full bounds. 0 keeps it
        at its value, None gives it its full bounds.
    tolerances : mapping, optional
        Parameter name without its section -> tolerance in place of `tolerance`.

    Returns
    -------
    free : dict
        Full parameter name -> bounds to search in.
    fixed : dict
        Full parameter name -> value of the parameters that are no longer searched.
    """
    free: dict[str, tuple[float, float]] = {}
    fixed: dict[str, float] = {}
    for name, (low, high) in bounds.items():
        value = best.get(name)
        share = (tolerances or {}).get(name.rpartition(".")[0], tolerance)
        if value is None or share is None:
            free[name] = (low, high)
            continue
        narrow = (max(low, value - share * abs(value)), min(high, value + share * abs(value)))
        if narrow[0] < narrow[1]:
            free[name] = narrow
        else:
            fixed[name] = value
    return free, fixed
