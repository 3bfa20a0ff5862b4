"""What ``neurofleet help TOPIC`` prints: a few lines on what concerns several commands, and the page with more."""

from typing import NamedTuple


class Topic(NamedTuple):
    """A page of help."""

    title: str
    text: str
    page: str
    """Where the documentation says more."""


TOPICS = {
    "resume": Topic(
        "Interrupted runs",
        """\
A run is a folder. Ctrl-C, a kill, a lost machine or the end of a batch job interrupt it; the same command continues
it: neurofleet run JOB.yaml --out OUT, or the same neurofleet submit. What was stored is not computed again, and the
result is that of a run that was never interrupted (of several cells, with evolution: {learn: false}).
Another job, or changed input files, are refused with the difference: give them a folder of their own.
neurofleet status OUT says how far a run is, also while it runs. Only one command at a time may write to a folder.""",
        "tutorials/fifty-cells.md",
    ),
    "results": Topic(
        "What a run leaves",
        """\
OUT/report.html is one page with the pictures (neurofleet report OUT writes it again).
neurofleet results OUT prints a summary; --query "select ..." asks its tables in SQL; --views lists them.
Tables are Parquet, which pandas, polars and DuckDB read; in Python: neurofleet.open_run("OUT").
neurofleet export OUT --to sonata | allen | hoc writes a fitted model for other programs.
neurofleet serve ROOT shows all runs below a folder in a browser.""",
        "how-to/results.md",
    ),
    "clusters": Topic(
        "Clusters",
        """\
neurofleet run JOB.yaml needs no cluster. neurofleet deploy TARGET prints the files of one: onprem, aws, gcp, slurm,
raycluster, rayjob, dockerfile, apptainer. On a running Ray cluster:
  neurofleet doctor --address HOST:PORT              checks every node
  neurofleet run JOB.yaml --out OUT --address HOST:PORT      from one of its machines, which waits for the end
  neurofleet submit JOB.yaml --out URI --address http://HOST:8265      from anywhere; it runs on without you
  neurofleet status | logs | cancel NAME --address http://HOST:8265
The versions of Python, Ray and neurofleet must be the same everywhere. Whoever reaches a cluster without a token can
run code on it: set RAY_AUTH_MODE=token.""",
        "clusters.md",
    ),
    "formats": Topic(
        "Files that are read",
        """\
recordings       NWB 2, NWB 1 of the Allen Institute; ABF, Igor, WinWCP and others with neurofleet[formats]
morphologies     SWC, Neurolucida ASC, HDF5 of MorphIO
mechanisms       NMODL (.mod)
cells x genes    h5ad, h5mu, 10x (h5 and folders), mtx, loom, zarr, rds of Seurat and SingleCellExperiment, CSV, Parquet
units            NWB, Kilosort, phy, SpikeInterface, CellExplorer, ALF, npz, tables
populations      NWB, suite2p, CaImAn, npz, the Bugeon release
neurofleet inspect FILE says what a recording or a morphology holds; neurofleet new KIND FILES writes a job for files.
Paths may be patterns and URLs. neurofleet fetch downloads from Allen, DANDI and NeuroMorpho.Org.""",
        "formats.md",
    ),
    "engines": Topic(
        "Engines",
        """\
engine: auto (the default) searches with the vector engine where it can, 16 models at a time, and with NEURON
otherwise; engine: neuron and engine: vector choose one. Stages without spikes use NEURON. Whichever searches, NEURON
scores the hall of fame again at a tighter tolerance. The vector engine needs a C++ compiler on each machine.
neurofleet plan JOB.yaml measures both and says which is used, and why.""",
        "engines.md",
    ),
    "exit-codes": Topic(
        "Exit codes",
        """\
0    done
1    the job failed
2    the job file or the command is wrong
3    a cluster or an object store is unreachable; the run can be resumed
130  interrupted; the run can be resumed""",
        "reference/commands.md",
    ),
    "environment": Topic(
        "Variables of the environment",
        """\
NEUROFLEET_CACHE           compiled mechanisms, kernels, downloads ($XDG_CACHE_HOME/neurofleet, ~/.cache/neurofleet)
NEUROFLEET_CACHE_GB        its size (8)
NEUROFLEET_MODELS          folders and URLs of published models, separated by commas
RAY_API_SERVER_ADDRESS     the cluster of submit, status, logs, cancel and list, in place of --address
RAY_AUTH_MODE=token        send and ask for the token of RAY_AUTH_TOKEN_PATH (~/.ray/auth_token)
NEUROFLEET_NOTIFY          a URL or a command that is told how runs ended, beside a job's notify:
NO_COLOR=1                 no colours
CXX                        the C++ compiler of the vector engine
AWS_ENDPOINT_URL and other variables of AWS and Google clients hold for object stores.""",
        "getting-started/installation.md",
    ),
}
