"""Checks of one machine: from the facts that it reports to findings."""

import time
from collections.abc import Sequence
from typing import Any

from neurofleet.jobs.doctor.findings import Facts, Finding, Status, counted, judged
from neurofleet.neurosim.mechanisms import MECHANISMS, load_mechanisms


def neuron_facts() -> dict[str, Any]:
    """Load every mechanism, compiling what is not compiled yet, and initialise a section that holds it.

    Returns
    -------
    dict
        NEURON's ``version``, the number of ``mechanisms`` that came up, and the ``seconds`` it took.

    Raises
    ------
    InputError
        The mechanisms cannot be compiled or loaded.
    """
    started = time.monotonic()
    load_mechanisms()
    import neuron

    section = neuron.h.Section(name="soma")
    for name in MECHANISMS:
        section.insert(name)
    neuron.h.finitialize(-65.0)
    inserted = {mechanism.name() for mechanism in section(0.5)}
    missing = set(MECHANISMS) - inserted
    if missing:
        raise RuntimeError(f"NEURON took the mechanisms {', '.join(sorted(missing))} and does not have them")
    seconds = round(time.monotonic() - started, 1)
    return {"version": neuron.__version__, "mechanisms": len(inserted), "seconds": seconds}


MEMORY_PER_CPU_BYTES = 600e6
LEAST_SHARED_MEMORY_BYTES = 200 * 2**20
LEAST_DISK_BYTES, GOOD_DISK_BYTES = 1e9, 5e9
FULLEST_DISK = 0.95  # where Ray stops to put objects on disk
GOOD_OPEN_FILES = 4096
HEAD_PORTS = {6379: "--port", 8265: "--dashboard-port"}


def machine(facts: Facts, cpus: int) -> list[Finding]:
    """Judge the facts that a machine reports."""
    return [
        _tools(facts),
        judged("memory", facts["memory_bytes"], lambda free: memory(free, cpus)),
        judged("temporary folder", facts["temporary"], temporary_folder),
        judged("open files", facts["open_files"], open_files),
    ]


def _tools(facts: Facts) -> Finding:
    def judge(compiler: str | None) -> Finding:
        return judged("compiler", facts["make"], lambda make: compiler_and_make(compiler, make))

    return judged("compiler", facts["compiler"], judge)


def compiler_and_make(compiler: str | None, make: str | None) -> Finding:
    """Mechanisms compiled before go on without; whether they do is `neuron`'s to say."""
    tools = {"C++ compiler (g++, clang++ or c++)": compiler, "make": make}
    missing = [name for name, found in tools.items() if not found]
    if not missing:
        return Finding("compiler", "ok", f"{compiler}, {make}")
    return Finding(
        "compiler",
        "warning",
        f"no {' and no '.join(missing)} on PATH: mechanisms that are not compiled yet cannot be",
        "Install them (Debian, Ubuntu: `apt-get install g++ make`; Fedora: `dnf install gcc-c++ make`).",
    )


def memory(free_bytes: int, cpus: int) -> Finding:
    """Every CPU holds one built cell and its evaluations."""
    needed = max(1, cpus) * MEMORY_PER_CPU_BYTES
    text = f"{free_bytes / 1e9:.1f} GB free for {counted(cpus, 'CPU')}"
    if free_bytes >= needed:
        return Finding("memory", "ok", text)
    fitting = int(free_bytes // MEMORY_PER_CPU_BYTES)
    if fitting < 1:
        return Finding(
            "memory",
            "fault",
            f"{text}: one alone needs about {MEMORY_PER_CPU_BYTES / 1e9:.1f} GB",
            "End other programs on it, or take a machine with more memory.",
        )
    return Finding(
        "memory",
        "warning",
        f"{text}, which need about {needed / 1e9:.1f} GB",
        f"Use fewer CPUs (`--cpus {fitting}` here, `ray start --num-cpus={fitting}` on a node), or end other"
        " programs on it.",
    )


def temporary_folder(disk: dict[str, Any]) -> Finding:
    """Ray's logs, sockets and spilled objects."""
    text = f"{disk['folder']}: {disk['free_bytes'] / 1e9:.1f} GB free, {disk['used']:.0%} used"
    if disk["free_bytes"] >= GOOD_DISK_BYTES and disk["used"] < FULLEST_DISK:
        return Finding("temporary folder", "ok", text)
    status: Status = "fault" if disk["free_bytes"] < LEAST_DISK_BYTES else "warning"
    return Finding(
        "temporary folder",
        status,
        f"{text}. Ray keeps logs and sockets there, and refuses to use a disk that is over {FULLEST_DISK:.0%} full",
        "Make room, or name another disk (`TMPDIR` here, `ray start --temp-dir` on a cluster).",
    )


def open_files(limit: int) -> Finding:
    """A driver holds several connections to every host."""
    text = f"{'no limit' if limit < 0 else f'up to {limit}'}"
    if limit < 0 or limit >= GOOD_OPEN_FILES:
        return Finding("open files", "ok", text)
    return Finding(
        "open files",
        "warning",
        f"{text}: with many hosts a driver needs more, and Ray then hangs or crashes",
        "Raise it before Ray is started: `ulimit -n 65536` (for good: /etc/security/limits.conf).",
    )


def shared_memory(free_bytes: int) -> Finding:
    """What an embedded Ray puts its object store in."""
    found = f"{free_bytes / 1e6:.0f} MB free"
    if free_bytes >= LEAST_SHARED_MEMORY_BYTES:
        return Finding("/dev/shm", "ok", found)
    return Finding(
        "/dev/shm",
        "warning",
        f"{found}, Ray wants {LEAST_SHARED_MEMORY_BYTES / 1e6:.0f} MB and silently takes the temporary"
        " folder, which is slower",
        "Enlarge it: `mount -o remount,size=2G /dev/shm`, in a container `--shm-size=2g`.",
    )


def object_store(folder: str) -> Finding:
    """Where a running node put its object store."""
    if folder.startswith("/dev/shm"):
        return Finding("/dev/shm", "ok", f"the object store is in {folder}")
    return Finding(
        "/dev/shm",
        "warning",
        f"the object store is in {folder}, where Ray puts it when /dev/shm is too small: slow, on a disk",
        "Enlarge /dev/shm (in a container: `--shm-size`) or give `ray start` a smaller"
        " `--object-store-memory`, and start this node again.",
    )


def neuron(answer: dict[str, Any]) -> Finding:
    """NEURON and the mechanisms, as `neurofleet.jobs.doctor.machine_checks` found them in a fresh process."""
    if "error" not in answer:
        result = answer["value"]
        return Finding(
            "NEURON",
            "ok",
            f"{result['version']}, {result['mechanisms']} mechanisms loaded in {result['seconds']:g} s",
        )
    error = answer["error"]
    if "No module named 'jobs" in error or "No module named 'neurosim" in error:
        return Finding(
            "NEURON",
            "fault",
            f"neurofleet is not there ({error})",
            "Install the same neurofleet in the Python that Ray was started with on this node.",
        )
    if "No module named" in error:
        return Finding(
            "NEURON",
            "fault",
            error,
            "Install neurofleet again in this Python, with everything that it depends on.",
        )
    return Finding(
        "NEURON",
        "fault",
        error,
        "No cell can be simulated before this is mended: do what the message says, then ask again.",
    )


def token(file: dict[str, Any] | None) -> Finding:
    """The token file, for the eyes of its owner only."""
    if file is None:
        return Finding("token", "ok", "none here; an embedded Ray makes its own")
    if file["mode"] is None or not file["mode"] & 0o077:
        shown = "" if file["mode"] is None else f", mode {file['mode']:04o}"
        return Finding("token", "ok", f"{file['place']}{shown}")
    return Finding(
        "token",
        "fault",
        f"{file['place']} has mode {file['mode']:04o}: other users of the machine can read it, and with it"
        " run code as you",
        f"`chmod 600 {file['place']}`, and if others may have read it, make a new one for the whole cluster.",
    )


def session_folder(access: dict[str, Any]) -> Finding:
    """Where a node of Ray keeps its files, also those of jobs: it lets every account write there."""
    if not access["open"]:
        return Finding("Ray's folder", "ok", f"{access['folder']} is closed to other accounts")
    return Finding(
        "Ray's folder",
        "warning",
        f"other accounts of this machine can write in {access['folder']}, where the files of submitted jobs are, and so"
        " run code as you",
        "If there are others, start Ray with a folder that lets nobody in: `mkdir -m 700 /tmp/mine && ray start"
        " --temp-dir=/tmp/mine/r ...`, as the files of `neurofleet deploy` do.",
    )


def ports(free: dict[int, bool]) -> Finding:
    """The ports that `ray start --head` takes if it is not told otherwise."""
    taken = [port for port, is_free in free.items() if not is_free]
    if not taken:
        return Finding("ports", "ok", f"{', '.join(map(str, free))} are free for a head")
    options = " ".join(f"{HEAD_PORTS[port]}=PORT" for port in taken)
    return Finding(
        "ports",
        "warning",
        f"{', '.join(map(str, taken))} in use: a second head with Ray's usual ports cannot be started here",
        f"Nothing, if that is the Ray you want; otherwise `ray start --head {options}` with free ports"
        " outside 10002-19999.",
    )


def requirements(python: str, installed: Sequence[dict[str, Any]]) -> list[Finding]:
    """This Python and its packages against what neurofleet was installed to need."""
    unmet = [package for package in installed if not package["met"]]
    if not unmet:
        return [Finding("Python", "ok", f"{python}, with the packages that neurofleet needs")]
    return [
        Finding(
            package["name"],
            "fault",
            f"{package['found'] or 'not installed'}, and neurofleet needs {package['needs']}",
            "Install neurofleet again in a virtual environment of its own, with `-c constraints.txt`.",
        )
        for package in unmet
    ]
