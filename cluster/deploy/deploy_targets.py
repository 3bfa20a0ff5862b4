"""The places a cluster can be started in, and the options of their deployment files."""

from __future__ import annotations

import getpass
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neurofleet.errors import ClusterError

OptionValue = str | int | tuple[str, ...] | None


class OptionRefused(ClusterError):
    """A deployment file was asked for with options that do not make one."""

    exit_code = 2


@dataclass(frozen=True)
class TextOption:
    """An option whose value is written into the file as it is, so only harmless characters pass.

    Attributes
    ----------
    name : str
        As Python and the templates spell it.
    help : str
        One line for ``--help``.
    pattern : str
        Regular expression of the whole value.
    expected : str
        The pattern in words, for the message.
    default : str, callable or None
        What holds without the option; called for its value if it can be.
    required : bool
        Whether there is no file without it.
    many : bool
        Whether it may be given several times; its value is a tuple then.
    """

    name: str
    help: str
    pattern: str
    expected: str
    default: str | Callable[[], str] | None = None
    required: bool = False
    many: bool = False

    def read(self, given: OptionValue | Sequence[str]) -> OptionValue:
        """Return the checked value, or raise `OptionRefused`."""
        if self.many:
            values = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
            for value in values:
                self._check(value)
            return values
        if given is None:
            given = self.default() if callable(self.default) else self.default
        if given is not None:
            self._check(given)
        return given if isinstance(given, str) else None

    def _check(self, value: object) -> None:
        if not (isinstance(value, str) and re.fullmatch(self.pattern, value, re.ASCII)):
            raise OptionRefused(f"{flag(self.name)} {value!r}: expected {self.expected}.")


@dataclass(frozen=True)
class PathOption(TextOption):
    """An option that names a file or folder, which this machine need not have.

    Attributes
    ----------
    holds : str
        A file that the folder must hold; empty for a file.
    """

    holds: str = ""

    def read(self, given: OptionValue | Sequence[str]) -> OptionValue:
        """Return the checked value, or raise `OptionRefused`: also if it is here and something else."""
        value = super().read(given)
        if isinstance(value, str) and (here := Path(value)).exists():
            if self.holds and not (here / self.holds).is_file():
                raise OptionRefused(
                    f"{flag(self.name)} {value}: expected a folder with {self.holds}, found none in it."
                )
            if not self.holds and here.is_dir():
                raise OptionRefused(f"{flag(self.name)} {value}: expected a file, found a folder.")
        return value

    def note(self, value: OptionValue | Sequence[str]) -> str:
        """Return what is to be said of a value that was accepted, empty if nothing."""
        if value == self.default or not isinstance(value, str) or Path(value).exists():
            return ""
        return f"{flag(self.name)} {value} is not on this machine; it must be where the workflow runs."


@dataclass(frozen=True)
class CountOption:
    """An option that is a whole number within bounds.

    Attributes
    ----------
    name, help : str
        As of `TextOption`.
    default, smallest, largest : int
        The value without the option, and the bounds, which it may reach.
    """

    name: str
    help: str
    default: int
    smallest: int
    largest: int
    required: bool = False
    many: bool = False

    def read(self, given: OptionValue | Sequence[str]) -> OptionValue:
        """Return the checked value, or raise `OptionRefused`."""
        value = self.default if given is None else given
        if not isinstance(value, int) or not self.smallest <= value <= self.largest:
            raise OptionRefused(
                f"{flag(self.name)} {value}: expected a whole number from {self.smallest} to {self.largest}."
            )
        return value


Option = TextOption | CountOption


def flag(name: str) -> str:
    """Return an option as the command line spells it."""
    return "--" + name.replace("_", "-")


PATH_CHARACTERS = r"[\w./@%+=,-]+"


@dataclass(frozen=True)
class Target:
    """A kind of deployment file.

    Attributes
    ----------
    name : str
        What the user calls it.
    file : str
        What the file is usually called.
    help : str
        One line about it.
    options : tuple of Option
        What it can be told.
    package : str
        The package whose folder ``templates`` has its template.
    """

    name: str
    file: str
    help: str
    options: tuple[Option, ...] = ()
    package: str = "neurofleet.cluster.deploy"


def _own_bin() -> str:
    return str(Path(sys.executable).parent)


NAME = TextOption(
    "name",
    "What the cluster or job is called.",
    r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?",
    "up to 40 lower-case letters, digits and dashes, a letter first and no dash last",
    default="neurofleet",
)
HOST = r"(?!-)[A-Za-z0-9.-]{1,253}"
A_HOST = "the name or IPv4 address of one machine, as ssh takes it"
IMAGE = TextOption(
    "image",
    "Container image made from the dockerfile target, REGISTRY/NAME:TAG.",
    r"[a-z0-9][\w./:@-]*",
    "an image that the cluster can pull, such as registry.example.org/lab/neurofleet:0.2.0",
    required=True,
)
POD_CPUS = CountOption("cpus", "CPUs of a worker pod; one evaluation runs on each.", 8, 1, 512)
POD_MEMORY = CountOption("memory_per_cpu", "GiB of memory for each CPU of a worker pod.", 2, 1, 64)
CLAIM = TextOption(
    "claim",
    "PersistentVolumeClaim (ReadWriteMany) that all pods see as /data.",
    r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?",
    "the name of a PersistentVolumeClaim: lower-case letters, digits, dashes and dots",
)
OUT = TextOption(
    "out",
    "Where results go: a path that all nodes see, or a URI such as s3://BUCKET/FOLDER.",
    r"(?:/|[a-z0-9]+://)" + PATH_CHARACTERS,
    "an absolute path or a URI, of letters, digits and ./@%+=,-_ only",
    required=True,
)
OUT_WITH_QUERY = replace(
    OUT,
    pattern=rf"{OUT.pattern}|[a-z0-9]+://{PATH_CHARACTERS}\?[\w./:%+=,&-]+",
    expected=f"{OUT.expected}; a URI may have a query after ?",
)
"""Not for a RayJob, whose command passes through several shells."""
JOB = TextOption(
    "job",
    "The job file, as the nodes see it.",
    "/" + PATH_CHARACTERS,
    "an absolute path of letters, digits and ./@%+=,-_ only, such as /data/rat.yaml",
    required=True,
)
INSTANCE = "an instance type of the provider, such as "
SSH_USER = TextOption(
    "ssh_user",
    "Account on the machines; best one that runs nothing else.",
    r"[A-Za-z_][\w.-]*",
    "the name of an account",
    default=getpass.getuser,
)
CLOUD_WORKERS = CountOption("workers", "Spot machines to keep running.", 4, 1, 10_000)
GCP_TYPE = r"[a-z]\w*-(?:standard|highcpu|highmem)-\d+"

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            "onprem",
            "lab.yaml",
            "Machines of your own, through ssh: a file for Ray's cluster launcher.",
            (
                NAME,
                TextOption("head", "The machine that leads, and runs the driver.", HOST, A_HOST, required=True),
                TextOption("worker", "A machine that works; once for each.", HOST, A_HOST, many=True),
                SSH_USER,
                TextOption(
                    "ssh_key",
                    "Private key for all of them; it is copied to the head, which needs it for the workers.",
                    r"[~/][\w./@%+=,~-]*",
                    "a path that begins with / or ~",
                    default="~/.ssh/id_ed25519",
                ),
            ),
        ),
        Target(
            "aws",
            "aws.yaml",
            "Amazon EC2: head on demand, spot workers; a file for Ray's cluster launcher.",
            (
                NAME,
                TextOption("region", "Region.", r"[a-z]{2}(?:-[a-z]+)+-\d", "a region such as us-east-1", "us-east-1"),
                CLOUD_WORKERS,
                TextOption(
                    "worker_type",
                    "Instance type of the workers (x86-64).",
                    r"[a-z0-9-]+\.[a-z0-9-]+",
                    INSTANCE + "c7i.8xlarge",
                    "c7i.8xlarge",
                ),
                TextOption(
                    "head_type",
                    "Instance type of the head (x86-64).",
                    r"[a-z0-9-]+\.[a-z0-9-]+",
                    INSTANCE + "m7i.xlarge",
                    "m7i.xlarge",
                ),
            ),
        ),
        Target(
            "gcp",
            "gcp.yaml",
            "Google Compute Engine: head on demand, spot workers; a file for Ray's cluster launcher.",
            (
                NAME,
                TextOption(
                    "project",
                    "Project id.",
                    r"[a-z][a-z0-9-]{4,28}[a-z0-9]",
                    "a project id such as my-lab-1234",
                    required=True,
                ),
                TextOption(
                    "zone",
                    "Zone.",
                    r"[a-z]+-[a-z]+\d+-[a-z]",
                    "a zone such as us-central1-a",
                    "us-central1-a",
                ),
                CLOUD_WORKERS,
                TextOption(
                    "worker_type",
                    "Machine type of the workers (x86-64).",
                    GCP_TYPE,
                    INSTANCE + "c3-standard-22: series, standard, highcpu or highmem, and number of CPUs",
                    "n2-standard-32",
                ),
                TextOption(
                    "head_type",
                    "Machine type of the head (x86-64).",
                    GCP_TYPE,
                    INSTANCE + "n2-standard-4: series, standard, highcpu or highmem, and number of CPUs",
                    "n2-standard-4",
                ),
            ),
        ),
        Target(
            "raycluster",
            "raycluster.yaml",
            "Kubernetes with KubeRay: a cluster that stays until it is deleted.",
            (
                NAME,
                IMAGE,
                CountOption("workers", "Worker pods.", 4, 1, 10_000),
                POD_CPUS,
                POD_MEMORY,
                CLAIM,
            ),
        ),
        Target(
            "rayjob",
            "rayjob.yaml",
            "Kubernetes with KubeRay: one job on a cluster of its own, which ends with it.",
            (
                NAME,
                IMAGE,
                JOB,
                OUT,
                CountOption("workers", "Worker pods.", 4, 1, 10_000),
                POD_CPUS,
                POD_MEMORY,
                CLAIM,
            ),
        ),
        Target(
            "slurm",
            "neurofleet.sbatch",
            "Slurm: a batch script that runs one job on several nodes.",
            (
                NAME,
                JOB,
                OUT_WITH_QUERY,
                CountOption("nodes", "Nodes.", 4, 1, 1000),
                CountOption("cpus", "CPUs of a node; two of the first are left to the driver.", 32, 4, 1024),
                CountOption("memory_per_cpu", "GiB of memory for each CPU.", 2, 1, 64),
                CountOption("hours", "Time limit; requeued when it is reached.", 24, 1, 720),
                TextOption("partition", "Partition.", r"[\w.,-]+", "the name of a partition"),
                TextOption("account", "Account to charge.", r"[\w.-]+", "the name of an account"),
                TextOption(
                    "bin",
                    "Folder of neurofleet and ray on the nodes.",
                    "/" + PATH_CHARACTERS,
                    "an absolute path of letters, digits and ./@%+=,-_ only",
                    default=_own_bin,
                ),
                TextOption(
                    "image",
                    "Apptainer image to run in, in place of --bin.",
                    "/" + PATH_CHARACTERS,
                    "an absolute path of letters, digits and ./@%+=,-_ only, such as /home/me/neurofleet.sif",
                ),
            ),
        ),
        Target("dockerfile", "Dockerfile", "Container image with the ion channels compiled in."),
        Target("apptainer", "neurofleet.def", "The same for Apptainer, which most Slurm sites have."),
    )
}
