"""Read a morphology with NEURON in a process of its own, and say what came of it as JSON.

Run as ``python morphology_reader.py MORPHOLOGY RESULT``. NEURON's reader may print, raise, crash or never
come back on a damaged file; here that costs nothing but this process.
"""

import json
import sys
from collections import Counter


def read(path: str) -> dict:
    """Import `path` and return sections and lengths by name, and what no simulation could use."""
    from neuron import h

    h.load_file("stdlib.hoc")
    h.load_file("import3d.hoc")
    reader = h.Import3d_SWC_read() if path.lower().endswith(".swc") else h.Import3d_Neurolucida3()
    reader.quiet = 1
    reader.input(path)
    h.Import3d_GUI(reader, 0).instantiate(None)
    sections = list(h.allsec())
    lengths: dict[str, float] = {}
    faults = []
    for section in sections:
        name = section.name()
        kind = name.split("[")[0]
        lengths[kind] = lengths.get(kind, 0.0) + section.L
        if section.L < 1e-3:
            faults.append(f"section {name} has no length")
        for i in range(section.n3d()):
            if not section.diam3d(i) > 0:
                place = ", ".join(f"{value(i):g}" for value in (section.x3d, section.y3d, section.z3d))
                faults.append(f"section {name} has the diameter {section.diam3d(i):g} at ({place})")
                break
    kinds = Counter(section.name().split("[")[0] for section in sections)
    roots = [s.name() for s in sections if s.parentseg() is None]
    behind_axon = [
        s.name()
        for s in sections
        if not s.name().startswith("axon") and s.parentseg() is not None and s.parentseg().sec.name().startswith("axon")
    ]
    return {
        "sections": kinds,
        "lengths": lengths,
        "faults": faults,
        "roots": roots,
        "behind_axon": behind_axon,
    }


if __name__ == "__main__":
    morphology, result = sys.argv[1:]
    outcome = read(morphology)
    with open(result, "w") as file:
        json.dump(outcome, file)
