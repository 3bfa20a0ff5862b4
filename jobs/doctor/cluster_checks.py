"""Checks of a cluster and its nodes: from the facts of `neurofleet.cluster.ray.checkup` to findings."""

from collections.abc import Sequence
from typing import Any

from neurofleet.jobs.doctor.findings import Fact, Finding, counted, is_loopback, place
from neurofleet.jobs.fit.fit_job import FitSpec

LEAST_OUT_BYTES, GOOD_OUT_BYTES = 10e6, 1e9
CLOCK_TOLERANCE_S = 5.0


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
        "Fix what the message names; until then, jobs run here with the --address of a cluster only.",
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


def versions(here: dict[str, str | None], there: dict[str, str | None]) -> list[Finding]:
    """Each package of a node that is not as here, or one line that says that none is."""
    must = ("ray", "neurofleet", *FitSpec.decisive_packages)
    differing = [
        Finding(
            name,
            "fault" if name in must else "warning",
            f"{there.get(name) or 'not installed'}, here it is {version or 'not installed'}",
            f"Install {name} {version} on the node, or the node's version here."
            + (" Scores depend on it." if name in FitSpec.decisive_packages else ""),
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


def clock(offset: dict[str, float]) -> Finding:
    """A node's clock against ours."""
    ahead_s, exact_to_s = offset["ahead_s"], offset["exact_to_s"]
    text = f"{abs(ahead_s):.2f} s {'ahead of' if ahead_s > 0 else 'behind'} here (± {exact_to_s:.2f} s)"
    if abs(ahead_s) - exact_to_s <= CLOCK_TOLERANCE_S:
        return Finding("clock", "ok", text)
    return Finding(
        "clock",
        "warning",
        f"{text}: the times in logs and events cannot be compared",
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
    """Whether the head admits clients without its token; `reachable`: whether other machines reach its port."""
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


def dashboard(answer: dict[str, Any] | None, sockets: Sequence[dict[str, Any]]) -> Finding:
    """Where dashboard and Jobs API listen, and whom they answer."""
    check = "dashboard"
    if answer is None:
        return Finding(check, "ok", "none: no Jobs API on this cluster")
    listening = [s["ip"] for s in sockets if s["role"] == "dashboard" and s["port"] == answer["port"]]
    outside = [ip for ip in listening if not is_loopback(ip)]
    places = ", ".join(f"{place(ip)}:{answer['port']}" for ip in listening) or answer["address"]
    if any(ip in ("0.0.0.0", "::") for ip in outside):
        return Finding(
            check,
            "fault",
            f"dashboard and Jobs API listen on every interface ({places})",
            "Start the head with `--dashboard-host=127.0.0.1` and reach it through"
            f" `ssh -L {answer['port']}:127.0.0.1:{answer['port']} HEAD`.",
        )
    if answer["anonymous_status"] == 200:
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
    return Finding(check, "ok", f"{places} only, answers {answer['anonymous_status']} to a client without the token")


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
    inside = sorted({(s["port"], s["role"]) for s in sockets if s["role"] != "worker" and first <= s["port"] <= last})
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
    text = f"{out}: written and read back, {room_bytes / 1e9:.1f} GB free"
    if room_bytes >= GOOD_OUT_BYTES:
        return Finding("storage", "ok", text)
    return Finding(
        "storage",
        "fault" if room_bytes < LEAST_OUT_BYTES else "warning",
        text,
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
            "Give every node the credentials and the network for this storage: a submitted job writes from there.",
        )
    return Finding(
        "storage",
        "ok",
        f"{out} is this machine's own folder. That is enough for `run`, whose results are all written here; a"
        " job that is submitted to the cluster needs a shared path or a URI",
    )
