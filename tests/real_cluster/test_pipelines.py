"""Workflows as `deploy` prints them: on reads whose labels are known, and on an archive's cells; Nextflow's is parsed.

Needs STAR (apt-get install rna-star) and, on the PATH, what `PACKAGES` names, in an environment of its own.
"""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

import neurofleet as nf
from neurofleet.jobs.job_file import load_job
from neurofleet.yaml_files import read_yaml_file
from tests.jobs.small_model import small_model
from tests.jobs.test_fit import EVOLUTION, LEFT_OUT
from tests.learners.cells.made_cells import made_counts
from tests.neurosim.exchange.allen_server import Database, serve
from tests.real_cluster.lab import REPOSITORY
from tests.real_cluster.small_fit import JOB as FIT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

BIN = str(Path(sys.executable).parent)
ENVIRONMENT = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
BASES = np.array(list("ACGT"))
GENE_LENGTH, READ_LENGTH = 700, 91
PACKAGES = "snakemake==9.27.1 miniwdl==1.16.0 miniwdl-backend-bare==0.0.1 reftrace==0.6.0"


def program(name: str) -> str:
    """Return where a program is; without it the test is skipped."""
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    if found is None:
        pytest.skip(f"needs {name} ({'apt-get install rna-star' if name == 'STAR' else f'pip install {PACKAGES}'})")
    return found


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(
        [program(str(command[0])), *map(str, command[1:])],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*/*/*.log"))
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}\n{logs}"
    return done.stdout or done.stderr


def printed(folder: Path, name: str, *arguments: str) -> Path:
    """Print a workflow into a file of a folder."""
    inputs = ["--model", "model", "--genome-index", "index", "--whitelist", "whitelist.txt.gz"]
    done = subprocess.run(
        [program("neurofleet"), "deploy", *arguments, *inputs],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder / name).write_text(done.stdout)
    return folder / name


def sequences(random: np.random.Generator, number: int, length: int) -> list[str]:
    return ["".join(row) for row in BASES[random.integers(0, 4, (number, length))]]


def write_genome(folder: Path, genes: list[str], random: np.random.Generator) -> list[str]:
    """Write genome.fa and genes.gtf, a gene of one exon behind the other; return the exons."""
    gap = 300
    exons, between = sequences(random, len(genes), GENE_LENGTH), sequences(random, len(genes), gap)
    (folder / "genome.fa").write_text(">chr1\n" + "".join(map("".join, zip(between, exons, strict=True))) + "\n")
    with (folder / "genes.gtf").open("w") as file:
        for number, name in enumerate(genes):
            stop = (number + 1) * (gap + GENE_LENGTH)
            about = f'gene_id "ENSG{number:011d}"; gene_name "{name}"; transcript_id "ENST{number:011d}";'
            file.write(f"chr1\tmade\texon\t{stop - GENE_LENGTH + 1}\t{stop}\t.\t+\t.\t{about}\n")
    return exons


def write_reads(folder: Path, cells: anndata.AnnData, exons: list[str], random: np.random.Generator) -> list[str]:
    """Write two lanes of reads and the list of barcodes: one to three reads a UMI, and droplets without a cell.

    Returns the barcodes of the cells.
    """
    barcodes = sorted(set(sequences(random, 2000, 16)))
    random.shuffle(barcodes)
    of_cells, empty = barcodes[: len(cells)], barcodes[len(cells) : len(cells) + 300]
    with gzip.open(folder / "whitelist.txt.gz", "wt") as file:
        file.write("".join(f"{barcode}\n" for barcode in sorted(barcodes)))
    molecules = [
        (of_cells[cell], exons[gene]) for cell, gene in np.argwhere(cells.X) for _ in range(int(cells.X[cell, gene]))
    ]
    molecules += [
        (barcode, exons[gene]) for barcode, gene in zip(empty, random.integers(0, len(exons), 300), strict=True)
    ]
    lanes: tuple[list[tuple[str, str]], ...] = ([], [])
    for (barcode, exon), umi in zip(molecules, sequences(random, len(molecules), 12), strict=True):
        start = random.integers(0, GENE_LENGTH - READ_LENGTH)
        for _ in range(random.integers(1, 4)):
            lanes[random.integers(2)].append((barcode + umi, exon[start : start + READ_LENGTH]))
    for lane, reads in enumerate(lanes, 1):
        for end, place in (("R1", 0), ("R2", 1)):
            with gzip.open(folder / f"a_L00{lane}_{end}.fastq.gz", "wt", compresslevel=1) as file:
                file.writelines(f"@{n}\n{read[place]}\n+\n{'I' * len(read[place])}\n" for n, read in enumerate(reads))
    rows = [f"a\ta_L00{lane}_R1.fastq.gz\ta_L00{lane}_R2.fastq.gz" for lane in (1, 2)]
    (folder / "samples.tsv").write_text("\n".join(["sample\tbarcodes\tcdna", *rows, ""]))
    return of_cells


@pytest.fixture(scope="module")
def cells() -> anndata.AnnData:
    return made_counts(200, seed=5)


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory) -> Iterator[Path]:
    """With reads of 200 cells in 3 classes, the index of their genome of 60 genes, a model and the printed workflow."""
    program("STAR"), program("snakemake")
    folder, random = tmp_path_factory.mktemp("reads"), np.random.default_rng(7)
    exons = write_genome(folder, list(cells.var_names), random)
    cells.obs.index = write_reads(folder, cells, exons, random)
    index = ["--genomeFastaFiles", "genome.fa", "--sjdbGTFfile", "genes.gtf", "--sjdbOverhang", "90"]
    run(
        "STAR",
        "--runMode",
        "genomeGenerate",
        "--genomeDir",
        "index",
        "--genomeSAindexNbases",
        "7",
        *index,
        folder=folder,
    )
    small_model(folder)
    printed(folder, "Snakefile", "snakemake", "--threads", "2", "--memory", "2")
    return folder


def snakemake(folder: Path, *more: str) -> str:
    return run("snakemake", "-s", "Snakefile", "-c2", *more, folder=folder)


def test_reads_become_the_labels_that_are_known(folder, cells):
    snakemake(folder)
    table = pd.read_csv(folder / "results/a/labels.csv", index_col="cell_id")
    assert set(table.index) == set(cells.obs_names)  # no droplet without a cell
    assert (table["label"] == cells.obs["cell_type"].reindex(table.index)).mean() > 0.95
    found = anndata.read_h5ad(folder / "results/a/labels.h5ad")
    np.testing.assert_array_equal(found[cells.obs_names, cells.var_names].X.toarray(), cells.X.toarray())
    assert list(found.obs["sims_label"]) == list(table["label"].reindex(found.obs_names))
    assert "<html" in (folder / "results/a/labels.html").read_text()[:200]
    assert "Nothing to be done" in snakemake(folder)


def test_a_workflow_that_was_killed_goes_on_where_it_was(folder):
    matrix = folder / "killed/a/star/Solo.out/Gene/filtered/matrix.mtx"
    command = [program("snakemake"), "-s", "Snakefile", "-c2", "--config", "out=killed"]
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while "rule label" not in (line := process.stderr.readline()):  # that of the counts has ended
            assert line, "ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
    counted = matrix.stat().st_mtime_ns
    snakemake(folder, "--config", "out=killed", "--unlock")
    snakemake(folder, "--config", "out=killed", "--rerun-incomplete")
    assert matrix.stat().st_mtime_ns == counted
    assert (folder / "killed/a/labels.html").is_file()


def test_the_wdl_passes_its_checks_and_gives_the_same_labels(folder, cells, monkeypatch):
    file = printed(folder, "labels.wdl", "wdl", "--image", "lab/neurofleet:1", "--threads", "2", "--memory", "2")
    told = run("miniwdl", "check", "--strict", file, folder=folder)  # which has shellcheck look at the commands
    assert told.split() == "labels.wdl workflow labels call count call label task count task label".split()
    for tar, of in (("model.tar.gz", "model"), ("index.tar", "index")):
        run("tar", "caf", tar, "-C", of, ".", folder=folder)
    lanes = {
        read: [f"a_L001_{end}.fastq.gz", f"a_L002_{end}.fastq.gz"] for read, end in (("barcodes", "R1"), ("cdna", "R2"))
    }
    inputs = {
        "sample": "a",
        "model": "model.tar.gz",
        "genome_index": "index.tar",
        "whitelist": "whitelist.txt.gz",
        **lanes,
    }
    (folder / "inputs.json").write_text(json.dumps({f"labels.{name}": value for name, value in inputs.items()}))
    monkeypatch.setitem(ENVIRONMENT, "MINIWDL__SCHEDULER__CONTAINER_BACKEND", "bare")  # without containers
    outputs = json.loads(run("miniwdl", "run", file, "-i", "inputs.json", "--dir", "wdl", folder=folder))["outputs"]
    table = pd.read_csv(outputs["labels.csv"], index_col="cell_id")
    assert set(table.index) == set(cells.obs_names)
    assert (table["label"] == cells.obs["cell_type"].reindex(table.index)).mean() > 0.95
    assert {Path(file).suffix for file in outputs.values()} == {".gz", ".csv", ".parquet", ".h5ad", ".html"}


def test_the_nextflow_script_is_one(tmp_path):
    script = printed(tmp_path, "main.nf", "nextflow", "--image", "lab/neurofleet:1")
    (tmp_path / "rules.py").touch()  # none but the grammar's
    assert "No issues found" in run("reftrace", "lint", folder=tmp_path)
    script.write_text(script.read_text().replace("cpus { params.threads }", "cpus { params.threads", 1))
    with pytest.raises(AssertionError, match="Failed to parse main.nf"):
        run("reftrace", "lint", folder=tmp_path)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["chemistry=v1"], "chemistry: expected v2, v3 or v4, found 'v1'"),
        (["modell=x"], "'modell' is no setting; there are samples, model"),
        (["model=index"], "model: expected a folder with model.json, found none in index"),
        (["chemistry=v2", "out=v2"], "barcode read length"),
    ],
)
def test_what_is_wrong_is_said(folder, more, told):
    command = [program("snakemake"), "-s", "Snakefile", "-c2", "--retries", "0", "--config", *more]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    logs = "".join(path.read_text() for path in folder.glob("v2/a/*.log"))
    assert done.returncode == 1
    assert told in done.stdout + done.stderr + logs


def test_cells_of_archives_become_exported_models(demo_recordings, tmp_path, monkeypatch):
    recording, morphology = ((demo_recordings / name).read_bytes() for name in ("cell.nwb", "cell.swc"))
    path = "sub-1/sub-1_ses-1_icephys.nwb"
    rows = ["cell\trecordings\tmorphology", "11\tallen:11\t", f"m1\tdandi:000020/{path}\tneuromorpho:cnic_001\n"]
    (tmp_path / "cells.tsv").write_text("\n".join(rows))
    with serve(Database()) as archives:
        archives.add(11, recording, morphology, tag__dendrite_type="spiny")
        archives.add_dandiset("000020", "0.210913.1639", {path: recording})
        archives.add_neuron("cnic_001", "Wearne_Hof", morphology)
        for name in ("ALLEN", "DANDI", "NEUROMORPHO"):
            monkeypatch.setitem(ENVIRONMENT, f"NEUROFLEET_{name}_ADDRESS", archives.address)
        monkeypatch.setitem(ENVIRONMENT, "no_proxy", "127.0.0.1")
        (tmp_path / "Snakefile").write_text(
            run("neurofleet", "deploy", "snakemake-fits", "--threads", "2", folder=tmp_path)
        )
        snakemake(tmp_path, "results/11/fit.yaml", "results/m1/fit.yaml")
    assert load_job(tmp_path / "results/11/fit.yaml").cells[0].dendrite == "spiny"
    job = read_yaml_file(tmp_path / "results/m1/fit.yaml")  # made by looking at the files; here it is made quick
    (tmp_path / "results/m1/fit.yaml").write_text(
        yaml.safe_dump({**FIT, "cells": [job["cells"][0] | {"exclude_sweeps": LEFT_OUT}], "evolution": EVOLUTION})
    )
    wanted = ["results/m1/validate/report.html", "results/m1/sonata"]
    snakemake(tmp_path, *wanted)
    assert nf.open_run(tmp_path / "results/m1/fit").status == "finished"
    assert nf.open_run(tmp_path / "results/m1/validate").kind == "validate"
    assert (tmp_path / "results/m1/sonata/circuit_config.json").is_file()
    assert "Nothing to be done" in snakemake(tmp_path, *wanted)
