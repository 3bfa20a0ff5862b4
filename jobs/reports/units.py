"""Names and units of parameters and e-features, as tables and pictures show them."""

from neurofleet.neurosim.features.perisomatic_features import UNITS

_UNITS = {"cm": "µF/cm²", "Ra": "Ω cm", "decay": "ms"}
_UNITS |= dict.fromkeys(("e_pas", "ehcn", "ek", "ena", "eca", "v_init"), "mV")
_CONDUCTANCES = ("gbar", "g_pas")


def split_objective(objective: str) -> tuple[str, str]:
    """Return protocol and e-feature of an objective; only places other than the soma are named."""
    place, _, feature = objective.rpartition(".")
    return place.removesuffix(".soma"), feature


def parameter_unit(name: str) -> str:
    """Return the unit of a parameter of ours (`gbar_NaTa_t.axon`), nothing where none is known."""
    base = name.split(".")[0]
    if base.startswith(_CONDUCTANCES):
        return "S/cm²"
    return _UNITS.get(base) or _UNITS.get(base.split("_")[0], "")


def feature_unit(feature: str) -> str:
    """Return the unit of an e-feature, nothing where it has none."""
    from efel.units import get_unit

    if feature in UNITS:
        return UNITS[feature]
    try:
        unit = get_unit(feature)
    except KeyError:
        return ""
    return "" if unit == "constant" else unit
