"""Small made-up morphologies in SWC."""

import os
import signal


def cable(first: int, parent: int, kind: int, start, step, radii) -> list[str]:
    """Return SWC lines of an unbranched run of points, one for each radius."""
    lines, place = [], list(start)
    for offset, radius in enumerate(radii):
        x, y, z = place
        before = parent if offset == 0 else first + offset - 1
        lines.append(f"{first + offset} {kind} {x:g} {y:g} {z:g} {radius:g} {before}")
        place = [a + b for a, b in zip(place, step, strict=True)]
    return lines


SOMA = ["1 1 0 0 0 8 -1"]
DENDRITE = cable(2, 1, 3, (0, -8, 0), (0, -30, 0), [1.0, 0.8, 0.7, 0.6, 0.5])
APICAL = cable(7, 1, 4, (0, 8, 0), (5, 50, 0), [1.8, 1.5, 1.2, 1.0, 0.8, 0.6])
AXON = [
    *cable(13, 1, 2, (8, 0, 0), (24, 0, 0), [0.9, 0.7, 0.5, 0.4]),
    *cable(17, 16, 2, (92, 10, 0), (20, 10, 0), [0.4, 0.35, 0.3]),
    *cable(20, 16, 2, (92, -10, 0), (20, -10, 0), [0.3, 0.25, 0.2]),
]

NO_APICAL_SWC = "\n".join([*SOMA, *DENDRITE]) + "\n"
FULL_SWC = "# made up\n" + "\n".join([*SOMA, *DENDRITE, *APICAL]) + "\n"
AXON_SWC = "\n".join([*SOMA, *DENDRITE, *APICAL, *AXON]) + "\n"


def crashing_reader(request, limit_s):
    """Read as the check of morphologies does, but crash over the second cell, and over the third's own file."""
    from neurofleet.neurosim.cells import morphology_check

    usual = morphology_check._import

    def crash(h, name):
        if name.startswith("1-") or name == "2-0.asc":
            os.kill(os.getpid(), signal.SIGSEGV)
        return usual(h, name)

    morphology_check._import = crash
    yield from morphology_check._read_files(request, limit_s)
