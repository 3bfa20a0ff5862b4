"""What work costs, in words."""

from neurofleet.cluster.ray.session import available_cpus
from neurofleet.jobs.progress import duration


def cost_in_words(seconds: float) -> str:
    """Return CPU seconds as core-hours, and as the time that they take on one core and on all of this machine."""
    cpus = available_cpus()
    here = f", {duration(seconds / cpus)} on the {cpus} of this machine if nothing else runs" if cpus > 1 else ""
    return f"{seconds / 3600:.3g} core-hours ({duration(seconds)} on one core{here})"
