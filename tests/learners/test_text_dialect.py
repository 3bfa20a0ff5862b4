"""How a table of text is written is seen from its first lines."""

import gzip

import pytest

from neurofleet.learners.text_dialect import text_dialect


def dialect_of(tmp_path, content, name="a.csv"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return text_dialect(file)


@pytest.mark.parametrize(
    ("content", "name", "separator", "decimal", "header"),
    [
        ("id,A,B\nc1,1,2\n", "a.csv", ",", ".", ("id", "A", "B")),
        ("id;A;B\nc1;1,5;2\n", "a.csv", ";", ",", ("id", "A", "B")),
        ("id;A\nc1;1,5\nc2;2,5\n", "a.csv", ";", ",", ("id", "A")),
        ("id\tA\nc1\t1,5\n", "a.tsv", "\t", ",", ("id", "A")),
        ("id;A\nc1;1.5\n", "a.tsv", ";", ".", ("id", "A")),
        ("A\tB\tC\nc1\t1\t2\t3\n", "a.txt", "\t", ".", ("", "A", "B", "C")),
        ("A B C\nc1 1 2 3\n", "a.txt", " ", ".", ("", "A", "B", "C")),
        ('id,kind\nc1,"L2/3; a, b"\n', "a.csv", ",", ".", ("id", "kind")),
        ("id,kind\nc1,T cell;x\nc2,T cell;y\n", "a.csv", ",", ".", ("id", "kind")),
        ("cell_type\nc0,Astro\nc1,B\n", "a.csv", ",", ".", ("", "cell_type")),
        ("# made by hand\nid,A\nc1,1\n", "a.csv", ",", ".", ("id", "A")),
        ("id,A,B\n", "a.csv", ",", ".", ("id", "A", "B")),
        ("id,A\nc1,1,\nc2,2,\n", "a.csv", ",", ".", ("id", "A", "")),
    ],
)
def test_separator_decimal_sign_and_names(tmp_path, content, name, separator, decimal, header):
    found = dialect_of(tmp_path, content, name)
    assert (found.separator, found.decimal, found.header) == (separator, decimal, header)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("cp1252", "cp1252")],
)
def test_encodings(tmp_path, encoding, expected):
    found = dialect_of(tmp_path, "id;Größe\nc1;2\n".encode(encoding))
    assert (found.encoding, found.separator, found.header) == (expected, ";", ("id", "Größe"))


def test_gzip_is_seen_from_the_content(tmp_path):
    assert dialect_of(tmp_path, gzip.compress(b"id,A\nc1,1\n")).packed
    assert not dialect_of(tmp_path, "id,A\nc1,1\n", "a.csv.gz").packed


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x89HDF\r\n\x1a\n\0\0\0\0"])
def test_what_is_no_text_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="not text|empty"):
        dialect_of(tmp_path, content)
