"""From facts about machines to findings: what is well, what is not, and what to do about it.

Facts are those of `cluster.checkup`; nothing here looks at a machine.
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jobs.provenance import SCORING_PACKAGES

MEMORY_PER_CPU_BYTES = 600e6
LEAST_SHARED_MEMORY_BYTES = 200 * 2**20
LEAST_DISK_BYTES, GOOD_DISK_BYTES = 1e9, 5e9
FULLEST_DISK = 0.95  # where Ray stops to put objects on disk
LEAST_OUT_BYTES, GOOD_OUT_BYTES = 10e6, 1e9
GOOD_OPEN_FILES = 4096
CLOCK_TOLERANCE_S = 5.0
HEAD_PORTS = {6379: "--port", 8265: "--dashboard-port"}

Status = Literal["ok", "warning", "fault"]
Fact = dict[str, Any]
Facts = dict[str, Fact]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : str
        What was looked at.
    status : str
        ``ok``, ``warning`` or ``fault``.
    found : str
        What was found.
    advice : str
        What to do; empty when all is well.
    where : str
        The node; empty for this machine.
    """

    check: str
    status: Status
    found: str
    advice: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        if (self.status == "ok") != (not self.advice):
            raise ValueError(f"{self.check}: advice goes with what is not ok, and only with that")


def judged(check: str, fact: Fact, judge: Callable[[Any], Finding]) -> Finding:
    """Judge a fact, or say that it could not be had."""
    if "value" in fact:
        return judge(fact["value"])
    return Finding(
        check,
        "warning",
        f"could not be checked: {fact['unknown']}",
        "Look yourself, or run `neurofleet doctor` on that machine as the user whom Ray runs as there.",
    )


def silent(why: str) -> Finding:
    """A node that took a task and did not return it."""
    return Finding(
        "node",
        "fault",
        f"does not answer: {why}",
        "Look at Ray's logs there (session_latest/logs in its temporary folder), or take the node away.",
    )


def not_started(why: str) -> Finding:
    """No Ray of our own."""
    return Finding(
        "start",
        "fault",
        why,
        "Mend what the message names; until then, jobs run here with the --address of a cluster only.",
    )


def not_connected(why: str) -> Finding:
    """No connection to a cluster."""
    return Finding(
        "connection",
        "fault",
        why,
        "Give host:port as `ray start --head` printed it, on a machine of the cluster that reaches all"
        " ports of the head, with the head's versions of Python and Ray, and its token.",
    )


def machine(facts: Facts, cpus: int) -> list[Finding]:
    """Judge what a machine says of itself."""
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
    found = f"{free_bytes / 1e9:.1f} GB free for {counted(cpus, 'CPU')}"
    if free_bytes >= needed:
        return Finding("memory", "ok", found)
    fitting = int(free_bytes // MEMORY_PER_CPU_BYTES)
    if fitting < 1:
        return Finding(
            "memory",
            "fault",
            f"{found}: one alone needs about {MEMORY_PER_CPU_BYTES / 1e9:.1f} GB",
            "End other programs on it, or take a machine with more memory.",
        )
    return Finding(
        "memory",
        "warning",
        f"{found}, which need about {needed / 1e9:.1f} GB",
        f"Use fewer CPUs (`--cpus {fitting}` here, `ray start --num-cpus={fitting}` on a node), or end other"
        " programs on it.",
    )


def temporary_folder(disk: dict[str, Any]) -> Finding:
    """Ray's logs, sockets and spilled objects."""
    found = f"{disk['folder']}: {disk['free_bytes'] / 1e9:.1f} GB free, {disk['used']:.0%} used"
    if disk["free_bytes"] >= GOOD_DISK_BYTES and disk["used"] < FULLEST_DISK:
        return Finding("temporary folder", "ok", found)
    status: Status = "fault" if disk["free_bytes"] < LEAST_DISK_BYTES else "warning"
    return Finding(
        "temporary folder",
        status,
        f"{found}. Ray keeps logs and sockets there, and refuses to use a disk that is over"
        f" {FULLEST_DISK:.0%} full",
        "Make room, or name another disk (`TMPDIR` here, `ray start --temp-dir` on a cluster).",
    )


def open_files(limit: int) -> Finding:
    """A driver holds several connections to every host."""
    found = f"{'no limit' if limit < 0 else f'up to {limit}'}"
    if limit < 0 or limit >= GOOD_OPEN_FILES:
        return Finding("open files", "ok", found)
    return Finding(
        "open files",
        "warning",
        f"{found}: with many hosts a driver needs more, and Ray then hangs or crashes",
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
    """NEURON and the mechanisms, as `jobs.doctor.neuron` found them in a fresh process."""
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


def token(found: dict[str, Any] | None) -> Finding:
    """The token file, for the eyes of its owner only."""
    if found is None:
        return Finding("token", "ok", "none here; an embedded Ray makes its own")
    if found["mode"] is None or not found["mode"] & 0o077:
        shown = "" if found["mode"] is None else f", mode {found['mode']:04o}"
        return Finding("token", "ok", f"{found['place']}{shown}")
    return Finding(
        "token",
        "fault",
        f"{found['place']} has mode {found['mode']:04o}: other users of the machine can read it, and with it"
        " run code as you",
        f"`chmod 600 {found['place']}`, and if others may have read it, make a new one for the whole"
        " cluster.",
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


def requirements(python: str, found: Sequence[dict[str, Any]]) -> list[Finding]:
    """This Python and its packages against what neurofleet was installed to need."""
    unmet = [package for package in found if not package["met"]]
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


def versions(here: dict[str, str | None], there: dict[str, str | None]) -> list[Finding]:
    """Each package of a node that is not as here, or one line that says that none is."""
    must = ("ray", "neurofleet", *SCORING_PACKAGES)
    differing = [
        Finding(
            name,
            "fault" if name in must else "warning",
            f"{there.get(name) or 'not installed'}, here it is {version or 'not installed'}",
            f"Install {name} {version} on the node, or the node's version here."
            + (" Scores depend on it." if name in SCORING_PACKAGES else ""),
        )
        for name, version in here.items()
        if there.get(name) != version
    ]
    shown = ", ".join(f"{name} {here[name]}" for name in must)
    return differing or [Finding("versions", "ok", f"as here: {shown}")]


def python(here: str, there: str) -> Finding:
    """Ray's workers take pickled functions from the driver: the minor version must be the same."""
    if here == there:
        return Finding("Python", "ok", f"{there} as here")
    same_minor = here.split(".")[:2] == there.split(".")[:2]
    return Finding(
        "Python",
        "warning" if same_minor else "fault",
        f"{there}, here it is {here}",
        f"Give every node Python {here}: Ray asks for the same version everywhere.",
    )


def clock(difference: dict[str, float]) -> Finding:
    """A node's clock against ours."""
    ahead_s, exact_to_s = difference["ahead_s"], difference["exact_to_s"]
    found = f"{abs(ahead_s):.2f} s {'ahead of' if ahead_s > 0 else 'behind'} here (± {exact_to_s:.2f} s)"
    if abs(ahead_s) - exact_to_s <= CLOCK_TOLERANCE_S:
        return Finding("clock", "ok", found)
    return Finding(
        "clock",
        "warning",
        f"{found}: the times in logs and events cannot be compared",
        "Let both machines set their clocks by the network (`timedatectl set-ntp true`, or chrony).",
    )


def token_refused(token: dict[str, Any] | None) -> Finding:
    """A cluster that asks for a token and did not let us in."""
    if token is None:
        return Finding(
            "authentication",
            "fault",
            "the cluster asks for a token, and there is none here",
            "Copy the head's ~/.ray/auth_token to the same place here and `chmod 600` it, or name another"
            " file in RAY_AUTH_TOKEN_PATH.",
        )
    return Finding(
        "authentication",
        "fault",
        f"the cluster asks for a token, and does not take the one in {token['place']}",
        "Copy the token of this cluster's head there; each cluster may have its own.",
    )


def authentication(access: str, reachable: bool) -> Finding:
    """Whether the head let a stranger in; `reachable` says whether other machines get as far as its port."""
    if access == "refused":
        return Finding("authentication", "ok", "a client without the token was refused")
    return Finding(
        "authentication",
        "fault" if reachable else "warning",
        "the cluster asks for no token: anyone who reaches its ports"
        + ("" if reachable else " (programs on that machine)")
        + " can run code on every node",
        "Make a token (`ray get-auth-token --generate`, `chmod 600 ~/.ray/auth_token`), copy it to every"
        " node, and start head and nodes with RAY_AUTH_MODE=token.",
    )


def dashboard(found: dict[str, Any] | None, sockets: Sequence[dict[str, Any]]) -> Finding:
    """Where dashboard and Jobs API listen, and whom they answer."""
    check = "dashboard"
    if found is None:
        return Finding(check, "ok", "none: no Jobs API on this cluster")
    listening = [s["ip"] for s in sockets if s["role"] == "dashboard" and s["port"] == found["port"]]
    outside = [ip for ip in listening if not is_loopback(ip)]
    places = ", ".join(f"{place(ip)}:{found['port']}" for ip in listening) or found["address"]
    if any(ip in ("0.0.0.0", "::") for ip in outside):
        return Finding(
            check,
            "fault",
            f"dashboard and Jobs API listen on every interface ({places})",
            "Start the head with `--dashboard-host=127.0.0.1` and reach it through"
            f" `ssh -L {found['port']}:127.0.0.1:{found['port']} HEAD`.",
        )
    if found["anonymous_status"] == 200:
        return Finding(
            check,
            "fault" if outside else "warning",
            f"the Jobs API at {places} answers without a token: whoever reaches it can run code",
            "Start the head with RAY_AUTH_MODE=token.",
        )
    if outside:
        return Finding(
            check,
            "warning",
            f"dashboard and Jobs API listen on {places}, beyond this machine",
            "Use `--dashboard-host=127.0.0.1` and an ssh tunnel, or let a firewall guard the port.",
        )
    return Finding(
        check, "ok", f"{places} only, answers {found['anonymous_status']} to a client without the token"
    )


def bound(sockets: Sequence[dict[str, Any]]) -> Finding:
    """The interfaces on which everything but the dashboard listens."""
    outside = [s for s in sockets if not is_loopback(s["ip"]) and s["role"] != "dashboard"]
    if not sockets:
        return Finding(
            "bind addresses",
            "warning",
            "no listening socket of Ray was seen, although there must be some",
            "Run `neurofleet doctor` as the user whom Ray runs as, and outside of other network namespaces.",
        )
    if not outside:
        return Finding("bind addresses", "ok", f"{len(sockets)} ports, all on this machine only")
    roles: dict[str, list[str]] = {}
    for socket in outside:
        roles.setdefault(socket["role"], []).append(f"{place(socket['ip'])}:{socket['port']}")
    workers = roles.pop("worker", [])
    shown = [f"{role} {', '.join(sorted(set(places)))}" for role, places in roles.items()]
    if workers:
        shown.append(counted(len(workers), "worker"))
    return Finding(
        "bind addresses",
        "warning",
        f"reached from other machines: {'; '.join(shown)} (* is every interface)",
        "Ray needs this between its nodes. Let a firewall or security group admit the cluster's own network"
        " to these ports, and nobody else.",
    )


def port_collisions(sockets: Sequence[dict[str, Any]], workers: Sequence[int]) -> Finding:
    """Ray's servers whose port Ray may give to a worker as well."""
    first, last = workers
    inside = sorted(
        {(s["port"], s["role"]) for s in sockets if s["role"] != "worker" and first <= s["port"] <= last}
    )
    if not last:
        return Finding("ports", "ok", "workers take whatever port is free")
    span = f"{first}-{last}, which workers take theirs from"
    if not inside:
        return Finding("ports", "ok", f"none of Ray's servers is in {span}")
    shown = ", ".join(f"{role} {port}" for port, role in inside)
    return Finding(
        "ports",
        "warning",
        f"{shown}: in {span}; a restart fails when a worker was first",
        "Give `ray start` ports outside that range (`--port`, `--dashboard-port`, `--node-manager-port`,"
        " `--object-manager-port`, `--ray-client-server-port`).",
    )


def storage_refused(why: str) -> Finding:
    """Results that cannot be written at all."""
    return Finding("storage", "fault", why, "Give an --out that this user may write to.")


def storage(out: str, read_back: bool, room_bytes: int | None) -> Finding:
    """The place that results go to, as this machine sees it."""
    if not read_back:
        return Finding(
            "storage",
            "fault",
            f"{out}: a file was written without an error, and reading it back gave something else",
            "Do not use this storage for results: a run could not be resumed from it.",
        )
    if room_bytes is None:
        return Finding("storage", "ok", f"{out}: written and read back")
    found = f"{out}: written and read back, {room_bytes / 1e9:.1f} GB free"
    if room_bytes >= GOOD_OUT_BYTES:
        return Finding("storage", "ok", found)
    return Finding(
        "storage",
        "fault" if room_bytes < LEAST_OUT_BYTES else "warning",
        found,
        "Make room, or choose another disk. `neurofleet plan JOB.yaml` says how much a job needs.",
    )


def storage_seen(out: str, remote: bool, content: str, fact: Fact) -> Finding:
    """Whether a node read what this machine wrote."""
    seen = fact.get("value") == content
    if seen:
        return Finding("storage", "ok", f"{out}: read what this machine wrote")
    why = fact["unknown"] if "unknown" in fact else "the file that this machine wrote is not there"
    if remote:
        return Finding(
            "storage",
            "fault",
            f"{out}: {why}",
            "Give every node the credentials and the network for this storage: a submitted job writes from"
            " there.",
        )
    return Finding(
        "storage",
        "ok",
        f"{out} is this machine's own folder. That is enough for `run`, whose results are all written here; a"
        " job that is submitted to the cluster needs a shared path or a URI",
    )


def is_loopback(ip: str) -> bool:
    """Whether only programs on the same machine reach this address."""
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def place(ip: str) -> str:
    """An address as people write it."""
    if ip in ("0.0.0.0", "::"):
        return "*"
    return ip.removeprefix("::ffff:")


def counted(number: int, thing: str) -> str:
    """A number of things."""
    return f"{number} {thing}{'s' * (number != 1)}"
