"""Morphologies: every fault by its name, and the four axon modes."""

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells import morphology_check
from neurofleet.neurosim.cells.cell_morphology import CellMorphology
from neurofleet.neurosim.cells.morphology_check import AXON_MODES, check_morphology
from tests.neurosim.cells.small_cells import AXON_SWC, FULL_SWC, NO_APICAL_SWC

ASC = """
; made up
("CellBody" (Color Red) (CellBody)
  (-8 0 0 0.2) (0 8 0 0.2) (8 0 0 0.2) (0 -8 0 0.2)
)
( (Color Blue) (Dendrite)
  (0 -8 0 2.0)
  (0 -40 0 1.5) ; with (a parenthesis
  (
    (-20 -80 0 1.0) (-30 -120 0 {diameter})
  |
    (20 -80 0 1.0) (30 -120 0 0.8)
  )
)
( (Color Green) (Apical) (0 8 0 3.0) (0 100 0 2.0) (0 200 0 1.0) )
"""


def write(folder, text, name="cell.swc"):
    path = folder / name
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return path


def test_summary_of_a_usable_swc(tmp_path):
    summary = check_morphology(write(tmp_path, AXON_SWC))
    assert summary.n_sections == {"soma": 1, "axon": 3, "dend": 1, "apic": 1}
    assert summary.length_um["dend"] == pytest.approx(120)
    assert (summary.n_sections["axon"] > 0, summary.has_apical) == (True, True)


def test_a_cell_without_axon_and_apical_tree_is_usable(tmp_path):
    summary = check_morphology(str(write(tmp_path, NO_APICAL_SWC)))
    assert (summary.n_sections["axon"] > 0, summary.has_apical) == (False, False)


def test_summary_of_a_usable_asc(tmp_path):
    summary = check_morphology(write(tmp_path, ASC.format(diameter=0.8), "cell.ASC"))
    assert summary.n_sections == {"soma": 1, "axon": 0, "dend": 3, "apic": 1}


def test_extra_columns_comments_and_windows_lines_are_fine(tmp_path):
    lines = [f"{line} 77" for line in FULL_SWC.splitlines() if not line.startswith("#")]
    text = "\r\n".join(["# header", "", *lines[:3], "  # between", *lines[3:], ""])
    assert check_morphology(write(tmp_path, text)).n_sections["apic"] == 1


MARKER_FILE = "##x,y,z,radius,shape,name,comment, color_r,color_g,color_b\n9.5,5.3,5.9,0.0, 1, 10, , 214,93,101\n"
TREE = FULL_SWC.splitlines()[1:]


def changed(row, column, value):
    """Return the small cell with one number of one point changed."""
    lines = [line.split() for line in TREE]
    lines[row][column] = str(value)
    return "\n".join(" ".join(line) for line in lines) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("\n  \n", "the file is empty"),
        ("# only comments\n", "comments only"),
        (b"\x1f\x8b\x00\x00garbage", "binary"),
        ("hello world\nthis is not a cell\n", "line 1: expected the seven numbers .*'hello world'"),
        ("1 1 0 0 0 5\n", "line 1: expected the seven numbers"),
        (changed(3, 2, "nan"), "line 4: expected the seven numbers"),
        (changed(3, 5, "inf"), "line 4: expected the seven numbers"),
        (changed(3, 1, "3.5"), "line 4: expected the seven numbers"),
        (MARKER_FILE, "line 2: this is not a morphology but a marker file"),
        (changed(0, 1, 3), "expected a soma .* found none among 12 points"),
        (changed(4, 5, 0), "line 5: expected a radius above zero, found 0"),
        (changed(4, 5, -0.5), "line 5: expected a radius above zero, found -0.5"),
        (changed(4, 1, 7), r"line 5: expected type 1 \(soma\).* found 7"),
        (changed(4, 6, 99), "line 5: point 5 is disconnected: its parent 99"),
        (changed(4, 6, 12), "line 5: point 5 is disconnected: its parent 12"),
        (changed(4, 6, -1), "found 2 roots .* disconnected points at lines 5. Connect"),
        (changed(4, 0, 3), "line 5: expected point numbers that rise, found 3 after 4"),
    ],
)
def test_the_fault_of_an_swc_is_named(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=said) as error:
        check_morphology(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello world", "begins with a parenthesis, found 'hello'"),
        (NO_APICAL_SWC, "begins with a parenthesis, found '1'"),
        (ASC.format(diameter=0.8)[:-10], "as many closing as opening"),
        (ASC.format(diameter=0.8).replace("CellBody", "Contour"), "expected a soma"),
        (ASC.format(diameter=0), "section dend.* has the diameter 0"),
        ("(CellBody) (1 2 (3)) (((())))", "NEURON cannot read this file"),
    ],
)
def test_the_fault_of_an_asc_is_named(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        check_morphology(write(tmp_path, text, "cell.asc"))


def test_a_reader_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(morphology_check, "READ_LIMIT_S", 0.01)
    with pytest.raises(InputError, match="NEURON did not come to an end"):
        check_morphology(write(tmp_path, FULL_SWC))


@pytest.mark.parametrize(("name", "said"), [("gone.swc", "there is none"), ("cell.h5", "the ending '.h5'")])
def test_a_file_that_is_missing_or_of_another_format(tmp_path, name, said):
    with pytest.raises(InputError, match=said):
        check_morphology(tmp_path / name)


STRAY_AXON = AXON_SWC + "30 2 100 100 0 0.3 -1\n31 2 120 100 0 0.3 30\n"


def test_pieces_of_an_axon_that_is_removed_do_no_harm(tmp_path):
    path = write(tmp_path, STRAY_AXON)
    assert check_morphology(path).n_sections["axon"] > 0
    with pytest.raises(InputError, match="pieces of axon: use axon: stub"):
        check_morphology(path, axon="full")


def test_the_axon_mode_has_to_fit_the_cell(tmp_path):
    with pytest.raises(InputError, match="there is none. Use axon: stub"):
        check_morphology(write(tmp_path, FULL_SWC), axon="full")
    behind = write(tmp_path, AXON_SWC + "30 3 100 100 0 0.3 22\n31 3 120 100 0 0.3 30\n", "behind.swc")
    with pytest.raises(InputError, match=r"dend\[\d\] grow from it"):
        check_morphology(behind)
    assert check_morphology(behind, axon="full").n_sections["dend"] == 2
    with pytest.raises(InputError, match="expected one of stub, .* found 'long'"):
        CellMorphology(behind, axon="long")


@pytest.fixture(scope="module")
def simulator():
    from bluepyopt.ephys.simulators import NrnSimulator

    return NrnSimulator()


def built(simulator, path, axon):
    """Return the cell's axon sections and its number of segments by section list."""
    from bluepyopt.ephys.models import CellModel

    model = CellModel("cell", morph=CellMorphology(path, axon=axon), mechs=[], params=[])
    model.instantiate(sim=simulator)
    axons = [(s.L, s.diam, s.nseg, s.parentseg().x, s.parentseg().sec.name().split(".")[1]) for s in model.icell.axonal]
    segments = {s.name().split(".")[1]: (s.L, s.nseg) for s in model.icell.all}
    model.destroy(sim=simulator)
    return axons, segments


def test_segments_follow_the_length(simulator, tmp_path):
    _, segments = built(simulator, write(tmp_path, AXON_SWC), "full")
    assert segments["apic[0]"][1] == 13
    assert all(nseg == 1 + 2 * int(length / 40) for length, nseg in segments.values())


@pytest.mark.parametrize("axon", AXON_MODES[:3])
def test_a_stub_is_two_sections_at_the_end_of_the_soma(simulator, tmp_path, axon):
    sections, segments = built(simulator, write(tmp_path, AXON_SWC), axon)
    assert [(L, nseg, x, parent) for L, _, nseg, x, parent in sections] == [
        (30, 1, 1.0, "soma[0]"),
        (30, 1, 1.0, "axon[0]"),
    ]
    assert set(segments) == {"soma[0]", "dend[0]", "apic[0]", "axon[0]", "axon[1]"}


def test_stub_diameters_by_mode(simulator, tmp_path):
    path = write(tmp_path, AXON_SWC)
    diameters = {axon: [d for _, d, *_ in built(simulator, path, axon)[0]] for axon in AXON_MODES[:3]}
    assert diameters["stub"] == [1, 1]
    # The first section has the diameters 1.8, 1.4, 1.0, 0.8 at even distances: their average, the middle.
    assert diameters["legacy-stub"][0] == pytest.approx(1.2333, abs=2e-3)
    assert diameters["legacy-stub-60um"][0] == pytest.approx(1.2, abs=2e-3)
    # Radii: 0.4 to 0.3 um in the first section that lies beyond 60 um, 0.4 to 0.2 um in the last one.
    assert diameters["legacy-stub"][1] < diameters["legacy-stub-60um"][1]
    assert 0.4 <= diameters["legacy-stub"][1] <= 0.8
    assert 0.6 <= diameters["legacy-stub-60um"][1] <= 0.8


def test_without_a_reconstructed_axon_every_stub_is_one_micrometre_thick(simulator, tmp_path):
    path = write(tmp_path, FULL_SWC)
    for axon in AXON_MODES[:3]:
        assert [d for _, d, *_ in built(simulator, path, axon)[0]] == [1, 1]


def test_the_real_morphologies_and_marker_files(shared_data):
    folder = shared_data / "neuron"
    rat = check_morphology(folder / "rat_L5PC_C060114A7" / "C060114A7.asc")
    assert (rat.n_sections["soma"], rat.n_sections["axon"] > 0, rat.has_apical) == (1, True, True)
    mouse = check_morphology(folder / "allen_483101699" / "483101699.swc")
    assert mouse.n_sections == {"soma": 1, "axon": 1, "dend": 45, "apic": 27}
    interneuron = check_morphology(folder / "bmtk_morphologies" / "485184849_reconstruction.swc")
    assert not interneuron.has_apical
    markers = sorted(folder.glob("*/*_marker_m.swc"))
    assert markers
    for path in markers:
        with pytest.raises(InputError, match="marker file"):
            check_morphology(path)


def test_lengths_are_those_of_the_points(tmp_path):
    summary = check_morphology(write(tmp_path, FULL_SWC))
    step = np.hypot(5, 50)
    assert summary.length_um["apic"] == pytest.approx(5 * step, rel=1e-5)
