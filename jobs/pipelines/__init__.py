"""Workflows from raw data to results, in the languages of labs' workflow engines: what `neurofleet deploy` prints.

`PIPELINES` says which there are, and has the options of each; a workflow is a file of ``templates``.
"""

from __future__ import annotations

from dataclasses import replace

from neurofleet.cluster.deploy.deploy_targets import IMAGE, PATH_CHARACTERS, CountOption, PathOption, Target, TextOption

_PATH = "(?!-)" + PATH_CHARACTERS
_URI = r"(?:[a-z0-9]+://)?" + PATH_CHARACTERS
_A_PATH = "a path of letters, digits and ./@%+=,-_ only"

MODEL = PathOption("model", "Folder of the trained SIMS model.", _PATH, _A_PATH, required=True, holds="model.json")
GENOME_INDEX = PathOption(
    "genome_index",
    "Folder of the STAR index of the genome, made with its annotation (--sjdbGTFfile).",
    _PATH,
    _A_PATH,
    required=True,
    holds="genomeParameters.txt",
)
WHITELIST = PathOption(
    "whitelist",
    "List of the barcodes of the chemistry, plain or .gz: 737K-august-2016.txt for v2, 3M-february-2018.txt.gz for v3.",
    _PATH,
    _A_PATH,
    required=True,
)
CHEMISTRY = TextOption(
    "chemistry",
    "10x 3' chemistry: v2 (UMIs of 10 bases), v3 or v4 (12 bases).",
    "v[234]",
    "v2, v3 or v4",
    default="v3",
)
FEATURES = TextOption(
    "features",
    "What STARsolo counts: Gene (exons) for cells, GeneFull (introns too) for nuclei.",
    "Gene|GeneFull",
    "Gene or GeneFull",
    default="Gene",
)
UNKNOWN_BELOW = TextOption(
    "unknown_below",
    "A cell is unknown when its largest probability is below this.",
    r"0(?:\.\d+)?|1(?:\.0+)?",
    "a number from 0 to 1",
    default="0",
)
GENE_NAMES = TextOption(
    "gene_names",
    "Names of genes that the model was trained on: gene_ids for Ensembl ids; symbols without it.",
    r"[\w+-]+",
    "gene_ids or gene_ids+ignore-version",
)
OUT = TextOption("out", "Folder for the results.", _PATH, _A_PATH, default="results")
THREADS = CountOption("threads", "Threads of STAR.", 8, 1, 512)
MEMORY = CountOption("memory", "GiB of memory of STAR; about 32 for a human or mouse index.", 40, 1, 4096)
OWN_IMAGE = replace(
    IMAGE,
    help="Container image made from the dockerfile target, REGISTRY/NAME:TAG; without it, neurofleet of the PATH.",
    required=False,
)
STAR_IMAGE = replace(
    IMAGE,
    name="star_image",
    help="Container image of STAR.",
    required=False,
    default="quay.io/biocontainers/star:2.7.10b--h6b7c446_1",
)

SAMPLES = PathOption(
    "samples",
    "Table of the samples and their FASTQ files; the file's first lines say how.",
    _PATH,
    _A_PATH,
    default="samples.tsv",
)
_FILES = (MODEL, GENOME_INDEX, WHITELIST, SAMPLES, OUT)
_HOW = (CHEMISTRY, FEATURES, UNKNOWN_BELOW, GENE_NAMES, THREADS, MEMORY, STAR_IMAGE)
_PACKAGE = "neurofleet.jobs.pipelines"


def _example(option: TextOption, example: str, what: str) -> TextOption:
    """Return an option of a file that the WDL names in the example of its inputs."""
    text = f"{what}: a path or URI; it stands in the example of the inputs."
    return TextOption(option.name, text, _URI, "a path or URI of letters, digits and ./@%+=,-_ only", example)


PIPELINES = (
    Target(
        "snakemake",
        "Snakefile",
        "Workflow from 10x FASTQ files to labels of cells, for Snakemake 8 and 9.",
        (*_FILES, *_HOW, OWN_IMAGE),
        _PACKAGE,
    ),
    Target(
        "nextflow",
        "main.nf",
        "The same for Nextflow.",
        (*_FILES, *_HOW, OWN_IMAGE),
        _PACKAGE,
    ),
    Target(
        "wdl",
        "labels.wdl",
        "The same for Terra, Cromwell and miniwdl: one sample a run.",
        (
            _example(MODEL, "gs://BUCKET/model.tar.gz", "tar of the folder of the trained SIMS model"),
            _example(GENOME_INDEX, "gs://BUCKET/star-index.tar", "tar of the folder of the STAR index"),
            _example(WHITELIST, "gs://BUCKET/3M-february-2018.txt.gz", "List of the barcodes, plain or .gz"),
            *_HOW,
            IMAGE,
        ),
        _PACKAGE,
    ),
    Target(
        "snakemake-fits",
        "Snakefile",
        "Workflow from ids of the Allen Institute or DANDI to fitted, validated and exported models, for Snakemake.",
        (
            PathOption(
                "cells", "Table of the cells; the file's first lines say how.", _PATH, _A_PATH, default="cells.tsv"
            ),
            TextOption(
                "format", "What models are exported as.", "sonata|allen|hoc", "sonata, allen or hoc", default="sonata"
            ),
            OUT,
            CountOption("threads", "CPUs of a fit; one evaluation runs on each.", 16, 1, 512),
            CountOption("memory", "GiB of memory of a fit.", 32, 1, 4096),
            OWN_IMAGE,
        ),
        _PACKAGE,
    ),
)
