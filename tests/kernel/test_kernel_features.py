"""What every kernel from 6.1 on must do for sandboxes, and a line that says what the running one does beyond that. Root."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess

import pytest

from skerry_node.kernel import features, loop, syscalls

FIRST_ID = 100_000
MKFS = shutil.which("mkfs.erofs")
needs_mkfs = pytest.mark.skipif(MKFS is None, reason="mkfs.erofs is missing (package erofs-utils)")


@contextlib.contextmanager
def user_namespace():
    """An fd of a user namespace whose root is FIRST_ID outside; the process that made it is gone at the end."""
    go, ready = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go[1])
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        os.write(ready[1], b".")
        os.read(go[0], 1)
        os._exit(0)
    namespace = -1
    try:
        os.read(ready[0], 1)
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
                file.write(f"0 {FIRST_ID} 65536")
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
        yield namespace
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for fd in {*go, *ready, namespace} - {-1}:
            os.close(fd)


@contextlib.contextmanager
def mounted(kind, source, directory, *, data=None, flags=0):
    """The mount at *directory*, while it is there."""
    directory.mkdir()
    syscalls.mount(os.fsencode(source), os.fsencode(directory), kind.encode(), flags=flags, data=data)
    try:
        yield directory
    finally:
        syscalls.umount(os.fsencode(directory), 0)


@pytest.fixture
def erofs_image(tmp_path):
    """An image with the file `owned`, of root."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "owned").write_text("x")
    image = tmp_path / "image.erofs"
    subprocess.run([MKFS, "-Enoinline_data", str(image), str(tree)], check=True, capture_output=True)
    return image


@contextlib.contextmanager
def mounted_by_loop(image, directory):
    """*image* at *directory* by the product's own loop devices."""
    fd = os.open(image, os.O_RDONLY)
    try:
        with loop.attached(fd, os.fsencode(image.parent)) as device, mounted("erofs", device.decode(), directory, flags=syscalls.MS_RDONLY):
            yield directory
    finally:
        os.close(fd)


def idmapped_owner(directory, name, namespace):
    """Owner of a file seen through an idmapped clone of the mount that *directory* is, or is in."""
    tree = syscalls.open_tree(-1, os.fsencode(directory))
    try:
        syscalls.mount_setattr(tree, set_flags=syscalls.MOUNT_ATTR_IDMAP, userns_fd=namespace)
        return os.stat(name, dir_fd=tree).st_uid
    finally:
        os.close(tree)


def file_backed_erofs(image, directory):
    """`yes`, or the error by which this kernel refuses to mount EROFS without a block device."""
    try:
        with mounted("erofs", image, directory, flags=syscalls.MS_RDONLY):
            return "yes"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))


@needs_mkfs
def test_says_what_this_kernel_can_do(erofs_image, tmp_path, capsys):
    """A file-backed EROFS mount works, or fails as on kernels that have none: anything else is news to the launch path."""
    cgroup = 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1
    erofs = file_backed_erofs(erofs_image, tmp_path / "direct")
    with capsys.disabled():
        print(f"\nkernel {os.uname().release}: cgroup v{cgroup}, EROFS from a file: {erofs}")
    assert erofs in ("yes", "ENOTBLK")


def test_the_agent_finds_nothing_missing():
    """What the agent asks for at start is there."""
    assert features.find_missing() == []


def test_user_namespaces_map_a_range_of_ids():
    """A process sees a map of 65,536 ids that does not start at its own."""
    with user_namespace() as namespace:
        done = subprocess.run(
            ["nsenter", f"--user=/proc/self/fd/{namespace}", "cat", "/proc/self/uid_map"],
            pass_fds=[namespace],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["0", str(FIRST_ID), "65536"]


def test_overlay_hides_a_removed_file_by_a_whiteout(tmp_path):
    """The upper layer gets a character device 0:0, which is what an image's whiteouts become."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_text("x")
    data = os.fsencode(f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work")
    with mounted("overlay", "overlay", tmp_path / "merged", data=data) as merged:
        (merged / "file").unlink()
    found = os.lstat(tmp_path / "upper" / "file")
    assert (stat.S_ISCHR(found.st_mode), found.st_rdev) == (True, 0)


def test_the_filesystem_of_layers_takes_id_maps(tmp_path):
    """A file of root belongs to the sandbox's root in the sandbox's mount."""
    (tmp_path / "owned").write_text("x")
    with user_namespace() as namespace:
        assert idmapped_owner(tmp_path, "owned", namespace) == FIRST_ID


@needs_mkfs
def test_erofs_by_loop_takes_id_maps(erofs_image, tmp_path):
    """EROFS mounts from a read-only loop device, and its mount takes an id map."""
    with mounted_by_loop(erofs_image, tmp_path / "mounted") as directory, user_namespace() as namespace:
        assert (directory / "owned").read_text() == "x"
        os.stat(directory / "owned")
        assert idmapped_owner(directory, "owned", namespace) == FIRST_ID + os.stat(directory / "owned").st_uid


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param("table inet t { chain c { type nat hook postrouting priority srcnat; masquerade; }; }\n", id="masquerade in inet"),
        pytest.param("table inet t { chain c { type filter hook forward priority 0; ct state established accept; drop; }; }\n", id="ct in inet"),
        pytest.param("table inet t { set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; }; }\n", id="interval sets"),
        pytest.param("table bridge t { chain c { type filter hook prerouting priority 0; drop; }; }\n", id="bridge family"),
    ],
)
def test_nftables_takes_the_rules_of_the_network(rules):
    """In a network namespace of its own, gone with the process."""
    done = subprocess.run(["unshare", "--net", "nft", "--file", "-"], input=rules, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
