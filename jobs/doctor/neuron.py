"""Whether NEURON works on this machine, with our ion channels in it."""

import time
from typing import Any


def neuron_facts() -> dict[str, Any]:
    """Load every mechanism, compiling what is not compiled yet, and initialise a section that holds it.

    Returns
    -------
    dict
        NEURON's ``version``, the number of ``mechanisms`` that came up, and the ``seconds`` it took.

    Raises
    ------
    InputError
        The mechanisms cannot be compiled or loaded.
    """
    from neurosim.mechanisms import MECHANISMS, load_mechanisms

    started = time.monotonic()
    load_mechanisms()
    import neuron

    section = neuron.h.Section(name="soma")
    for name in MECHANISMS:
        section.insert(name)
    neuron.h.finitialize(-65.0)
    inserted = {mechanism.name() for mechanism in section(0.5)}
    missing = set(MECHANISMS) - inserted
    if missing:
        raise RuntimeError(f"NEURON took the mechanisms {', '.join(sorted(missing))} and does not have them")
    seconds = round(time.monotonic() - started, 1)
    return {"version": neuron.__version__, "mechanisms": len(inserted), "seconds": seconds}
