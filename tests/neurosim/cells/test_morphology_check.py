"""Morphologies: every fault by its name, and the four axon modes."""

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells import morphology_check
from neurofleet.neurosim.cells.cell_morphology import CellMorphology
from neurofleet.neurosim.cells.morphology_check import AXON_MODES, check_axon, check_morphologies, check_morphology
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


BODY_ELSEWHERE = '("CellBody" (CellBody) (392 0 0 0) (400 8 0 0) (408 0 0 0) (400 -8 0 0))'


def write(folder, text, name="cell.swc"):
    path = folder / name
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return path


def asc_soma(body):
    """Return the small cell with another cell body."""
    text = ASC.format(diameter=0.8)
    start, end = text.index('("CellBody"'), text.index("( (Color Blue)")
    return f"{text[:start]}{body}\n{text[end:]}"


STRAY_AXON = AXON_SWC + "30 2 100 100 0 0.3 -1\n31 2 120 100 0 0.3 30\n"
BEHIND_AXON = AXON_SWC + "30 3 100 100 0 0.3 22\n31 3 120 100 0 0.3 30\n"
WINDOWS = "\r\n".join(["# header", "", *(f"{line} 77" for line in FULL_SWC.splitlines()[1:]), "  # after", ""])
USABLE = {
    "axon.swc": AXON_SWC,
    "no apical.swc": NO_APICAL_SWC,
    "asc.ASC": ASC.format(diameter=0.8),
    "windows.swc": WINDOWS,
    "stray axon.swc": STRAY_AXON,
    "full.swc": FULL_SWC,
}


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """Return name -> summary of usable files, read in one process."""
    folder = tmp_path_factory.mktemp("usable")
    paths = [write(folder, text, name) for name, text in USABLE.items()]
    return dict(zip(USABLE, check_morphologies(paths), strict=True))


def test_summaries_of_usable_files(summaries):
    axon = summaries["axon.swc"]
    assert axon.n_sections == {"soma": 1, "axon": 3, "dend": 1, "apic": 1}
    assert axon.n_trees == {"soma": 1, "axon": 1, "dend": 1, "apic": 1}
    assert axon.length_um["dend"] == pytest.approx(120)
    assert axon.length_um["apic"] == axon.reach_um["apic"] == pytest.approx(5 * np.hypot(5, 50), rel=1e-5)
    assert axon.soma_area_um2 == pytest.approx(np.pi * 16**2, rel=1e-4)
    assert axon.soma_diameter_um == pytest.approx(16, rel=1e-4)
    assert axon.total_area_um2 == sum(axon.area_um2.values())
    assert axon.total_length_um == pytest.approx(120 + axon.length_um["apic"] + axon.length_um["axon"])
    assert axon.diameter_um["dend"] == 1.4
    assert (axon.n_points, axon.has_apical) == (22, True)
    assert (axon.file.name, axon.file.content, axon.file.converted) == ("axon.swc", AXON_SWC.encode(), False)
    none = summaries["no apical.swc"]
    assert (none.n_sections["axon"], none.has_apical) == (0, False)
    assert summaries["asc.ASC"].n_sections == {"soma": 1, "axon": 0, "dend": 3, "apic": 1}


def test_extra_columns_comments_and_windows_lines_are_fine(summaries):
    assert summaries["windows.swc"].n_sections["apic"] == 1
    assert summaries["windows.swc"].file.content == WINDOWS.encode()


MARKER_FILE = "##x,y,z,radius,shape,name,comment, color_r,color_g,color_b\n9.5,5.3,5.9,0.0, 1, 10, , 214,93,101\n"
TREE = FULL_SWC.splitlines()[1:]


def changed(row, column, value):
    """Return the small cell with one number of one point changed."""
    lines = [line.split() for line in TREE]
    lines[row][column] = str(value)
    return "\n".join(" ".join(line) for line in lines) + "\n"


def scaled(factor):
    """Return the small cell in another unit."""
    lines = [line.split() for line in TREE]
    return "".join(f"{i} {kind} {' '.join(str(float(x) * factor) for x in xyzr)} {p}\n" for i, kind, *xyzr, p in lines)


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
        (changed(4, 1, 7), r"line 5: expected type 1 \(soma\).* found 7, as in 1 of 12 points"),
        (changed(4, 6, 99), "line 5: point 5 is disconnected: its parent 99 is not in the file"),
        (changed(4, 6, 6), "line 5: point 5 is disconnected: its parent 6 grows from it"),
        (changed(4, 6, 5), "line 5: point 5 is disconnected: its parent 5 grows from it"),
        (changed(4, 6, -1), "found 2 roots .* disconnected points at lines 5. Connect"),
        (changed(4, 0, 3), "line 5: expected a number of its own for each point, found 3 again, which is at line 3"),
        (changed(4, 1, 1), "expected one soma, found 2 groups .* line 1, and line 5. NEURON would make a second soma"),
        ("1 1 0,5 0 0 8 -1\n2 3 9.5 0 0 1 1\n", "one mark for decimals, found a comma at line 1 and a point at line 2"),
        ("1 1 1,000.5 0 0 8 -1\n", "line 1: expected the seven numbers"),
        (scaled(1000), "soma of 1.6e.04 µm .* Taken as nanometres, the soma is 16 µm across .* by 0.001"),
        ('# {"units": "nanometer"}\n' + scaled(1000), "The file itself says .*nanometer"),
        (scaled(1e-3), "soma of 0.016 µm .* Taken as millimetres, .* by 1000 and save"),
        (scaled(30), "soma of 480 µm across .* pixels or voxels"),
        (changed(0, 5, 0.1), "The branches have the size of a cell, the soma has not: .*line 1"),
        (changed(4, 2, 1e5), "branches that end 100,000 µm from the soma"),
        (TREE[0] + "\n2 1 500 0 0 8 1\n3 1 0 500 0 1 1\n4 1 0 -500 0 1 1\n", "soma over|soma of"),
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
        (ASC.format(diameter=0.8)[:-10], "the one of line 15 is never closed"),
        (ASC.format(diameter=0.8) + ")", "line 16: expected as many closing as opening"),
        (ASC.format(diameter=0.8).replace("CellBody", "Border"), r"other names: 'Border' \(line 3\)"),
        (ASC.format(diameter=0), "line 10: section dend has the diameter 0"),
        (ASC.format(diameter=0.8).replace("(Dendrite)", "(Trunk)"), r"line 6: expected a tree marked .* found Trunk"),
        ("(CellBody) (1 2 (3)) (((())))", "expected a soma"),
        (asc_soma('("CellBody" (CellBody) (9 0 0 0.1) (-9 0 0 0.1))'), "line 3: .* found two points, which enclose"),
        (asc_soma('("CellBody" (CellBody) (9 0 0))'), "line 3: .* one point without a diameter"),
        (asc_soma('("CellBody" (CellBody) (9 0 0 0) (8 0 0 0) (7 0 0 0))'), "points in a line, which enclose nothing"),
        (ASC.format(diameter=0.8) + BODY_ELSEWHERE, "outlines of cell bodies that lie apart, at line 3 and line 16"),
    ],
)
def test_the_fault_of_an_asc_is_named(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        check_morphology(write(tmp_path, text, "cell.asc"))


def test_a_reader_that_never_ends_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(morphology_check, "READ_LIMIT_S", 1e-5)
    with pytest.raises(InputError, match="NEURON cannot read .* it did not come to an end in 1e-05 s"):
        check_morphology(write(tmp_path, FULL_SWC))


@pytest.mark.parametrize(
    ("name", "said"),
    [("gone.swc", "there is none"), ("cell.nml", "the ending '.nml'"), ("cell.nwb", "found a recording .* swapped")],
)
def test_a_file_that_is_missing_or_of_another_format(tmp_path, name, said):
    if said != "there is none":
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=said):
        check_morphology(tmp_path / name)


def test_pieces_of_an_axon_that_is_removed_do_no_harm(tmp_path, summaries):
    assert summaries["stray axon.swc"].n_sections["axon"] > 0
    assert "1 piece of its axon" in summaries["stray axon.swc"].warnings[-1]
    with pytest.raises(InputError, match="pieces of axon: use axon: stub"):
        check_morphology(write(tmp_path, STRAY_AXON), axon="full")


def test_the_axon_mode_has_to_fit_the_cell(tmp_path):
    paths = [write(tmp_path, FULL_SWC), write(tmp_path, BEHIND_AXON, "behind.swc")]
    none, behind = check_morphologies(paths)
    check_axon(none, "stub")
    with pytest.raises(InputError, match="there is none. Use axon: stub"):
        check_axon(none, "full")
    check_axon(behind, "full")
    assert behind.n_sections["dend"] == 2
    with pytest.raises(InputError, match=r"dend\[\d\] grow from it"):
        check_axon(behind, "stub")
    with pytest.raises(InputError, match="expected one of stub, .* found 'long'"):
        CellMorphology(paths[1], axon="long")


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
    paths = [
        folder / "rat_L5PC_C060114A7" / "C060114A7.asc",
        folder / "allen_483101699" / "483101699.swc",
        folder / "bmtk_morphologies" / "485184849_reconstruction.swc",
    ]
    rat, mouse, interneuron = check_morphologies(paths)
    assert (rat.n_sections["soma"], rat.n_sections["axon"] > 0, rat.has_apical) == (1, True, True)
    assert mouse.n_sections == {"soma": 1, "axon": 1, "dend": 45, "apic": 27}
    assert mouse.soma_area_um2 == pytest.approx(351.77, rel=1e-4)
    assert not interneuron.has_apical
    for path, made in zip(paths, (rat, mouse, interneuron), strict=True):
        assert made.file.content == path.read_bytes()
    markers = sorted(folder.glob("*/*_marker_m.swc"))
    assert markers
    for marker in check_morphologies(markers):
        assert "marker file" in str(marker)
