"""Units and sentences of the report."""

from collections.abc import Mapping, Sequence

from jobs.results.bounds import LOWER, Bounds, OnBound
from neurosim.fit_model import MAX_SCORE

_UNITS = {"cm": "µF/cm²", "Ra": "Ω cm", "e_pas": "mV", "decay": "ms"}
_CONDUCTANCES = ("gbar", "g_pas")


def parameter_unit(name: str) -> str:
    """Return the unit of a parameter of ours (`gbar_NaTa_t.axon`), nothing where none is known."""
    base = name.split(".")[0]
    if base.startswith(_CONDUCTANCES):
        return "S/cm²"
    return _UNITS.get(base) or _UNITS.get(base.split("_")[0], "")


def feature_unit(feature: str) -> str:
    """Return the unit of an e-feature, nothing where it has none."""
    from efel.units import get_unit

    try:
        unit = get_unit(feature)
    except KeyError:
        return ""
    return "" if unit == "constant" else unit


def split_objective(objective: str) -> tuple[str, str]:
    """Return protocol and e-feature of an objective; only places other than the soma are named."""
    place, _, feature = objective.rpartition(".")
    return place.removesuffix(".soma"), feature


def scores_sentence(scores: Mapping[str, float]) -> str:
    """Say how close the best model is to its targets."""
    values = list(scores.values())
    missing = sum(score >= MAX_SCORE for score in values)
    close, near = (sum(score <= limit for score in values) for limit in (1, 3))
    worst = max(scores, key=lambda name: scores[name])
    mean = score_text(sum(values) / len(values))
    text = (
        f"The best model lies {mean} standard deviations from its {len(values)} "
        f"targets on average: {close} within 1, {near} within 3."
    )
    if missing:
        return f"{text} {missing} {'is' if missing == 1 else 'are'} as far off as a score can be."
    return f"{text} Farthest off: {worst} ({score_text(scores[worst])})."


def score_text(score: float) -> str:
    """Return a score with two digits, and never as a power of ten."""
    return f"{score:.2g}" if score < 100 else f"{score:.0f}"


def bounds_sentences(hits: Sequence[OnBound], bounds: Bounds, full_bounds: Bounds) -> list[str]:
    """Say which parameters sit on a bound, in no less than a quarter of the models, and what that means."""
    off, handed_over, recipe = [], [], []
    common = [hit for hit in hits if hit.models * 4 >= hit.of]
    for hit in common:
        side = 0 if hit.side == LOWER else 1
        full = full_bounds.get(hit.parameter)
        if full is not None and bounds[hit.parameter][side] != full[side]:
            handed_over.append(hit)
        elif hit.side == LOWER and hit.parameter.startswith("gbar_"):
            off.append(hit)
        else:
            recipe.append(hit)
    sentences = (
        (recipe, "On a bound: {}. A wider bound may fit better."),
        (
            handed_over,
            "At the end of the range around the winner of the stage before: {}. The stages disagree there.",
        ),
        (off, "At the lower bound, the channel as good as switched off: {}."),
    )
    found = [sentence.format(", ".join(map(str, hits))) for hits, sentence in sentences if hits]
    if not common:
        found.append("No parameter sits on a bound.")
    if rare := [hit.parameter for hit in hits if hit not in common]:
        found.append(f"In single models only: {', '.join(dict.fromkeys(rare))}.")
    return found


def listed(words: Sequence[str]) -> str:
    """Return words with commas and an "and"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
