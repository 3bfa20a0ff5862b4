"""What is simulated is the cell of the file: areas that NEURON makes of files as labs have them."""

import gzip
import math
import re

import h5py
import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.cells import morphology_check
from neurofleet.neurosim.cells.cell_morphology import CellMorphology
from neurofleet.neurosim.cells.morphology import SWC_TYPES, Reconstruction
from neurofleet.neurosim.cells.morphology_check import check_morphologies, check_morphology
from neurofleet.neurosim.cells.morphology_measures import oddities
from neurofleet.neurosim.cells.morphology_readers import read_reconstruction
from tests.neurosim.cells.small_cells import AXON_SWC, crashing_reader
from tests.neurosim.cells.test_morphology_check import asc_soma

SPHERE, BODY = math.pi * 18**2, math.pi * 16**2  # somata of 18 and 16 um
ARM = math.pi * 2 * 71  # a dendrite of 2 um from (9, 0, 0) to (80, 0, 0)
TAIL = "2 3 9 0 0 1 1\n3 3 80 0 0 1 2\n"
POINT = "1 1 0 0 0 9 -1\n" + TAIL
LATER = "4 3 9 0 0 1 1\n5 3 80 0 0 1 4\n"
CIRCLE = "".join(  # six points, one radian apart
    f"{i} 1 {7 * math.cos(i):.4f} {7 * math.sin(i):.4f} 0 0.5 {i - 1 or -1}\n" for i in range(1, 7)
)
ROUND = "".join(f"({8 * math.cos(i / 4):.4f} {8 * math.sin(i / 4):.4f} 0 0.1)" for i in range(25))


def cones(*pieces):
    """Return the area of truncated cones with two diameters and a length each."""
    return sum(math.pi * (a + b) / 2 * math.hypot(length, (a - b) / 2) for a, b, length in pieces)


LONG, SHORT = math.hypot(20, 40), math.hypot(10, 40)
ASC_AREA = cones((2, 1.5, 32), *2 * [(1, 1, LONG), (1, 0.8, SHORT)])  # a branch begins as thick as its first point
SWC_AREA = cones((2, 1.5, 32), *2 * [(1.5, 1, LONG), (1, 0.8, SHORT)])  # and here as thick as its parent ends

ANEW = {  # name -> text, area of the soma, of the dendrites; what NEURON would misread
    "soma after a dendrite.swc": (POINT + "4 1 0 -9 0 9 1\n5 1 0 9 0 9 1\n", SPHERE, ARM),
    "root is a dendrite.swc": (
        "1 3 80 0 0 1 -1\n2 3 9 0 0 1 1\n3 1 0 0 0 9 2\n4 1 0 -9 0 9 3\n5 1 0 9 0 9 3\n",
        SPHERE,
        ARM,
    ),
    "root is a dendrite, one point.swc": ("1 3 80 0 0 1 -1\n2 3 9 0 0 1 1\n3 1 0 0 0 9 2\n", SPHERE, ARM),
    "nearly a sphere.swc": ("1 1 0 0 0 9 -1\n2 1 0 -8.7 0 9 1\n3 1 0 9 0 9 1\n" + LATER, SPHERE, ARM),
    "two cylinders.swc": ("1 1 0 0 0 9 -1\n2 1 0 -6 0 9 1\n3 1 0 6 0 9 1\n" + LATER, math.pi * 18 * 12, ARM),
    "points that branch.swc": (
        "1 1 0 0 0 3 -1\n2 1 6 0 0 3 1\n3 1 -6 0 0 3 1\n4 1 0 6 0 3 1\n5 3 9 0 0 1 2\n6 3 80 0 0 1 5\n",
        3 * math.pi * 6 * 6,
        ARM,
    ),
    "outline.swc": (CIRCLE + "7 3 9 0 0 1 1\n8 3 80 0 0 1 7\n", math.pi * 14**2, ARM),
    "outline without radii.swc": (
        CIRCLE.replace(" 0.5 ", " 0 ") + "7 3 9 0 0 1 1\n8 3 80 0 0 1 7\n",
        math.pi * 14**2,
        ARM,
    ),
    "children before parents.swc": ("3 3 80 0 0 1 2\n2 3 9 0 0 1 1\n1 1 0 0 0 9 -1\n", SPHERE, ARM),
    "breadth first.swc": (
        "1 1 0 0 0 9 -1\n2 3 9 0 0 1 1\n3 3 -9 0 0 1 1\n4 3 80 0 0 1 2\n5 3 -80 0 0 1 3\n",
        SPHERE,
        2 * ARM,
    ),
    "forks and tips.swc": (
        "1 1 0 0 0 9 -1\n2 3 9 0 0 1 1\n3 5 40 0 0 1 2\n4 6 80 0 0 1 3\n5 6 40 40 0 1 3\n",
        SPHERE,
        ARM + 80 * math.pi,
    ),
    "byte order mark.swc": (b"\xef\xbb\xbf" + POINT.encode(), SPHERE, ARM),
    "utf-16.swc": (POINT.encode("utf-16"), SPHERE, ARM),
    "utf-16 without a mark.swc": (POINT.encode("utf-16-le"), SPHERE, ARM),
    "old Mac.swc": (POINT.replace("\n", "\r"), SPHERE, ARM),
    "decimal commas.swc": (POINT.replace(" 9 ", " 9,0 "), SPHERE, ARM),
    "commas between.swc": (POINT.replace(" ", ", "), SPHERE, ARM),
    "semicolons between.swc": ("n;type;x;y;z;r;parent\n" + POINT.replace(" ", ";"), SPHERE, ARM),
    "root has the parent 0.swc": (POINT.replace("-1", "0"), SPHERE, ARM),
    "no length.swc": (POINT + "4 3 80 0 0 1 3\n5 3 80 0 0 1 4\n6 3 80 0 0 1 3\n7 3 80 0 0 1 6\n", SPHERE, ARM),
    "byte order mark.asc": (b"\xef\xbb\xbf" + asc_soma(f'("CellBody" (CellBody) {ROUND})').encode(), BODY, ASC_AREA),
    "numbered.asc": (asc_soma(f'("soma 1" (CellBody) {ROUND})'), BODY, ASC_AREA),
    "decimal commas.asc": (
        asc_soma(f'("CellBody" (CellBody) {ROUND})').replace(".", ","),
        BODY,
        ASC_AREA,
    ),
    "own name.asc": (asc_soma(f'("My Soma" (Color Red) (CellBody) {ROUND})'), BODY, ASC_AREA),
    "without a name.asc": (asc_soma(f"((Color Red) (CellBody) {ROUND})"), BODY, ASC_AREA),
    "one point.asc": (asc_soma('("CellBody" (CellBody) (0 0 0 16))'), BODY, SWC_AREA),
    "an axis with diameters.asc": (
        asc_soma('("CellBody" (CellBody) (-8 0 0 16) (0 0 0 16) (8 0 0 16))'),
        BODY,
        SWC_AREA,
    ),
    "its kind is not its last property.asc": (
        asc_soma(f'("CellBody" (CellBody) {ROUND})').replace("(Dendrite)", '(Dendrite) (Name "d")'),
        BODY,
        ASC_AREA,
    ),
}
NAMES = ("\u00fcn\u00ef\u4e2d.swc", '50% "x".swc')
ANEW |= dict.fromkeys(NAMES, (POINT, SPHERE, ARM))
AS_THEY_ARE = {
    "point.swc": (POINT, SPHERE, ARM),
    "tabs.swc": (POINT.replace(" ", "\t"), SPHERE, ARM),
    "latin-1.swc": (b"# 5 \xb5m\n" + POINT.encode(), SPHERE, ARM),
    "commas between.asc": (
        asc_soma(f'("CellBody" (CellBody) {ROUND})').replace("(0 -8 0 2.0)", "(0,-8,0,2.0)"),
        BODY,
        ASC_AREA,
    ),
    "cylinder.swc": ("1 1 0 -6 0 9 -1\n2 1 0 6 0 9 1\n3 3 0 6 0 1 2\n4 3 0 77 0 1 3\n", math.pi * 18 * 12, ARM),
    "points twice.swc": (POINT + "4 3 80 0 0 1 3\n", SPHERE, ARM),
    "a soma for each tree.swc": (POINT + "4 1 0 0 0 9 -1\n5 2 0 9 0 1 4\n6 2 0 80 0 1 5\n", SPHERE, ARM),
    "round.asc": (asc_soma(f'("CellBody" (CellBody) {ROUND})'), BODY, ASC_AREA),
    "marks.asc": (
        asc_soma(f'("CellBody" (CellBody) {ROUND})').replace(
            "(0 -40 0 1.5)", "(0 -40 0 1.5 S2) <(Color Red) (1 1 1 1)>"
        ),
        BODY,
        ASC_AREA,
    ),
}
CELLS = ANEW | AS_THEY_ARE


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Return name -> what was made of the file, all in one process with NEURON."""
    folder = tmp_path_factory.mktemp("cells")
    for name, (text, *_) in CELLS.items():
        (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return dict(zip(CELLS, check_morphologies([folder / name for name in CELLS]), strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_areas_are_those_of_the_file(checked, name):
    summary, (_, soma, dendrites) = checked[name], CELLS[name]
    assert not isinstance(summary, InputError), summary
    assert summary.n_sections["soma"] == 1
    assert summary.soma_area_um2 == pytest.approx(soma, rel=0.05 if summary.soma_drawn_as == "contour" else 0.001)
    assert summary.area_um2["dend"] == pytest.approx(dendrites, rel=0.01)
    assert summary.file.converted == (name in ANEW)
    assert summary.file.name.isascii()
    assert not {"%", '"'} & set(summary.file.name)


def test_what_was_put_right_is_told(checked):
    def notes(name):
        return " ".join(checked[name].notes)

    assert "begins with a branch (line 1); the soma (line 3) was taken as its root" in notes("root is a dendrite.swc")
    assert "(3 somata; soma of 2,035.8 µm² for 1,017.9" in notes("soma after a dendrite.swc")
    assert "decimal commas (line 1 and others)" in notes("decimal commas.swc")
    assert "forks and tips, lines 3, 4, 5" in notes("forks and tips.swc")
    assert "stands 2 times at the same place (line 4)" in notes("a soma for each tree.swc")
    assert "0 somata" in notes("one point.asc")
    assert notes("byte order mark.swc") == notes("point.swc") == ""
    assert "drawn as an outline of 6 points (line 1)" in " ".join(checked["outline.swc"].warnings)
    assert "drawn with 4 points that branch (line 1)" in " ".join(checked["points that branch.swc"].warnings)


def test_bluepyopt_builds_the_same_cell(checked):
    from bluepyopt.ephys.models import CellModel
    from bluepyopt.ephys.simulators import NrnSimulator

    simulator = NrnSimulator()
    for name in ("soma after a dendrite.swc", "breadth first.swc", "one point.asc", "\u00fcn\u00ef\u4e2d.swc"):
        summary = checked[name]
        model = CellModel("cell", morph=CellMorphology(summary.file.unpacked(), axon="full"), mechs=[], params=[])
        model.instantiate(sim=simulator)
        area_um2 = {
            "soma": sum(segment.area() for section in model.icell.somatic for segment in section),
            "dend": sum(segment.area() for section in model.icell.basal for segment in section),
        }
        model.destroy(sim=simulator)
        assert area_um2 == pytest.approx({kind: summary.area_um2[kind] for kind in area_um2}, rel=1e-6)


def test_compressed_text_is_the_same_cell(tmp_path):
    (tmp_path / "cell.swc").write_text(AXON_SWC)
    for name in ("cell.swc.gz", "cell.SWC.GZ"):
        (tmp_path / name).write_bytes(gzip.compress(AXON_SWC.encode()))
    plain, *packed = check_morphologies([tmp_path / name for name in ("cell.swc", "cell.swc.gz", "cell.SWC.GZ")])
    assert [one.file.name for one in packed] == ["cell.swc", "cell.SWC"]
    assert all(one.area_um2 == plain.area_um2 and one.file.content == plain.file.content for one in packed)
    (tmp_path / "cut.asc.gz").write_bytes(gzip.compress(AXON_SWC.encode())[:-20])
    (tmp_path / "wrong.asc.gz").write_bytes(gzip.compress(b"(no tree"))
    (tmp_path / "cell.h5.gz").write_bytes(gzip.compress(b"x"))
    for name, said in (
        ("cut.asc.gz", "cannot be unpacked"),
        ("wrong.asc.gz", "wrong.asc.gz: "),
        ("cell.h5.gz", "gunzip"),
    ):
        with pytest.raises(InputError, match=said):
            read_reconstruction(tmp_path / name)


def write_hdf5(path, cell: Reconstruction, soma, **changes):
    """Write a reconstruction as MorphIO does, a section after the other, each with its parent's last point."""
    points, structure = [np.asarray(soma, float)], [[0, 1, -1]]
    codes = {kind: code for code, kind in SWC_TYPES.items()}
    for section in cell.sections:
        structure.append([sum(map(len, points)), codes[section.kind], max(section.parent + 1, 0)])
        points.append(section.points)
    tables = {"points": np.vstack(points), "structure": np.array(structure)} | changes
    with h5py.File(path, "w") as file:
        for name, table in tables.items():
            file[name] = table
    return path


@pytest.fixture
def cell(tmp_path):
    (tmp_path / "cell.swc").write_text(AXON_SWC)
    return read_reconstruction(tmp_path / "cell.swc")


def test_hdf5_is_the_same_cell_as_swc_and_asc(tmp_path, cell):
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.column_stack([8 * np.cos(angles), 8 * np.sin(angles), 0 * angles, 0 * angles])
    point = write_hdf5(tmp_path / "point.h5", cell, [[0, 0, 0, 16]])
    drawn = write_hdf5(tmp_path / "outline.h5", cell, outline)
    swc, one, other = check_morphologies([tmp_path / "cell.swc", point, drawn])
    assert one.file.name == "point.swc"
    assert other.file.name == "outline.asc"
    for made in (one, other):
        assert made.n_sections == swc.n_sections
        kinds = ("axon", "dend", "apic")
        assert [made.area_um2[k] for k in kinds] == pytest.approx([swc.area_um2[k] for k in kinds], rel=1e-6)
        assert [made.length_um[k] for k in kinds] == pytest.approx([swc.length_um[k] for k in kinds], rel=1e-6)
        assert made.n_points - len(outline) * (made is other) + (made is other) == swc.n_points
    assert one.soma_area_um2 == pytest.approx(swc.soma_area_um2, rel=1e-6)
    assert other.soma_area_um2 == pytest.approx(swc.soma_area_um2, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"structure": [[0, 1, -1], [1, 3, 5]]}, "row 1 of /structure: expected a parent section .* found 5"),
        ({"structure": [[0, 1, -1], [1, 9, 0]]}, "row 1 of /structure: expected type 1 .* found 9"),
        ({"structure": [[0, 1, -1], [99, 3, 0]]}, "others in the first column of /structure"),
        ({"structure": [[0, 3, -1]]}, "expected one soma .* found 0"),
        ({"structure": [[0, 1]]}, r"/structure: expected a table of numbers with 3 columns .* \(1, 2\)"),
        ({"points": np.full((3, 4), np.nan)}, "/points: expected numbers, found NaN"),
        (
            {"points": [[0.0, 0, 0, 16], [8, 0, 0, 1], [80, 0, 0, 0]], "structure": [[0, 1, -1], [1, 3, 0]]},
            "row 2: .*0",
        ),
        ({"points": h5py.ExternalLink("other.h5", "points")}, "expected MorphIO's HDF5 with the tables"),
        ({"points": h5py.SoftLink("/elsewhere")}, "expected MorphIO's HDF5 with the tables"),
    ],
)
def test_the_fault_of_an_hdf5_is_named(tmp_path, cell, changes, said):
    with pytest.raises(InputError, match=said):
        read_reconstruction(write_hdf5(tmp_path / "cell.h5", cell, [[0, 0, 0, 16]], **changes))


def test_an_hdf5_that_claims_more_than_it_holds_is_refused(tmp_path):
    with h5py.File(tmp_path / "cell.h5", "w") as file:
        file.create_dataset("points", (3_000_000_000, 4), "f8", chunks=(1000, 4))
        file["structure"] = [[0, 1, -1]]
    with pytest.raises(InputError, match="at most 2,000,000 rows"):
        read_reconstruction(tmp_path / "cell.h5")
    (tmp_path / "text.h5").write_text("1 1 0 0 0 9 -1\n")
    with pytest.raises(InputError, match="a file that HDF5 cannot read"):
        read_reconstruction(tmp_path / "text.h5")


def dendrite(radii, start=(8, 0, 0), step=(10, 0, 1), first=2, parent=1, kind=3):
    rows = []
    for i, radius in enumerate(radii):
        x, y, z = (a + i * b for a, b in zip(start, step, strict=True))
        rows.append(f"{first + i} {kind} {x} {y} {z} {radius} {parent if i == 0 else first + i - 1}\n")
    return "".join(rows)


SOMA = "1 1 0 0 0 8 -1\n"
TAPERED = [1.0 - 0.02 * i for i in range(30)]
OTHERS = dendrite(TAPERED[:8], (-8, 0, 0), (-10, 0, 1), 50) + dendrite(TAPERED[:9], (0, 8, 0), (0, 10, 1), 70)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SOMA + dendrite([0.5] * 30), "100% of the points of its dendrites have the diameter 1 µm"),
        (SOMA + dendrite([0.04, *TAPERED]), "1 points of its dendrites are thinner than 0.1 µm, the first at line 2"),
        (SOMA + dendrite([*TAPERED[:9], 9.0, *TAPERED[9:]]), "jump 2 times: line 11 .1.7 to 18 µm., line 12"),
        (SOMA + dendrite([*TAPERED, 9.0]), "a dendrite of 18 µm is thicker than the soma"),
        (
            SOMA + dendrite(TAPERED) + "90 3 900 0 0 0.4 31\n",
            "gaps between a point and its parent .603 µm before line 32.",
        ),
        (
            SOMA + dendrite(TAPERED, (60, 0, 0)),
            "1 piece of its dendrites begin far from the surface of the soma: line 2",
        ),
        (SOMA + dendrite(TAPERED, step=(0, 0, 0)), "29 points of its dendrites stand where the one before stands"),
        (SOMA + dendrite(TAPERED, step=(10, 0, 0)), "all its points lie in one plane"),
        (SOMA + dendrite([1 + i % 2 for i in range(60)]), "all its coordinates are whole numbers"),
        (SOMA.replace("8", "1.5") + dendrite(TAPERED), "its soma is 3 µm across .* usual are 4 to 60 µm"),
        (SOMA.replace("8", "40") + dendrite(TAPERED), "its soma is 80 µm across"),
        (SOMA + dendrite(TAPERED, step=(200, 0, 1)), "up to 5,800 µm long, usual is less than 3,000 µm"),
        (SOMA + dendrite(TAPERED, step=(0.1, 0, 0.1)), "at most 4.1 µm long, less than the soma's radius"),
        (SOMA + dendrite(TAPERED, kind=2), "it has no dendrites"),
        (
            SOMA + dendrite(TAPERED) + dendrite(TAPERED[:4], (-8, 0, 0), first=50, kind=4),
            "apical dendrite is 30 µm long",
        ),
        (
            SOMA + dendrite(TAPERED, kind=4) + dendrite(TAPERED, (-8, 0, 0), first=50, kind=4),
            "2 apical trees grow from its soma .lines 2, 32.",
        ),
        (SOMA + dendrite(TAPERED) + OTHERS, "one basal tree .line 2. is 291 µm long, the next 80 µm: if"),
        (
            SOMA + dendrite(TAPERED) + dendrite(TAPERED, (50, 50, 0), first=60, parent=-1, kind=2),
            "1 piece of its axon are",
        ),
    ],
)
def test_what_looks_odd_is_told(tmp_path, text, said):
    (tmp_path / "cell.swc").write_text(text)
    told = "; ".join(oddities(read_reconstruction(tmp_path / "cell.swc")))
    assert re.search(said, told), told


def test_an_ordinary_cell_looks_ordinary(tmp_path):
    basal = dendrite(TAPERED, (-8, 0, 0), (-8, 2.5, 1), 60)
    apical = dendrite(TAPERED, (0, 8, 0), (1, 20, 1), 100, kind=4)
    (tmp_path / "cell.swc").write_text(SOMA + dendrite(TAPERED) + basal + apical)
    assert oddities(read_reconstruction(tmp_path / "cell.swc")) == []


def test_a_file_that_ends_neuron_does_not_end_the_others(tmp_path, monkeypatch):
    cells = {"a.swc": POINT, "b.swc": POINT, "c.asc": asc_soma(f'("CellBody" (CellBody) {ROUND})'), "d.swc": POINT}
    for name, text in cells.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(morphology_check, "_read_files", crashing_reader)
    made = list(check_morphologies([*(tmp_path / name for name in cells), tmp_path / "missing.swc"]))
    assert [isinstance(result, InputError) for result in made] == [False, True, False, False, True]
    assert "b.swc: NEURON cannot read this file as a cell: its process ended with signal 11" in str(made[1])
    assert made[2].file.converted  # after a parse error in the file itself
    assert "its process ended with signal 11" in made[2].notes[0]


def test_the_measures_in_a_line(tmp_path):
    (tmp_path / "cell.swc").write_text(POINT)
    assert check_morphology(tmp_path / "cell.swc").line() == (
        "cell.swc: soma 1,018 µm² (as a sphere 18 µm); dendrites 71 µm, 446 µm² in 1 section, median diameter 2 µm; in "
        "all 1,464 µm²"
    )
