"""YAML that people write is read as it was meant, or refused in a sentence."""

import math
import time

import pytest

from neurofleet.errors import InputError, UsageError
from neurofleet.yaml_files import YamlRefused, read_yaml, read_yaml_file


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1", 1),
        ("-20", -20),
        ("1.50", 1.5),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("true", True),
        ("~", None),
        ("", None),
        ("010", "010"),  # no 8
        ("1_2", "1_2"),  # a cluster, no 12
        ("0x1f", "0x1f"),
        ("12:30", "12:30"),  # no 750
        ("2020-01-01", "2020-01-01"),
        ("NO", "NO"),  # Norway
        ("on", "on"),
        ("1E5", "1E5"),  # a well of a plate
        ("1e-4", "1e-4"),
    ],
)
def test_words_are_words_and_numbers_are_numbers(text, meant):
    found = read_yaml(f"[{text}]" if text else "a:", "x.yaml")
    value = found[0] if text else found["a"]
    assert value == meant
    assert type(value) is type(meant)


def test_infinities_and_anchors_are_read():
    assert read_yaml("[.inf, -.inf]", "x") == [math.inf, -math.inf]
    assert read_yaml("a: &x {k: 1, m: 2}\nb: {<<: *x, k: 3}\nc: *x", "x") == {
        "a": {"k": 1, "m": 2},
        "b": {"k": 3, "m": 2},
        "c": {"k": 1, "m": 2},
    }


BOMB = "b0: &b0 [x]\n" + "".join(f"b{i}: &b{i} [{','.join([f'*b{i - 1}'] * 10)}]\n" for i in range(1, 12))
CHAIN = "b0: &b0 [x]\n" + "".join(f"b{i}: &b{i} [*b{i - 1}]\n" for i in range(1, 300))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\nlabel: a\nseed: 2", "line 3, column 1: the key 'seed' is given twice, in lines 1 and 3"),
        ("a:\n  - {b: 1, 'b': 2}", "line 2, column 12: the key 'b' is given twice"),
        ("[" * 20_000, "nested more than 100 deep"),
        ("- " * 20_000 + "x", "nested more than 100 deep"),
        (BOMB, "stand for more than 1,000,000 values"),
        (CHAIN, "nested more than 100 deep"),
        ("a: &a [*a]", "an alias refers to what it stands in"),
        ("a: [1, 2", "line 1, column 9"),
        ("a: b\n\tc: d", r"line 2, column 1.* found character '\\t'"),
        ("? [a]\n: b", "unhashable key"),
        ("a\x00: b", "special characters are not allowed"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("a: b\n---\nc: d", "a single document"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !!int ''", "not readable as YAML"),
        ("a: !!map [1]", "expected a mapping"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once_with_its_line(text, told):
    began = time.monotonic()
    with pytest.raises(YamlRefused, match=told) as refused:
        read_yaml(text, "job.yaml")
    assert str(refused.value).startswith("job.yaml: not readable as YAML")
    assert "\n" not in str(refused.value)
    assert isinstance(refused.value, UsageError)
    assert isinstance(refused.value, InputError)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_with_a_mark_are_read(tmp_path, encoding):
    (tmp_path / "a.yaml").write_text("name: Zürich\n", encoding=encoding)
    assert read_yaml_file(tmp_path / "a.yaml") == {"name": "Zürich"}


def test_a_file_of_no_text_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\x89HDF\r\n\x1a\n\xff")
    for path, told in (
        (tmp_path / "a.yaml", "found one that is no text.*neurofleet new"),
        (tmp_path, "cannot be read"),
    ):
        with pytest.raises(YamlRefused, match=told):
            read_yaml_file(path)


def test_a_missing_file_is_said_with_the_nearest_name(tmp_path):
    (tmp_path / "two.yaml").write_text("a: 1\n")
    with pytest.raises(YamlRefused, match=r"twoo\.yaml: there is no such file \(did you mean 'two\.yaml'\?\)\.$"):
        read_yaml_file(tmp_path / "twoo.yaml")
    with pytest.raises(YamlRefused, match=r"x\.yaml: there is no such file\.$"):
        read_yaml_file(tmp_path / "no-folder" / "x.yaml")
