"""One driver per run: a lock on a file, or a lease that its holder renews where there are no locks."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from neurofleet.cluster.store.folders import RemoteFolder, refused
from neurofleet.cluster.store.lease_object import Changed, LeaseObject, PlainObject, Seen
from neurofleet.errors import ClusterError, RunFolderRefused

logger = logging.getLogger(__name__)

HEARTBEAT_S = 15.0
LOST_AFTER_S = 60.0
"""A lease that another driver has seen unchanged for so long is free."""

SEEN_WITHIN_S = 30.0
"""Who only wants to know whether a driver is at work watches its lease for so long."""

LONG_AGO_S = 3600.0
"""A lease this old by any clock belongs to no driver: object stores refuse clocks that are wrong by a quarter of it."""

POLL_S = 1.0
SETTLED_AFTER_S = 5.0
"""How long a driver waits before it believes in a lease that the store did not protect."""


@contextmanager
def file_lock(path: Path, root: str) -> Iterator[Callable[[], bool]]:
    """Hold an advisory lock on a file, which the system releases when the process ends, however that happens.

    The file, which stays, says who holds the lock: so it is neither emptied nor removed by others that try.

    Yields
    ------
    callable
        Whether the file that is locked is still there.

    Raises
    ------
    RunFolderRefused
        If another process holds it.
    """
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunFolderRefused(_refusal(root, file.read())) from None
        file.truncate(0)
        file.write(_this_process() + "\n")
        file.flush()
        locked = os.fstat(file.fileno())

        def is_there() -> bool:
            try:
                return os.path.samestat(os.stat(path), locked)
            except (FileNotFoundError, NotADirectoryError):
                return False

        yield is_there


def lock_holder(path: Path) -> str:
    """Return who holds the lock on a file, as text; empty if it is free. A folder that is only readable will do."""
    try:
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "unknown"
    except OSError:
        pass
    return ""


class Lease:
    """A small object that the driver of a run replaces every quarter of a minute.

    No clocks are compared. Another driver takes the lease over after it has seen it unchanged for a minute; at once
    where it can see that the driver, on the same machine, has ended. A conditional write lets only one of several do
    so, and tells the former holder. Before the holder changes anything it renews a lease that it has not renewed for
    half a minute. Where a store has no conditional writes, the lease is read again before it is written, and once more
    a few seconds after it was taken.

    Parameters
    ----------
    folder : RemoteFolder
    name : str
        Of the object.

    Attributes
    ----------
    lost : str or None
        Why it is not held any more, if so.
    """

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self._folder = folder
        self._name = name
        self._object: LeaseObject = PlainObject(folder, name)
        self._seen: Seen | None = None
        self._lease_id = uuid.uuid4().hex
        self._holder = _this_process()
        self._renewals = 0
        self._renewed_at = 0.0
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.lost: str | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease.

        Raises
        ------
        RunFolderRefused
            If another driver holds it.
        StorageUnreachable
        """
        self._read()  # reaches the store, or says why not
        self._object = _lease_object(self._folder, self._name)
        self._acquire()
        thread = threading.Thread(target=self._renew_regularly, name="run-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._released.set()
            thread.join()
            self._release()

    def holder(self) -> str:
        """Return who holds the lease, as text; empty if nobody does. Watches it for half a minute where it has to."""
        seen = self._read()
        lease = _parsed(seen)
        if seen is None or lease.get("released", not lease):
            return ""
        holder = lease.get("holder", "unknown")
        ended = _has_ended_here(lease)
        if ended is not None:
            return "" if ended else holder
        if time.time() - lease.get("renewed", 0.0) > LONG_AGO_S:
            return ""
        logger.warning(
            "%s: watching until %s whether the driver (%s) still renews its lease.",
            self._folder.outages.root,
            _clock_in(SEEN_WITHIN_S),
            holder,
        )
        later = self._watch(seen, SEEN_WITHIN_S)
        return "" if later == seen or _parsed(later).get("released") else holder

    def check(self) -> None:
        """Make sure that the lease is held.

        Raises
        ------
        ClusterError
            If another driver has taken the run over, or the folder was removed.
        OSError
            If the lease has to be renewed first, and the store does not answer.
        """
        if self.lost is None and time.monotonic() - self._renewed_at > LOST_AFTER_S / 2:
            self.renew()
        if self.lost is not None:
            raise ClusterError(self.lost)

    def renew(self, released: bool = False) -> None:
        """Write the lease anew; sets `lost` if it is not there as it was left."""
        with self._lock:
            began = time.monotonic()
            try:
                self._seen = self._once(lambda: self._object.write(self._content(released), self._seen))
            except Changed:
                now = self._once(self._object.read)
                if _parsed(now).get("lease") == self._lease_id:  # written, but the answer did not arrive
                    self._seen = now
                elif now is None:
                    self.lost = removed(self._folder.outages.root)
                else:
                    self.lost = (
                        f"Another driver has taken over the run in {self._folder.outages.root}:"
                        f" {_parsed(now).get('holder', 'unknown')}. This one stops; let the other go on."
                    )
            self._renewed_at = began

    def _acquire(self) -> None:
        seen = self._read()
        while True:
            lease = _parsed(seen)
            if lease.get("lease") == self._lease_id:  # written, but the answer did not arrive
                self._seen = seen
                return
            if seen is not None and not lease.get("released", not lease):
                holder = lease.get("holder", "unknown")
                ended = _has_ended_here(lease)
                if ended is None:
                    seen = self._watched_until_lost(seen, holder)
                elif not ended:
                    raise RunFolderRefused(_refusal(self._folder.outages.root, holder))
            try:
                self._take(seen)
                return
            except Changed:
                seen = self._read()

    def _watched_until_lost(self, seen: Seen, holder: str) -> Seen | None:
        logger.warning(
            "%s: the run was being written by another neurofleet (%s). Watching until %s whether that one still renews"
            " its lease; if not, this one takes over.",
            self._folder.outages.root,
            holder,
            _clock_in(LOST_AFTER_S),
        )
        later = self._watch(seen, LOST_AFTER_S)
        lease = _parsed(later)
        if later is not None and later != seen and not lease.get("released"):
            raise RunFolderRefused(_refusal(self._folder.outages.root, lease.get("holder", "unknown")))
        return later

    def _watch(self, seen: Seen, for_s: float) -> Seen | None:
        """Return the lease as soon as it is another one, or as it is after so long."""
        until = time.monotonic() + for_s
        while True:
            asked = time.monotonic()
            later = self._read()
            now = time.monotonic()
            if later != seen or now >= until:
                return later
            if now - asked > HEARTBEAT_S:  # the store was away, for its holder too
                until = now + for_s
            time.sleep(POLL_S)

    def _take(self, seen: Seen | None) -> None:
        """Write the lease in place of what was read.

        Raises
        ------
        Changed
            If another driver was faster.
        """
        outages = self._folder.outages
        content = self._content()
        try:
            self._seen = outages.call(f"writing {self._name}", lambda: self._object.write(content, seen))
        except OSError as error:
            raise refused(self._folder.outages.root, f"writing {self._name}", error) from error
        self._renewed_at = time.monotonic()
        if self._object.atomic:
            try:
                outages.call(f"writing {self._name}", lambda: self._object.write(content, None))
            except Changed:
                return
            logger.warning(
                "%s: the object store ignores the conditions of writes. Its lease is compared before it is renewed,"
                " which does not keep out a second driver that starts within the same seconds.",
                self._folder.outages.root,
            )
            self._object = PlainObject(self._folder, self._name)
        time.sleep(SETTLED_AFTER_S)
        self._seen = self._read()
        if _parsed(self._seen).get("lease") != self._lease_id:
            raise Changed

    def _renew_regularly(self) -> None:
        while self.lost is None and not self._released.wait(HEARTBEAT_S):
            try:
                self.renew()
            except OSError:
                continue  # the store does not answer at the moment; the next heartbeat tries again

    def _release(self) -> None:
        if self.lost is not None:
            return
        try:
            self.renew(released=True)
        except OSError as error:
            logger.warning("%s: the lease could not be given back (%s).", self._folder.outages.root, error)

    def _once(self, request: Callable[[], Any]) -> Any:
        return self._folder.outages.call(f"renewing {self._name}", request, once=True)

    def _read(self) -> Seen | None:
        try:
            return self._folder.outages.call(f"reading {self._name}", self._object.read)
        except OSError as error:
            raise refused(self._folder.outages.root, f"reading {self._name}", error) from error

    def _content(self, released: bool = False) -> bytes:
        self._renewals += 1
        lease = {
            "lease": self._lease_id,
            "holder": self._holder,
            "machine": _machine(),
            "process": os.getpid(),
            "process_start": _start_of(os.getpid()),
            "renewals": self._renewals,
            "renewed": time.time(),
            "released": released,
        }
        return json.dumps(lease).encode()


def _lease_object(folder: RemoteFolder, name: str) -> LeaseObject:
    """Return the object `name` of a folder, with conditional writes where the store can be reached for them."""
    found, why = shared_object(folder, name)
    if why:
        logger.warning(
            "%s: no conditional writes (%s). Its lease is compared before it is renewed, which does not keep out a"
            " second driver that starts within the same seconds.",
            folder.outages.root,
            why,
        )
    return found


def shared_object(folder: RemoteFolder, name: str) -> tuple[LeaseObject, str]:
    """Return the object `name` of a folder, and why its writes are not conditional; nothing where they are."""
    try:
        from neurofleet.cluster.store.conditional_object import conditional_object  # it needs what an extra installs

        return conditional_object(folder.root, folder.filesystem, name), ""
    except ModuleNotFoundError:
        why = "obstore is not installed; pip install 'neurofleet[objectstore]'"
    except (OSError, ValueError) as error:
        why = str(error)
    return PlainObject(folder, name), why


def removed(root: str) -> str:
    """Return what to say of a folder that is not there any more."""
    return (
        f"{root} was removed or moved while the run was writing it, so this run stops. What was stored there is gone"
        " unless you have it elsewhere: put it back and give the same command again to resume, or begin anew."
    )


def _parsed(seen: Seen | None) -> dict[str, Any]:
    try:
        lease = json.loads(seen.content) if seen else {}
    except ValueError:
        return {}
    return lease if isinstance(lease, dict) else {}


def _machine() -> str:
    """Return what processes that see each other have in common; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(process: int) -> str:
    """Return when a process was started, in the kernel's ticks; empty if it is not running."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]


def _has_ended_here(lease: dict[str, Any]) -> bool | None:
    """Whether the holder of a lease has ended; None if it is on another machine."""
    if not lease.get("machine") or lease["machine"] != _machine():
        return None
    return _start_of(lease.get("process", 0)) != lease.get("process_start")


def _clock_in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%H:%M:%S UTC")


def _this_process() -> str:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"process {os.getpid()} on {socket.gethostname()}, since {since}"


def _refusal(root: str, holder: str) -> str:
    return (
        f"The run in {root} is being written by another neurofleet ({holder.strip() or 'unknown'}). Wait"
        " until it has ended, or stop it, or give another folder with --out."
    )
