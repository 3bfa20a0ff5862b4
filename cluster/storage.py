"""Whether a path leads to storage that outlives one machine: the same as the user's, or a network's."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import NamedTuple

NETWORK_FILE_SYSTEMS = frozenset(
    "9p afs beegfs ceph cifs efs glusterfs gpfs lustre nfs nfs3 nfs4 orangefs panfs pvfs2 smb3 wekafs".split()
)
LOCAL_FUSE = re.compile(
    r"^fuse\.(fuse-overlayfs|unionfs.*|mergerfs|bindfs|squashfuse.*|snapfuse|lxcfs|gvfsd-fuse|portal"
    r"|encfs|gocryptfs|appimage.*)$"
)
_WITNESS = re.compile(r"^\.neurofleet-[0-9a-f]{16}$")


def leave_witness(folder: Path) -> Path | None:
    """Put a small file where `folder` is, or would be made, for another machine to look for.

    Returns
    -------
    Path or None
        The file; None where this machine cannot write.
    """
    witness = _existing(folder) / f".neurofleet-{secrets.token_hex(8)}"
    try:
        witness.touch(mode=0o600, exist_ok=False)
    except OSError:
        return None
    return witness


def remove_witness(witness: Path) -> None:
    """Remove what `leave_witness` put there; nothing else."""
    if _WITNESS.match(witness.name):
        witness.unlink(missing_ok=True)


def is_witnessed(folder: Path, witness: Path) -> bool:
    """Whether `folder` is on the storage on which another machine left the witness."""
    try:
        return witness.exists() and _existing(folder).stat().st_dev == witness.parent.stat().st_dev
    except OSError:
        return False


class Mount(NamedTuple):
    """A mounted file system: where, and its type, such as ``ext4`` or ``nfs4``."""

    point: str
    kind: str

    @property
    def is_network(self) -> bool:
        """Whether it is served to several machines; a root file system is a machine's own in any case."""
        if self.point == "/":
            return False
        if self.kind.startswith("fuse."):
            return not LOCAL_FUSE.match(self.kind)
        return self.kind in NETWORK_FILE_SYSTEMS


def mount_of(folder: Path, table: str | None = None) -> Mount:
    """Return the file system that `folder` is on, or would be.

    Parameters
    ----------
    folder : Path
    table : str, optional
        Lines as in ``/proc/mounts``, which is the default.
    """
    if table is None:
        table = Path("/proc/mounts").read_text()
    where, found = _existing(folder).resolve(), Mount("/", "unknown")
    for line in table.splitlines():
        _, point, kind, *_ = line.split(" ")
        mount = Mount(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point), kind)
        if where.is_relative_to(mount.point) and len(mount.point) >= len(found.point):
            found = mount
    return found


def _existing(folder: Path) -> Path:
    folder = Path(os.path.abspath(folder))
    return next(place for place in (folder, *folder.parents) if os.path.isdir(place))
