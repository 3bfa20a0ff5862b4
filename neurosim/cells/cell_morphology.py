"""The morphology as BluePyOpt builds it: read from file, cut into segments, its axon replaced or kept."""

from pathlib import Path

from bluepyopt.ephys.morphologies import NrnFileMorphology

from neurofleet.neurosim.cells.morphology_check import STUB_LENGTH_UM, check_axon_mode

SEGMENT_LENGTH_UM = 40
STUB_SECTIONS = 2
STUB_DIAMETER_UM = 1.0

# Where each mode takes the diameters d1 and d2 of the two stub sections from, when an axon was reconstructed.
_HOC_DIAMETERS = {
    "stub": "",
    "legacy-stub": """
  if (sec_count(axonal) > 0) {
    forsec axonal { nseg = 1 }
    axon[0] { d1 = diam }
    forsec axonal { d2 = diam }
  }""",
    "legacy-stub-60um": """
  if (sec_count(axonal) > 0) {
    axon[0] { d1 = diam  d2 = diam }
    soma[0] { distance(0, 0.5) }
    found = 0
    forsec axonal {
      if (found == 0) {
        if (distance(0.5) > 60) {
          d2 = diam
          found = 1
        }
      }
    }
  }""",
}

_HOC = """
proc replace_axon() { local d1, d2, i, found
  d1 = 1
  d2 = 1%s
  forsec axonal { delete_section() }
  create axon[2]
  for i = 0, 1 axon[i] {
    L = 30
    diam = d1
    nseg = 1
    all.append()
    axonal.append()
  }
  axon[1] { diam = d2 }
  nSecAxonal = 2
  soma[0] connect axon[0](0), 1
  axon[0] connect axon[1](0), 1
}
"""


class CellMorphology(NrnFileMorphology):
    """A morphology file with one of the published treatments of the axon.

    All sections first get 1 + 2 floor(L/40 um) segments. Then, but for ``full``, the axon is replaced by two
    sections of 30 um with one segment, the first at the end of the soma:

    ``stub``
        1 um thick (the 2022 all-active models).
    ``legacy-stub``
        As thick as the first and the last reconstructed axon section on average (older all-active models as
        BMTK runs them).
    ``legacy-stub-60um``
        As thick in the middle as the first, and the first one beyond 60 um from the soma (the Allen SDK,
        BluePyOpt).
    ``full``
        The reconstructed axon is kept.

    Without a reconstructed axon every stub is 1 um thick. BluePyOpt's `create_hoc` writes the same treatment.

    Parameters
    ----------
    morphology_path : Path or str
        An SWC or ASC file that `check_morphology` accepts.
    axon : {"stub", "legacy-stub", "legacy-stub-60um", "full"}
    """

    def __init__(self, morphology_path: Path | str, axon: str = "stub") -> None:
        check_axon_mode(axon)
        self.axon = axon
        super().__init__(
            str(morphology_path),
            do_replace_axon=axon != "full",
            do_set_nseg=True,
            nseg_frequency=SEGMENT_LENGTH_UM,
            replace_axon_hoc=_HOC % _HOC_DIAMETERS[axon] if axon != "full" else None,
        )

    def replace_axon(self, sim=None, icell=None, **_lengths) -> None:
        """Replace the axon of `icell` by the stub of this mode."""
        h = sim.neuron.h
        diameters = self._stub_diameters(h, icell)
        for section in icell.axonal:
            h.delete_section(sec=section)
        h.execute(f"create axon[{STUB_SECTIONS}]", icell)
        for section, diameter in zip(icell.axon, diameters, strict=True):
            section.L = STUB_LENGTH_UM / STUB_SECTIONS
            section.diam = diameter
            section.nseg = 1
            icell.axonal.append(sec=section)
            icell.all.append(sec=section)
        icell.axon[0].connect(icell.soma[0], 1.0, 0.0)
        icell.axon[1].connect(icell.axon[0], 1.0, 0.0)

    def _stub_diameters(self, h, icell) -> tuple[float, float]:
        axon = list(icell.axonal)
        if self.axon == "stub" or not axon:
            return STUB_DIAMETER_UM, STUB_DIAMETER_UM
        if self.axon == "legacy-stub":
            for section in axon:
                section.nseg = 1  # `diam` is then the average of the section
            return icell.axon[0].diam, axon[-1].diam
        first = icell.axon[0].diam
        h.distance(0, 0.5, sec=icell.soma[0])
        far = (section.diam for section in axon if h.distance(1, 0.5, sec=section) > STUB_LENGTH_UM)
        return first, next(far, first)
