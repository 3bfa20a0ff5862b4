"""``neurofleet doctor``: look at this machine, and at every node of a cluster, before a job does."""

import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.table import Table
from rich.text import Text

from neurofleet.cluster.ray import admission, checkup
from neurofleet.cluster.ray.session import available_cpus, connect
from neurofleet.cluster.store.folders import LocalFolder, open_folder
from neurofleet.errors import ClusterError, ClusterUnreachable, JobError, TokenRefused
from neurofleet.jobs.doctor import cluster_checks, machine_checks
from neurofleet.jobs.doctor.findings import Facts, Finding, counted, is_loopback, judged
from neurofleet.jobs.run_folder import PACKAGES
from neurofleet.jobs.terminal import print_json, terminal

NEURON = "neurofleet.jobs.doctor.machine_checks:neuron_facts"
NODES_IN_FULL = 4
LOG_WIDTH = 110
COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


def doctor(address: str | None, out: str | None, as_json: bool) -> None:
    """Check this machine, and the cluster at `address` or an embedded Ray; print the findings.

    Parameters
    ----------
    address : str, optional
        ``auto`` or ``host:port`` of a running head.
    out : str, optional
        A folder or URI that results are to go to: can it be written here, and read on every node?

    Raises
    ------
    JobError
        Something is at fault.
    ClusterUnreachable
        Nothing could be asked of the cluster.
    """
    report = Report(as_json, address)
    with ExitStack() as probe:
        facts, findings = _this_machine(report)
        stored = None
        if out is not None:
            with report.doing(f"Writing to {out}"):
                stored, finding = _store(out, probe)
            findings.append(finding)
        report.add("This machine", findings)
        reached = True
        if address is None:
            _embedded_ray(report)
        else:
            reached = _cluster(report, address, facts, stored)
    report.close()
    if not reached:
        raise ClusterUnreachable(f"no cluster was reached at {address}; the findings say why.")
    faults = sum(finding.status == "fault" for finding in report.findings)
    if faults:
        raise JobError(f"{counted(faults, 'fault')} found; the findings say what to do.")


class Report:
    """Collects findings; prints them section by section, or all at once as JSON."""

    def __init__(self, as_json: bool, address: str | None) -> None:
        self.findings: list[Finding] = []
        self._as_json = as_json
        self._address = address
        self._out = terminal(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
        self._progress = terminal(errors=True, highlight=False)

    @contextmanager
    def doing(self, what: str) -> Iterator[Callable[[str], None]]:
        """Print what takes time on standard error; the yielded function prints another text in its place."""
        if not self._progress.is_terminal:
            self._progress.print(f"{what} …", soft_wrap=True, markup=False)
            yield lambda text: None
            return
        with self._progress.status(f"{what} …") as status:
            yield lambda text: status.update(f"{text} …")

    def add(self, title: str, findings: Sequence[Finding], where: str = "", brief: bool = False) -> None:
        """Add a section; a brief one shows only what is not well, and a count."""
        self.findings += [replace(finding, where=where) for finding in findings]
        if self._as_json:
            return
        shown = [f for f in findings if f.status != "ok"] if brief else findings
        table = Table.grid(padding=(0, 2))
        table.add_column(width=7)
        table.add_column(min_width=16)
        table.add_column(overflow="fold")
        for finding in shown:
            text = f"{finding.found}\n→ {finding.advice}" if finding.advice else finding.found
            table.add_row(*_plain(finding.status, finding.check, text), style=_style(finding))
        if brief and len(shown) < len(findings):
            table.add_row("ok", f"{len(findings) - len(shown)} other checks", style=COLOURS["ok"])
        self._out.print(title, style="bold", markup=False)
        self._out.print(table)

    def close(self) -> None:
        """Print the end of it."""
        if self._as_json:
            faults = any(finding.status == "fault" for finding in self.findings)
            record = {"address": self._address, "ok": not faults, "findings": [*map(asdict, self.findings)]}
            print_json(record)
        else:
            counts = {s: sum(f.status == s for f in self.findings) for s in COLOURS}
            self._out.print(", ".join(f"{count} {status}" for status, count in counts.items()), style="bold")


def _plain(*texts: str) -> list[Text]:
    return [Text(text) for text in texts]


def _style(finding: Finding) -> str:
    return "" if finding.status == "ok" else COLOURS[finding.status]


@dataclass(frozen=True)
class Stored:
    """A file that was written for the nodes to read."""

    root: str
    remote: bool
    name: str
    content: str


def _this_machine(report: Report) -> tuple[Facts, list[Finding]]:
    with report.doing("Looking at this machine"):
        facts = checkup.machine_facts(PACKAGES)
        free = {port: checkup.port_is_free(port) for port in machine_checks.HEAD_PORTS}
        findings = [
            *machine_checks.requirements(platform.python_version(), _requirements()),
            *machine_checks.machine(facts, available_cpus()),
            judged("/dev/shm", facts["shared_memory_bytes"], machine_checks.shared_memory),
            judged("token", facts["token"], machine_checks.token),
            machine_checks.ports(free),
        ]
    with report.doing("Loading NEURON and the mechanisms, compiling them if they are not yet"):
        findings.insert(1, machine_checks.neuron(checkup.call_in_fresh_process(NEURON)))
    return facts, findings


def _requirements() -> list[dict[str, Any]]:
    """What neurofleet was installed to need, and what is there of it."""
    package = metadata.metadata("neurofleet")
    extras = [extra for extra in package.get_all("Provides-Extra") or () if extra != "test"]
    python = SpecifierSet(package["Requires-Python"] or "")
    version = platform.python_version()
    requirements: list[dict[str, Any]] = [
        {"name": "Python", "needs": str(python), "found": version, "met": python.contains(version)}
    ]
    for line in metadata.requires("neurofleet") or ():
        needed = Requirement(line)
        there = checkup.package_version(needed.name)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            in_extra = any(needed.marker.evaluate({"extra": extra}) for extra in extras)
            if not in_extra or there is None:
                continue
        met = there is not None and needed.specifier.contains(there, prereleases=True)
        requirements.append({"name": needed.name, "needs": str(needed.specifier), "found": there, "met": met})
    return requirements


def _store(out: str, probe: ExitStack) -> tuple[Stored | None, Finding]:
    """Write a file that is removed when `probe` closes, read it back, and judge."""
    root = out if "://" in out else str(Path(out).absolute())
    try:
        name, content = probe.enter_context(checkup.probe_file(root))
        folder = open_folder(root)
        read = (folder.read(name) or b"").decode()
        room = folder.room_bytes()
    except ClusterError as error:
        return None, cluster_checks.storage_refused(str(error))
    stored = Stored(root, not isinstance(folder, LocalFolder), name, content)
    return stored, cluster_checks.storage(root, read == content, room)


def _embedded_ray(report: Report) -> None:
    """Start an embedded Ray as `run` does, and look at it."""
    started = time.monotonic()
    try:
        with report.doing("Starting an embedded Ray, which takes some seconds"), connect(cpus=1) as session:
            seconds = time.monotonic() - started
            access = checkup.ask_fact(lambda: admission.anonymous_access(session.address))
            node = checkup.node_facts(())[0]
    except ClusterError as error:
        report.add("Ray, embedded", [cluster_checks.not_started(str(error))])
        return
    findings = [Finding("start", "ok", f"up in {seconds:.1f} s")]
    if "value" not in node["answer"]:
        findings.append(cluster_checks.silent(node["answer"]["unknown"]))
    else:
        findings += [
            judged("authentication", access, lambda how: cluster_checks.authentication(how, False)),
            judged("bind addresses", node["sockets"], cluster_checks.bound),
            judged("/dev/shm", node["object_store"], machine_checks.object_store),
            judged("Ray's folder", node["session_folder"], machine_checks.session_folder),
        ]
    report.add("Ray, embedded", findings)


def _cluster(report: Report, address: str, here: Facts, stored: Stored | None) -> bool:
    """Check a cluster and each of its nodes; return whether it was reached."""
    try:
        with report.doing(f"Connecting to {address}") as update:
            with connect(address) as session:
                access = checkup.ask_fact(lambda: admission.anonymous_access(session.address))
                nodes = checkup.node_facts(
                    PACKAGES,
                    NEURON,
                    (stored.root, stored.name) if stored else None,
                    lambda done, of: update(f"Asking the nodes, {done} of {of} have answered"),
                )
    except TokenRefused:
        refused = judged("authentication", here["token"], cluster_checks.token_refused)
        report.add(f"Cluster at {address}", [refused])
        return False
    except ClusterUnreachable as error:
        report.add(f"Cluster at {address}", [cluster_checks.not_connected(str(error))])
        return False
    gcs = [s for s in nodes[0].get("sockets", {}).get("value", ()) if s["role"] == "GCS"]
    reachable = not gcs or any(not is_loopback(socket["ip"]) for socket in gcs)
    cpus = sum(node["cpus"]["value"] for node in nodes)
    report.add(
        f"Cluster at {session.address}",
        [
            Finding("nodes", "ok", f"{len(nodes)} alive, {counted(cpus, 'CPU')}"),
            judged("authentication", access, lambda how: cluster_checks.authentication(how, reachable)),
        ],
    )
    for node in nodes:
        name = _name(node, nodes)
        report.add(f"Node {name}", _node(node, here, stored), where=name, brief=len(nodes) > NODES_IN_FULL)
    return True


def _name(node: Facts, nodes: Sequence[Facts]) -> str:
    """A node's address and host name; with its id where a machine has several."""
    name = f"{node['address']['value']} ({node['hostname']['value']}{', head' * node['head']['value']})"
    alone = sum(other["address"] == node["address"] for other in nodes) == 1
    return name if alone else f"{name} {node['node']['value'][:8]}"


def _node(node: Facts, here: Facts, stored: Stored | None) -> list[Finding]:
    if "value" not in node["answer"]:
        return [cluster_checks.silent(node["answer"]["unknown"])]

    def dashboard(answer: dict[str, Any] | None) -> Finding:
        return judged("dashboard", node["sockets"], lambda sockets: cluster_checks.dashboard(answer, sockets))

    def ports(workers: Sequence[int]) -> Finding:
        return judged("ports", node["sockets"], lambda sockets: cluster_checks.port_collisions(sockets, workers))

    findings = [
        judged("Python", node["python"], lambda there: cluster_checks.python(here["python"]["value"], there)),
        *cluster_checks.versions(here["packages"]["value"], node["packages"]["value"]),
        judged("NEURON", node["call"], machine_checks.neuron),
        *machine_checks.machine(node, node["cpus"]["value"]),
        judged("/dev/shm", node["object_store"], machine_checks.object_store),
        judged("Ray's folder", node["session_folder"], machine_checks.session_folder),
        judged("bind addresses", node["sockets"], cluster_checks.bound),
        judged("ports", node["worker_ports"], ports),
        judged("clock", node["clock"], cluster_checks.clock),
    ]
    if node["head"]["value"]:
        findings.append(judged("dashboard", node["dashboard"], dashboard))
    if node["token"].get("value", True) is not None:
        findings.append(judged("token", node["token"], machine_checks.token))
    if stored is not None:
        seen = cluster_checks.storage_seen(stored.root, stored.remote, stored.content, node["storage"])
        findings.append(seen)
    return findings
