"""The conductances that are looked at where nobody chooses: those the paper finds to shape spikes."""

from collections.abc import Sequence

from neurosim.errors import InputError
from neurosim.population import conductances

CHANNELS = (
    ("NaTs2_t", "NaTa_t", "NaTs", "NaTa", "NaV"),  # transient sodium, as each recipe calls it
    ("Kv3_1",),
    ("K_Tst", "K_T"),
)
SECTIONS = ("soma", "axon")


def default_conductances(parameters: Sequence[str]) -> tuple[str, ...]:
    """Return transient sodium, Kv3.1 and the transient potassium conductance, in soma and axon.

    Parameters
    ----------
    parameters : sequence of str
        Full names that a model has.

    Raises
    ------
    InputError
        When the model has fewer than two of them.
    """
    found = []
    for section in SECTIONS:
        for channels in CHANNELS:
            named = (f"gbar_{channel}.{section}" for channel in channels)
            found += [name for name in named if name in parameters][:1]
    if len(found) < 2:
        raise InputError(
            "parameters: expected transient sodium, Kv3.1 or K_T in the soma or the axon of the models, "
            f"found {', '.join(found) or 'none'}. Name the wanted ones; the models have "
            f"{', '.join(conductances(parameters) or parameters)}."
        )
    return tuple(found)
