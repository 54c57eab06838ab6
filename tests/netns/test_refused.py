"""fastns.netns: names, paths and entries that are refused, and left as they were."""

from __future__ import annotations

import errno
import os
import signal
import socket
from pathlib import Path

import faults
import pytest
from faults import here, survives
from isolation import RUN_DIR
from rundir import MNT_DETACH, ip_names, mounts_on, path_of

from fastns import _core
from fastns import netns as ns

# bad input

EVERY = {
    "create": ns.create,
    "remove": ns.remove,
    "attach": lambda name: ns.attach(name, os.getpid()),
    "_create": ns._create,
    "_get_netnspath": ns._get_netnspath,
    "getnsfd": ns.getnsfd,
    "getnsfd, O_CREAT": lambda name: ns.getnsfd(name, os.O_CREAT),
    "setns": ns.setns,
    "pushns": ns.pushns,
    "create_socket": ns.create_socket,
    "open_ref": ns.open_ref,
    "entered": ns.entered,
    "run_in": lambda name: ns.run_in(name, here),
    "exists": ns.exists,
    "info": ns.info,
    "sysctl": ns.sysctl,
}
BAD_NAMES = ["", ".", "..", "a\0b", "\0", "x" * 256, "é" * 128, b"", b".", b"..", b"a\0b", b"x" * 256]
BAD_NAMES += [
    "/var/run/netns/",
    "/var/run/netns/.",
    "/var/run/netns/..",
    "/var/run/netns/a\0b",
    "/",
    "a/",
    "./" + "x" * 256,
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name)[:24])
@pytest.mark.parametrize("function", EVERY)
def test_bad_name_before_any_system_call(function, name):
    with pytest.raises(ValueError, match=r"name|path"):
        EVERY[function](name)


def test_bad_name_really_makes_no_system_call():
    def body():
        calls = "openat", "mount", "umount2", "unshare", "setns", "socket", "unlink", "flock"
        faults.deny(*((name, errno.EXDEV) for name in calls))
        for function in EVERY.values():
            for name in BAD_NAMES:
                with pytest.raises(ValueError):
                    function(name)

    survives(body)


@pytest.mark.parametrize("ref", [3.5, [], {}, object(), True, ("a",)], ids=["float", "list", "dict", "object", "bool", "tuple"])
@pytest.mark.parametrize("function", EVERY)
def test_wrong_type(function, ref):
    with pytest.raises(TypeError):
        EVERY[function](ref)


@pytest.mark.parametrize("function", [name for name in EVERY if name not in ("pushns", "create_socket")])
def test_none(function):
    with pytest.raises(TypeError):
        EVERY[function](None)


@pytest.mark.parametrize("function", ["create", "remove", "attach", "_create"])
def test_a_descriptor_is_no_name(function):
    with pytest.raises(TypeError):
        EVERY[function](0)


CLOSED = ["getnsfd", "setns", "pushns", "create_socket", "open_ref", "run_in", "info"]


@pytest.mark.parametrize("function", CLOSED)
def test_closed_descriptor(function):
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    os.close(fd)
    for number in (fd, -1, 1 << 31, 1 << 70):
        with pytest.raises(OSError) as caught:
            EVERY[function](number)
        assert caught.value.errno == errno.EBADF
        assert caught.value.filename == number
    assert not ns.exists(fd)


def test_closed_file(tmp_path):
    file = (tmp_path / "x").open("w")
    file.close()
    with pytest.raises(ValueError):
        ns.open_ref(file)


@pytest.fixture
def impostors(tmp_path):
    """Things that are no network namespaces, by kind."""
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").touch()
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "netlink").symlink_to("/proc/self/ns/net")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
    return tmp_path


@pytest.mark.parametrize("kind", ["file", "empty", "dir", "fifo", "link", "socket"])
def test_path_of_something_else_is_refused_and_untouched(impostors, kind):
    path = str(impostors / kind)
    before = os.lstat(path)
    for function in (
        "open_ref",
        "getnsfd",
        "setns",
        "pushns",
        "create_socket",
        "run_in",
        "remove",
        "getnsfd, O_CREAT",
    ):
        with pytest.raises(OSError) as caught:
            EVERY[function](path)
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == path
        assert "not a network namespace" in str(caught.value)
    for function in ("create", "attach"):
        with pytest.raises(FileExistsError):
            EVERY[function](path)
    assert not ns.exists(path)
    after = os.lstat(path)
    assert (before.st_ino, before.st_mode, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_ino,
        after.st_mode,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


@pytest.mark.parametrize("kind", ["netlink", "dangling"])
def test_links_are_never_removed(impostors, kind):
    path = impostors / kind
    with pytest.raises(OSError) as caught:
        ns.remove(path)
    assert caught.value.errno == errno.EINVAL
    assert path.is_symlink()
    with pytest.raises(FileExistsError):
        ns.create(path)
    assert ns.exists(path) == (kind == "netlink")
    assert ns.info(path).alive == (kind == "netlink")


@pytest.mark.root
@pytest.mark.parametrize("kind", ["uts", "mnt", "pid", "ipc"])
def test_other_kinds_of_namespaces_are_refused(tmp_path, kind):
    path = str(tmp_path / "x")
    own = f"/proc/self/ns/{kind}"
    with pytest.raises(OSError, match="not a network namespace"):
        ns.open_ref(own)
    with open(own) as file, pytest.raises(OSError, match="not a network namespace") as caught:
        ns.open_ref(file)
    assert isinstance(caught.value.filename, int)
    if kind == "mnt":
        return  # cannot be mounted inside itself
    Path(path).touch(0)
    faults.call(faults.libc.mount(own.encode(), path.encode(), None, 0x1000, None))
    try:
        for function in (ns.open_ref, ns.remove):
            with pytest.raises(OSError) as caught:
                function(path)
            assert caught.value.errno == errno.EINVAL
            assert caught.value.filename == path
        assert len(mounts_on(path)) == 1
    finally:
        faults.call(faults.libc.umount2(path.encode(), MNT_DETACH))


@pytest.mark.root
def test_other_mounts_are_never_unmounted(nsname):
    path = path_of(nsname)
    os.mkdir(path)
    faults.call(faults.libc.mount(b"none", path.encode(), b"tmpfs", 0, None))
    try:
        with pytest.raises(OSError, match="not a network namespace"):
            ns.remove(nsname)
        assert len(mounts_on(path)) == 1
    finally:
        faults.call(faults.libc.umount2(path.encode(), MNT_DETACH))
        os.rmdir(path)


@pytest.mark.root
def test_what_is_below_the_mount_survives_if_it_is_something(tmp_path, netns):
    path = tmp_path / "file"
    path.write_text("precious")
    faults.call(faults.libc.mount(path_of(netns).encode(), os.fsencode(path), None, 0x1000, None))
    with pytest.raises(OSError, match="not a network namespace"):
        ns.remove(path)
    assert path.read_text() == "precious"
    assert ns.exists(netns)


@pytest.mark.root
def test_several_mounts_on_one_name(netns, missing):
    faults.call(faults.libc.mount(path_of(netns).encode(), path_of(netns).encode(), None, 0x1000, None))
    ns.create(missing)
    faults.call(faults.libc.mount(path_of(missing).encode(), path_of(netns).encode(), None, 0x1000, None))
    assert ns.info(netns)[2:5] == ns.info(missing)[2:5]
    ns.remove(netns)
    assert not os.path.lexists(path_of(netns))
    assert ns.exists(missing)
    ns.remove(missing)


# half-made entries


@pytest.mark.root
@pytest.mark.parametrize("mode", [0, 0o644])
def test_dead_entry(nsname, mode):
    path = path_of(nsname)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, mode))
    assert nsname in ns.listnetns()
    assert not ns.exists(nsname)
    info = ns.info(nsname)
    assert info == ns.NetnsInfo(nsname, path, False, None, None, None, ())
    for flags in (0, os.O_CREAT):
        with pytest.raises(OSError, match="dead entry") as caught:
            ns.open_ref(nsname, flags)
        assert caught.value.errno == errno.EINVAL
        assert caught.value.filename == nsname
    for attempt in (lambda: ns.create(nsname), lambda: ns.open_ref(nsname, os.O_CREAT | os.O_EXCL)):
        with pytest.raises(FileExistsError):
            attempt()
    ns.remove(nsname)
    assert nsname not in ns.listnetns()
    ns.create(nsname)
    assert ns.info(nsname).alive
    ns.remove(nsname)


@pytest.mark.root
def test_dead_entry_outside_the_run_directory(tmp_path):
    path = tmp_path / "blue"
    ns.create(path)
    faults.call(faults.libc.umount2(os.fsencode(path), MNT_DETACH))
    assert not ns.info(path).alive
    ns.remove(path)  # without permission bits, as create makes them
    assert not path.exists()


@pytest.mark.root
def test_dead_entry_with_content_is_something_else(nsname):
    path = Path(path_of(nsname))
    path.write_text("text")
    with pytest.raises(OSError, match="not a network namespace"):
        ns.remove(nsname)
    with pytest.raises(OSError, match="not a network namespace"):
        ns.info(nsname)
    assert path.read_text() == "text"


@pytest.mark.root
def test_o_creat_waits_for_somebody_elses_mount(nsname, monkeypatch):
    path = path_of(nsname).encode()
    fd = _core.ns_new()
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0))
    slept = []

    class Clock:
        @staticmethod
        def time():
            return os.lstat(path).st_ctime + 0.1

        @staticmethod
        def sleep(seconds):
            slept.append(seconds)
            if len(slept) == 3:
                faults.libc.mount(f"/proc/self/fd/{fd}".encode(), path, None, 0x1000, None)

    monkeypatch.setattr("fastns.netns.opening.time", Clock)
    found = ns.getnsfd(nsname, os.O_CREAT)
    assert os.path.sameopenfile(found, fd)
    assert len(slept) == 3
    os.close(found)
    os.close(fd)


@pytest.mark.root
@pytest.mark.parametrize("name", ["unshare", "mount", "setns", "umount2", "unlink"])
def test_killed_in_the_middle(nsname, name):
    """Before each system call of creating and removing: there is nothing, a namespace, or a dead entry that remove() repairs."""

    def body(at):
        def judge(n, tid):
            if n == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return 0

        faults.supervise(name, judge)
        ns.create(nsname)
        ns.remove(nsname)

    for at in range(1, 10):
        status = faults.in_child(lambda at=at: body(at))
        if nsname in ns.listnetns() and not ns.info(nsname).alive:
            with pytest.raises(OSError):
                ns.open_ref(nsname)
            ns.remove(nsname)
        if nsname not in ns.listnetns():
            ns.create(nsname)
        assert ns.info(nsname).alive
        assert nsname in ip_names()
        ns.remove(nsname)
        assert not os.path.lexists(path_of(nsname))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    assert status == 0
    assert at > 1
    assert len(mounts_on(RUN_DIR)) <= 1
