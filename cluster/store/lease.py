"""One driver per run: a lock on a file, or a lease with a heartbeat where there are no locks."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from neurofleet.cluster.store.folders import Folder
from neurofleet.errors import ClusterError, RunFolderRefused

HEARTBEAT_S = 30.0
STALE_AFTER_S = 120.0


@contextmanager
def file_lock(path: Path, root: str) -> Iterator[None]:
    """Hold an advisory lock on a file, which the system releases when the process ends, however that happens.

    The file, which stays, says who holds the lock: so it is neither emptied nor removed by others that try.

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
        yield


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
    """A small object that its holder rewrites every half minute; one that was not rewritten for long is free.

    Object stores have no locks, and not all have conditional writes. Two drivers that start within the same second may
    both believe that they hold the lease, until the first heartbeat stops one of them.

    Attributes
    ----------
    lost : str or None
        Which driver has taken the lease over, if one has.
    """

    def __init__(self, folder: Folder, name: str, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._folder = folder
        self._name = name
        self._heartbeat_s = heartbeat_s
        self._lease_id = uuid.uuid4().hex
        self._released = threading.Event()
        self.lost: str | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease.

        Raises
        ------
        RunFolderRefused
            If another driver has renewed it within the last two minutes.
        """
        if holder := self.holder():
            raise RunFolderRefused(_refusal(self._folder.root, holder))
        self._renew()
        thread = threading.Thread(target=self._renew_regularly, name="run-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._released.set()
            thread.join()
            if self.lost is None:
                self._renew(released=True)

    def holder(self) -> str:
        """Return who has renewed it within the last two minutes, as text; empty if it is free."""
        lease = self._read()
        age_s = time.time() - lease.get("renewed", 0.0)
        if age_s < max(STALE_AFTER_S, 4 * self._heartbeat_s) and not lease.get("released"):
            return lease.get("holder", "unknown")
        return ""

    def check(self) -> None:
        """Raise `ClusterError` when another driver has taken the run over."""
        if self.lost is not None:
            raise ClusterError(self.lost)

    def _renew_regularly(self) -> None:
        while not self._released.wait(self._heartbeat_s):
            try:
                lease = self._read()
                if lease.get("lease") == self._lease_id:
                    self._renew()
                    continue
                self.lost = (
                    f"Another driver has taken over the run in {self._folder.root}:"
                    f" {lease.get('holder', 'unknown')}. This one stops; let the other go on."
                )
            except ClusterError:
                continue  # the store does not answer at the moment; the next heartbeat tries again
            return

    def _read(self) -> dict:
        try:
            lease = json.loads(self._folder.read(self._name) or b"{}")
        except ValueError:
            return {}
        return lease if isinstance(lease, dict) else {}

    def _renew(self, released: bool = False) -> None:
        lease = {"lease": self._lease_id, "holder": _this_process(), "renewed": time.time(), "released": released}
        self._folder.write(self._name, json.dumps(lease).encode())


def _this_process() -> str:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"process {os.getpid()} on {socket.gethostname()}, since {since}"


def _refusal(root: str, holder: str) -> str:
    return (
        f"The run in {root} is being written by another neurofleet ({holder.strip() or 'unknown'}). Wait"
        " until it has ended, or stop it, or give another folder with --out."
    )
