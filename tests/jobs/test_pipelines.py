"""Printed workflows: what can be seen without the engines that run them. `tests/real_cluster` runs them."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from neurofleet.cluster.deploy import TARGETS, OptionRefused, fill_in
from neurofleet.jobs.pipelines import PIPELINES

BY_NAME = {target.name: target for target in PIPELINES}
LABELS = {"model": "model", "genome_index": "star", "whitelist": "737K.txt"}
GIVEN = {
    "snakemake": LABELS,
    "nextflow": LABELS,
    "wdl": {"image": "lab/neurofleet:1"},
    "snakemake-fits": {},
}


def rendered(name, **more):
    return fill_in(BY_NAME[name], GIVEN[name] | more)


def test_every_workflow_has_a_template_and_a_name_of_its_own():
    templates = Path(__file__).parents[2] / "jobs/pipelines/templates"
    assert {path.stem for path in templates.iterdir()} == set(BY_NAME) == set(GIVEN)
    assert not BY_NAME.keys() & TARGETS.keys()


@pytest.mark.parametrize("image", [None, "lab/neurofleet:1"])
@pytest.mark.parametrize("name", BY_NAME)
def test_files_are_whole(name, image):
    text = rendered(name, **{"image": image or GIVEN[name].get("image")})
    assert text.endswith("\n")
    assert not re.search(r"{{|{%|%}|{#|\W= None\b|[\'\"]None|\bUndefined\b", text)
    assert "neurofleet 0." in "".join(text.splitlines()[:3])
    assert all(len(line) <= 130 and line == line.rstrip() for line in text.splitlines())
    assert ("lab/neurofleet:1" in text) == (image is not None or name == "wdl")


def test_all_languages_count_alike():
    counting = [
        set(re.findall(r"--(?:solo|clip|out)\w+ \w+(?![\w.-])", rendered(name)))
        for name in ("snakemake", "nextflow", "wdl")
    ]
    assert counting[0] == counting[1] == counting[2]
    assert "--soloUMIdedup 1MM_CR" in counting[0]


def test_names_that_are_no_names_of_folders_are_refused(tmp_path):
    """By the functions of the printed files, as the engine would run them."""
    made = {"WorkflowError": ValueError, "csv": csv, "re": re, "shlex": shlex, "OUT": "out"}
    table = tmp_path / "table.tsv"
    for name, function in (("snakemake", "read_samples"), ("snakemake-fits", "read_cells")):
        exec(re.search(rf"def {function}.*?\n\n\n", rendered(name), re.S)[0], made)
        head = {"read_samples": "sample\tbarcodes\tcdna\n", "read_cells": "cell\trecordings\tmorphology\n"}[function]
        table.write_text(f"{head}L3-7\ta b.nwb\tneuromorpho:x y\n")
        made["CELLS"] = made[function](table)
        assert list(made["CELLS"]) == ["L3-7"]
        for wrong in ("..", "-x", "a/b", ".a", "a b"):
            table.write_text(f"{head}{wrong}\ta.nwb\ta.swc\n")
            with pytest.raises(ValueError, match="line 2: .*first no . or -"):
                made[function](table)
    assert r"==~ /[A-Za-z0-9_][\w.-]*/" in rendered("nextflow")
    assert "^[A-Za-z0-9_][A-Za-z0-9_.-]*$" in rendered("wdl")
    fits = rendered("snakemake-fits")
    made["ARCHIVE"] = re.compile(re.search(r'ARCHIVE = re.compile\(r"(.*)"\)', fits)[1])
    for function in ("of", "places"):
        exec(re.search(rf"def {function}\(.*?\n\n\n", fits, re.S)[0], made)
    assert made["places"](SimpleNamespace(cell="L3-7")) == ["'a b.nwb'", "'out/L3-7/x y'/*.swc"]
    table.write_text("cell\trecordings\tmorphology\nm\ta.nwb\tallen:11\n")
    with pytest.raises(ValueError, match="neurofleet fetch allen:11"):
        made["read_cells"](table)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("snakemake", {}, "The target snakemake needs --model and --genome-index and --whitelist: Folder of"),
        ("snakemake", LABELS | {"chemistry": "v1"}, "--chemistry 'v1': expected v2, v3 or v4"),
        ("nextflow", LABELS | {"features": "Exons"}, "--features 'Exons': expected Gene or GeneFull"),
        ("nextflow", LABELS | {"model": "a b"}, "--model 'a b': expected a path"),
        ("nextflow", LABELS | {"unknown_below": "1.5"}, "expected a number from 0 to 1"),
        ("wdl", {}, "The target wdl needs --image"),
        ("snakemake-fits", {"format": "nml"}, "--format 'nml': expected sonata, allen or hoc"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(OptionRefused, match=message):
        fill_in(BY_NAME[name], options)


def test_inputs_are_looked_at_where_they_are_here(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "list.txt").touch()
    inputs = ["--model", "model", "--genome-index", "/on/the/cluster", "--whitelist", "list.txt"]
    command = [Path(sys.executable).parent / "neurofleet", "deploy", "snakemake", *inputs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--model model: expected a folder with model.json, found none in it" in done.stderr
    (tmp_path / "model" / "model.json").touch()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == rendered("snakemake", genome_index="/on/the/cluster", whitelist="list.txt")
    assert done.stderr.split("\n")[:-1] == [
        "neurofleet: --genome-index /on/the/cluster is not on this machine; it must be where the workflow runs."
    ]
