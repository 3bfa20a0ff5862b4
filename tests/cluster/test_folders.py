"""Which storage outlives one machine."""

import os
from pathlib import Path

import pytest

from neurofleet.cluster.store.folders import Mount, leave_marker, mount_of, remove_marker, sees_marker

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
head:/home {home} nfs4 rw,addr=192.0.2.1 0 0
/dev/sdb1 {home}/scratch\\040disk xfs rw 0 0
tmpfs {home}/covered tmpfs rw 0 0
bucket {home}/covered fuse.s3fs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind", "network"),
    [
        ("fits/rat", "nfs4", True),
        ("scratch disk/rat", "xfs", False),
        ("covered/rat", "fuse.s3fs", True),
        ("../elsewhere", "ext4", False),
        ("scratch disk link/rat", "xfs", False),
    ],
)
def test_the_mount_of_a_folder_that_is_not_made_yet(tmp_path, folder, kind, network):
    home = tmp_path / "home"
    for made in ("scratch disk", "covered"):
        (home / made).mkdir(parents=True)
    (home / "scratch disk link").symlink_to(home / "scratch disk")
    mount = mount_of(home / folder, MOUNTS.format(home=home))
    assert mount.kind == kind
    assert mount.is_network == network


@pytest.mark.parametrize(
    ("point", "kind", "network"),
    [
        ("/", "nfs4", False),
        ("/", "9p", False),
        ("/data", "lustre", True),
        ("/data", "fuse.sshfs", True),
        ("/data", "fuse.fuse-overlayfs", False),
        ("/data", "overlay", False),
        ("/data", "unknown", False),
    ],
)
def test_a_root_file_system_and_a_container_layer_are_one_machines_own(point, kind, network):
    assert Mount(point, kind).is_network == network


def test_this_machines_own_table_is_read():
    assert mount_of(Path("/proc/self")).kind == "proc"


def test_a_witness_is_seen_where_it_was_left_and_removed_without_a_trace(tmp_path):
    out = tmp_path / "not" / "made" / "yet"
    witness = leave_marker(out)
    assert witness.parent == tmp_path
    assert witness.stat().st_mode & 0o777 == 0o600
    assert sees_marker(out, witness)
    remove_marker(witness)
    assert not sees_marker(out, witness)
    assert list(tmp_path.iterdir()) == []


def test_a_witness_above_another_mount_does_not_speak_for_it(tmp_path):
    """What is below /dev/shm is on another file system than /dev."""
    assert os.stat("/dev").st_dev != os.stat("/dev/shm").st_dev
    witness = leave_marker(tmp_path)
    assert sees_marker(tmp_path / "out", witness)
    assert not sees_marker(Path("/dev/shm/out"), witness)


def test_only_a_witness_is_removed(tmp_path):
    precious = tmp_path / "thesis.txt"
    precious.touch()
    remove_marker(precious)
    assert precious.exists()


def test_where_nothing_can_be_written_there_is_no_witness():
    assert leave_marker(Path("/proc/out")) is None
