"""Run the exported cell in BMTK's BioNet: ``python run_bionet.py`` in this folder."""

import os
from pathlib import Path

from bmtk.simulator import bionet
from bmtk.simulator.bionet.pyfunction_cache import add_cell_processor
from distributions import DISTRIBUTIONS
from neuron import h

SEGMENT_LENGTH_UM = 40.0
HERE = Path(__file__).resolve().parent


def full_axon(hobj, cell, dynamics_params):
    """Keep the reconstructed axon."""
    return _with_parameters(hobj, dynamics_params)


def stub_axon(hobj, cell, dynamics_params):
    """Replace the axon by two sections of 30 um that are 1 um thick."""
    return _with_parameters(_with_stub(hobj, 1.0, 1.0), dynamics_params)


def legacy_stub_axon(hobj, cell, dynamics_params):
    """The same, as thick as the first and the last reconstructed axon section on average (aibs_allactive)."""
    diameters = [section.diam for section in hobj.axonal] or [1.0]  # of sections with one segment yet
    return _with_parameters(_with_stub(hobj, diameters[0], diameters[-1]), dynamics_params)


def legacy_stub_60um_axon(hobj, cell, dynamics_params):
    """The same, as thick in the middle as the first and as the first one beyond 60 um from the soma."""
    _set_segments(hobj)
    axon = list(hobj.axonal)
    first = axon[0].diam if axon else 1.0
    middle = hobj.soma[0](0.5)
    far = (section.diam for section in axon if h.distance(middle, section(0.5)) > 60)
    return _with_parameters(_with_stub(hobj, first, next(far, first)), dynamics_params)


def _with_stub(hobj, *diameters):
    for section in list(hobj.axonal):
        h.delete_section(sec=section)
    h.execute("create axon[2]", hobj)
    for section, diameter in zip(hobj.axon, diameters, strict=True):
        section.L, section.diam, section.nseg = 30, diameter, 1
        hobj.axonal.append(sec=section)
        hobj.all.append(sec=section)
    hobj.axon[0].connect(hobj.soma[0], 1.0, 0)
    hobj.axon[1].connect(hobj.axon[0], 1.0, 0)
    return hobj


def _set_segments(hobj):
    for section in hobj.all:
        section.nseg = 1 + 2 * int(section.L / SEGMENT_LENGTH_UM)


def _with_parameters(hobj, fit):
    """Set the parameters of an Allen fit file, and those that depend on the distance from the soma."""
    _set_segments(hobj)
    kinds = {"soma": hobj.somatic, "axon": hobj.axonal, "dend": hobj.basal, "apic": hobj.apical}
    sections = {kind: list(part) for kind, part in kinds.items()}
    for section in hobj.all:
        section.insert("pas")
    for gene in fit["genome"]:
        name, value, mechanism = gene["name"], float(gene["value"]), gene["mechanism"]
        distribution = DISTRIBUTIONS.get(f"{name}.{gene['section']}")
        for section in sections[gene["section"]]:
            if mechanism:
                section.insert(mechanism)
            setattr(section, name, value)
            if distribution is not None:
                middle = hobj.soma[0](0.5)
                for segment in section:
                    setattr(segment, name, distribution(h.distance(middle, segment), value))
    for reversal in fit["conditions"][0]["erev"]:
        for section in sections[reversal["section"]]:
            for name in reversal:
                if name != "section" and h.ismembrane(f"{name[1:]}_ion", sec=section):
                    setattr(section, name, reversal[name])
    return hobj


def main():
    """Run simulation_config.json."""
    os.chdir(HERE)
    for processing in (full_axon, stub_axon, legacy_stub_axon, legacy_stub_60um_axon):
        add_cell_processor(processing)
    if not list(Path("components/mechanisms").glob("*/*nrnmech*")):
        raise SystemExit("Compile the ion channels first: cd components/mechanisms && nrnivmodl modfiles")
    configuration = bionet.Config.from_json("simulation_config.json")
    configuration.build_env()
    network = bionet.BioNetwork.from_config(configuration)
    bionet.BioSimulator.from_config(configuration, network=network).run()


if __name__ == "__main__":
    main()
