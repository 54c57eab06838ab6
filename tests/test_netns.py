"""fastns.netns on the real kernel."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import inspect
import multiprocessing
import os
import pickle
import random
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import faults
import pyroute2.netns
import pytest
from conftest import discard, new_name
from faults import here, survives
from hypothesis import given, settings
from hypothesis import strategies as st
from isolation import RUN_DIR, privilege
from pyroute2 import config

from fastns import _core
from fastns import netns as ns

MNT_DETACH = 2


def ip(*args: str) -> str:
    return subprocess.run(["ip", *args], check=True, capture_output=True, text=True).stdout


def ip_names() -> set[str]:
    return {line.split()[0] for line in ip("netns", "list").splitlines()}


def path_of(name: str) -> str:
    return os.path.join(RUN_DIR, name)


def is_mounted(path: str) -> bool:
    # an unmounted mount point is on a tmpfs, a namespace on nsfs
    return os.lstat(path).st_dev != os.lstat(os.path.dirname(path)).st_dev


def mounts_on(path: str) -> list[str]:
    """The lines of mountinfo for what is mounted on path, without what is hidden beneath another mount."""
    real = os.path.realpath(path)
    device = os.lstat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/thread-self/mountinfo") as file:
        return [line for line in file if line.split()[2:5:2] == [number, real]]


def unshare_run_directory() -> None:
    """As before the first `ip netns add`: an empty directory that is no mount."""
    if not privilege.isolated:
        pytest.skip("only in a run directory of the session's own")
    for name in ns.listnetns():
        discard(name)
    while subprocess.run(["umount", RUN_DIR], check=False, capture_output=True).returncode == 0:
        pass


@pytest.fixture
def missing():
    """A name without a namespace, beside the fixture `netns`."""
    name = new_name()
    yield name
    discard(name)


@pytest.fixture
def sleeper(netns):
    """The pid of a process inside `netns`."""
    process = subprocess.Popen(["ip", "netns", "exec", netns, "sleep", "100"])
    while ns.pid_to_ns(process.pid) != netns:
        time.sleep(0.002)
    yield process.pid
    process.kill()
    process.wait()


# create, remove, list


@pytest.mark.root
def test_create_and_remove(nsname):
    before = here()
    assert ns.create(nsname) is None
    assert here() == before
    assert nsname in ns.listnetns()
    assert nsname in ip_names()
    assert is_mounted(path_of(nsname))
    assert stat.S_IMODE(os.lstat(path_of(nsname)).st_mode) == 0o444
    assert ip("-n", nsname, "-o", "link").count("\n") == 1
    assert ns.remove(nsname) is None
    assert nsname not in ns.listnetns()
    assert not os.path.lexists(path_of(nsname))


@pytest.mark.root
def test_side_by_side_with_ip_netns(netns, missing):
    assert ns.exists(netns)
    ns.remove(netns)
    assert netns not in ip_names()
    ns.create(missing)
    ip("netns", "exec", missing, "true")
    ip("netns", "del", missing)
    assert not ns.exists(missing)


@pytest.mark.root
def test_create_same_namespace_for_every_kind_of_reference(nsname):
    ns.create(nsname.encode())
    keys = set()
    with open(path_of(nsname)) as file:
        for ref in (
            nsname,
            nsname.encode(),
            path_of(nsname),
            path_of(nsname).encode(),
            Path(path_of(nsname)),
            file,
            file.fileno(),
            f"/run/netns/{nsname}",
        ):
            info = ns.info(ref)
            keys.add((info.device, info.inode))
            fd, owned = ns.open_ref(ref)
            assert owned == (fd != file.fileno())
            if owned:
                assert not os.get_inheritable(fd)
                os.close(fd)
    assert len(keys) == 1
    ns.remove(Path(path_of(nsname)))
    assert nsname not in ns.listnetns()


@pytest.mark.root
def test_create_taken(netns):
    before = os.stat(path_of(netns)).st_ino
    for name in (netns, path_of(netns)):
        with pytest.raises(FileExistsError) as caught:
            ns.create(name)
        assert caught.value.filename == name
    assert os.stat(path_of(netns)).st_ino == before


@pytest.mark.root
def test_remove_missing(nsname):
    for name in (nsname, nsname.encode(), path_of(nsname)):
        with pytest.raises(FileNotFoundError) as caught:
            ns.remove(name)
        assert caught.value.filename == name


@pytest.mark.root
def test_run_directory_is_made_and_shared(nsname):
    unshare_run_directory()
    os.rmdir(RUN_DIR)
    assert ns.listnetns() == []
    ns.create(nsname)
    (mount,) = mounts_on(RUN_DIR)
    assert " shared:" in mount
    assert stat.S_IMODE(os.stat(RUN_DIR).st_mode) == 0o755
    ns.remove(nsname)
    ns.create(nsname)
    ip("netns", "del", nsname)
    assert len(mounts_on(RUN_DIR)) == 1


@pytest.mark.root
def test_mounts_reach_other_mount_namespaces(nsname):
    ready, go = multiprocessing.Pipe()

    def other():
        faults.call(faults.libc.unshare(faults.CLONE_NEWNS))
        ready.send(None)
        ready.recv()
        ready.send(ns.exists(nsname))
        ready.recv()
        ready.send(os.path.lexists(path_of(nsname)))

    ns.create(nsname)  # the run directory is shared from here on
    ns.remove(nsname)
    process = multiprocessing.get_context("fork").Process(target=other)
    process.start()
    go.recv()
    ns.create(nsname)
    go.send(None)
    assert go.recv() is True
    ns.remove(nsname)
    go.send(None)
    assert go.recv() is False
    process.join()
    process.close()
    ready.close()
    go.close()


@pytest.mark.root
def test_path_outside_the_run_directory(tmp_path):
    path = tmp_path / "dir" / "blue"
    ns.create(path)
    assert ns.exists(path)
    assert ns.exists(str(path).encode())
    assert not mounts_on(str(path.parent))  # somebody's directory is not made a mount
    with ns.entered(path):
        pass
    ns.remove(str(path))
    assert os.listdir(tmp_path / "dir") == []
    with pytest.raises(FileNotFoundError, match="mkdir"):
        ns.create(tmp_path / "no" / "such" / "blue")


@pytest.mark.root
def test_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ns.create("./blue")
    assert ns.exists(tmp_path / "blue")
    ns.remove("./blue")
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_run_directory_of_ones_own(tmp_path, monkeypatch, nsname):
    monkeypatch.setattr(ns, "NETNS_RUN_DIR", str(tmp_path / "netns"))
    assert ns.listnetns() == []
    ns.create(nsname)
    try:
        assert ns.listnetns() == [nsname]
        assert ns._get_netnspath(nsname) == os.fsencode(tmp_path / "netns" / nsname)
        assert ns.listnetns(RUN_DIR) == os.listdir(RUN_DIR)
        ns.remove(nsname)
        assert ns.listnetns() == []
    finally:
        faults.libc.umount2(os.fsencode(tmp_path / "netns"), MNT_DETACH)


@pytest.mark.root
def test_many_rounds_keep_nothing(nsname):
    def body():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 16, hard))
        for _ in range(60):
            ns.create(nsname)
            with pytest.raises(FileExistsError):
                ns.create(nsname)
            ns.create_socket(nsname).close()
            assert ns.exists(nsname)
            ns.info(nsname)
            with ns.watch() as watch, pytest.raises(TimeoutError):
                watch.get(0)
            ns.sysctl(nsname)["net.ipv4.ip_forward"] = 0
            ns.run_in(nsname, here)
            ns.pushns(nsname)
            ns.popns()
            ns.remove(nsname)
            with pytest.raises(FileNotFoundError):
                ns.open_ref(nsname)

    survives(body)


@pytest.mark.root
def test_interrupted_anywhere_nothing_is_half_made(nsname):
    class Alarm(Exception):
        pass

    def handler(signum, frame):
        raise Alarm

    def rounds():
        for _ in range(40):
            ns.create(nsname)
            ns.remove(nsname)

    before = signal.signal(signal.SIGALRM, handler)
    fds = len(os.listdir("/proc/self/fd"))
    interrupted = 0
    home = here()
    try:
        while interrupted < 25:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0015 + 0.0001 * interrupted)
                rounds()
            except Alarm:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert here() == home
            if nsname in ns.listnetns():
                assert ns.info(nsname).alive
                ns.remove(nsname)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(os.listdir("/proc/self/fd")) == fds


NAMES = st.one_of(
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=60),
    st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name),
)


@pytest.mark.root
@settings(max_examples=40)
@given(name=NAMES)
def test_any_name(name):
    raw = os.fsencode(name)
    if raw in (b".", b"..") or len(raw) > 255:
        with pytest.raises(ValueError):
            ns.create(name)
        return
    ns.create(name)
    try:
        assert os.fsdecode(raw) in ns.listnetns()
        assert ns.exists(name)
        with pytest.raises(FileExistsError) as caught:
            ns.create(name)
        assert caught.value.filename == name
        ns.create_socket(name).close()
    finally:
        ns.remove(name)
    assert os.fsdecode(raw) not in ns.listnetns()
    assert not ns.exists(name)


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


@pytest.mark.parametrize("ref", [3.5, [], {}, object(), True, ("a",)], ids=repr)
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

    monkeypatch.setattr(ns, "time", Clock)
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


# many processes


def side_by_side(seed: int, names: list[str], own: str) -> None:
    rng = random.Random(seed)
    for _ in range(12):
        name = rng.choice(names)
        try:
            rng.choice([ns.create, ns.remove])(name)
        except (FileExistsError, FileNotFoundError):
            pass
        command = rng.choice(["add", "del"])
        subprocess.run(["ip", "netns", command, rng.choice(names)], check=False, capture_output=True)
        ns.create(own)
        before = ns.info(own).inode
        assert own in ns.listnetns()
        ip("netns", "exec", own, "true")
        assert ns.info(own).inode == before
        rng.choice([ns.remove, lambda name: ip("netns", "del", name)])(own)
        assert not ns.exists(own)


def run_processes(targets) -> None:
    """Each (function, arguments) in a process of its own, started at the same moment."""
    context = multiprocessing.get_context("fork")
    reader, writer = os.pipe()

    def run(function, arguments):
        os.close(writer)
        os.read(reader, 1)
        function(*arguments)

    processes = [context.Process(target=run, args=target) for target in targets]
    for process in processes:
        process.start()
    os.close(reader)
    os.close(writer)
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.close()
    assert codes == [0] * len(codes)


@pytest.mark.root
def test_eight_processes_and_ip_netns(rng):
    shared = [new_name() for _ in range(3)]
    own = [new_name() for _ in range(8)]
    try:
        run_processes([(side_by_side, (rng.random(), shared, name)) for name in own])
    finally:
        for name in shared + own:
            discard(name)
    assert len(mounts_on(RUN_DIR)) <= 1


@pytest.mark.root
def test_first_mount_by_eight_processes():
    names = [new_name() for _ in range(8)]
    unshare_run_directory()
    try:
        run_processes([(ns.create, (name,)) for name in names])
        assert set(names) <= ip_names()
        assert all(ns.info(name).alive for name in names)
        assert len(mounts_on(RUN_DIR)) == 1
    finally:
        for name in names:
            discard(name)


def same_name(name: str, inodes) -> None:
    fd = ns.getnsfd(name, os.O_CREAT)
    inodes.put(os.fstat(fd).st_ino)


@pytest.mark.root
def test_same_name_by_eight_processes(nsname):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        inodes = context.SimpleQueue()
        run_processes([(same_name, (nsname, inodes))] * 8)
        assert len({inodes.get() for _ in range(8)}) == 1
        inodes.close()
        ns.remove(nsname)


@pytest.mark.root
def test_threads(netns_pair):
    names = [new_name() for _ in range(8)]
    errors = []

    def work(name):
        try:
            for _ in range(10):
                ns.create(name)
                with ns.entered(name):
                    assert here() == f"net:[{ns.info(name).inode}]"
                ns.remove(name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        discard(name)
    assert not errors


# attach, pids


@pytest.mark.root
def test_attach(sleeper, netns, missing):
    ns.attach(missing, sleeper)
    assert ns.info(missing)[2:5] == ns.info(netns)[2:5]
    assert ns.info(missing)[2:5] == ns.info(None, pid=sleeper)[2:5]
    ns.remove(netns)
    assert ns.pid_to_ns(sleeper) == missing
    with pytest.raises(FileExistsError):
        ns.attach(missing, sleeper)
    ns.remove(missing)


@pytest.mark.root
@pytest.mark.parametrize(
    "pid, error",
    [
        (0, ValueError),
        (-1, ValueError),
        (1 << 40, ValueError),
        ("x", TypeError),
        (None, TypeError),
        (True, TypeError),
        (1.5, TypeError),
    ],
)
def test_attach_bad_pid(nsname, pid, error):
    with pytest.raises(error):
        ns.attach(nsname, pid)
    assert nsname not in ns.listnetns()


@pytest.mark.root
def test_attach_to_nobody(nsname):
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(FileNotFoundError, match="/proc/PID/ns/net") as caught:
        ns.attach(nsname, process.pid)
    assert caught.value.filename == f"/proc/{process.pid}/ns/net"
    assert nsname not in ns.listnetns()


@pytest.mark.root
def test_underscore_create(nsname, missing):
    before = here()
    ns._create(nsname)
    assert here() == before
    ns._create(missing, None, os.getpid())
    assert ns.info(missing)[2:5] == ns.info("/proc/self/ns/net")[2:5]
    ns.remove(missing)
    ns._create(missing, libc=ctypes.CDLL(None), pid=str(os.getpid()))
    ns.remove(missing)
    with pytest.raises(FileExistsError):
        ns._create(nsname)


def test_get_netnspath(nsname):
    for name in ("blue", b"blue"):
        assert ns._get_netnspath(name) == b"/var/run/netns/blue" == pyroute2.netns._get_netnspath("blue")
    assert ns._get_netnspath("/a/b") == b"/a/b" == pyroute2.netns._get_netnspath("/a/b")
    assert ns._get_netnspath("ä") == "/var/run/netns/ä".encode()


@pytest.mark.root
def test_ns_pids_and_pid_to_ns(sleeper, netns, missing):
    ns.create(missing)
    pids = ns.ns_pids()
    assert pids[netns] == [sleeper]
    assert missing not in pids
    assert ns.pid_to_ns(sleeper) == netns
    assert ns.pid_to_ns(os.getpid()) is None
    assert ns.pid_to_ns(2**30) is None
    assert ns.pid_to_ns(sleeper, nspath="/nowhere") is None
    assert ns.ns_pids(nspath="/nowhere") == {}
    assert ns.info(netns).pids == (sleeper,)
    assert ns.info(None, pid=sleeper).pids == (sleeper,)
    ns.remove(missing)


# getnsfd, setns, the stack


@pytest.mark.root
def test_getnsfd_flags(nsname):
    with pytest.raises(FileNotFoundError):
        ns.getnsfd(nsname)
    fd = ns.getnsfd(nsname, os.O_CREAT)
    with pytest.raises(FileExistsError):
        ns.getnsfd(nsname, os.O_CREAT | os.O_EXCL)
    again = ns.getnsfd(nsname, os.O_CREAT, None, False)
    assert os.path.sameopenfile(fd, again)
    assert ns.getnsfd(fd) == fd
    assert ns.getnsfd(fd, os.O_CREAT | os.O_EXCL) == fd
    with open(path_of(nsname)) as file:
        assert ns.getnsfd(file) == file.fileno()
    os.close(fd)
    os.close(again)
    ns.remove(nsname)
    fd = ns.getnsfd(nsname, os.O_CREAT | os.O_EXCL)
    os.close(fd)
    assert ns.exists(nsname)


@pytest.mark.root
def test_setns_moves_one_thread(netns, missing):
    home = here()
    seen = []

    def body():
        ns.setns(netns)
        seen.append(here())
        with open(
            "/proc/1/ns/net" if os.access("/proc/1/ns/net", os.R_OK) else f"/proc/{os.getpid()}/ns/net"
        ) as file:
            ns.setns(file)
        ns.setns(missing, os.O_CREAT | os.O_EXCL, fork=False)
        seen.append(here())
        with pytest.raises(FileExistsError):
            ns.setns(missing, os.O_CREAT | os.O_EXCL)
        ns.setns(f"/proc/{os.getpid()}/ns/net")
        seen.append(here())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    inodes = [ns.info(name).inode for name in (netns, missing)]
    assert seen == [*(f"net:[{inode}]" for inode in inodes), home]
    assert here() == home


@pytest.mark.root
def test_setns_missing_without_flags(nsname):
    before = here()
    with pytest.raises(FileNotFoundError):
        ns.setns(nsname, flags=0)
    assert here() == before


@pytest.mark.root
def test_stack(netns_pair):
    home = here()
    assert ns.pushns(netns_pair[0]) is None
    one = here()
    assert one != home
    ns.pushns()
    ns.setns(netns_pair[1])
    assert here() not in (home, one)
    ns.pushns(netns_pair[0])
    ns.dropns()
    assert here() == one
    ns.popns()
    assert here() == one
    ns.popns()
    assert here() == home
    for function in (ns.popns, ns.dropns):
        with pytest.raises(IndexError):
            function()


@pytest.mark.root
def test_failed_push_saves_nothing(tmp_path):
    with pytest.raises(OSError):
        ns.pushns(str(tmp_path))
    with pytest.raises(IndexError):
        ns.popns()


@pytest.mark.root
def test_failed_pop_stays_saved(netns):
    def body():
        ns.pushns(netns)
        faults.deny(("setns", errno.EPERM))
        for _ in range(2):
            with pytest.raises(PermissionError, match=r"setns.*CAP_SYS_ADMIN"):
                ns.popns()
        ns.dropns()

    survives(body)


@pytest.mark.root
def test_stack_of_each_thread(netns):
    ns.pushns()
    seen = []

    def body():
        home = here()
        with pytest.raises(IndexError):
            ns.popns()
        ns.pushns(netns)
        ns.pushns()
        ns.setns("/proc/self/ns/net")
        seen.append(here() == home)

    before = len(os.listdir("/proc/self/fd"))
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    gc.collect()
    assert seen == [True]
    assert len(os.listdir("/proc/self/fd")) == before  # the thread's are closed with it
    ns.popns()


# create_socket


@pytest.mark.root
def test_create_socket(netns, missing):
    inode = ns.info(netns).inode
    home = here()
    with ns.create_socket(netns) as sock:
        assert type(sock) is socket.socket
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)
        assert faults.socket_namespace(sock.fileno()) == f"net:[{inode}]"
        assert not sock.get_inheritable()
        assert sock.gettimeout() is None
    with ns.create_socket(
        netns, socket.AF_NETLINK, socket.SOCK_RAW, 0, libc=ctypes.CDLL(None), timeout=1
    ) as sock:
        sock.bind((0, 0))
        assert faults.socket_namespace(sock.fileno()) == f"net:[{inode}]"
    with ns.create_socket(netns, socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        assert sock.type == socket.SOCK_DGRAM
        assert sock.gettimeout() == 0
    with ns.create_socket() as sock:
        assert faults.socket_namespace(sock.fileno()) == home
        with ns.create_socket(fileno=os.dup(sock.fileno())) as copy:
            assert copy.family == sock.family
        with pytest.raises(TypeError):
            ns.create_socket(netns, fileno=sock.fileno())
    with pytest.raises(FileNotFoundError):
        ns.create_socket(missing, flags=0)
    ns.create_socket(missing).close()
    with pytest.raises(FileExistsError):
        ns.create_socket(missing, flags=os.O_CREAT | os.O_EXCL)
    with pytest.raises(OSError, match="socket") as caught:
        ns.create_socket(netns, 250)
    assert caught.value.errno == errno.EAFNOSUPPORT
    assert caught.value.filename == netns
    ns.remove(missing)


@pytest.mark.root
def test_socket_outlives_the_name(nsname):
    ns.create(nsname)
    with ns.create_socket(nsname, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        ns.remove(nsname)
        with pytest.raises(OSError):  # nothing is up in there
            sock.sendto(b"x", ("192.0.2.1", 9))


# libc=, mocks, the surface


@pytest.mark.root
@pytest.mark.parametrize("libc", ["text", 5, object(), b"c"], ids=repr)
def test_libc_that_is_none(netns, missing, libc):
    before = here()
    for attempt in (
        lambda: ns.create(missing, libc),
        lambda: ns.remove(netns, libc),
        lambda: ns.attach(missing, os.getpid(), libc),
        lambda: ns._create(missing, libc),
        lambda: ns.getnsfd(missing, os.O_CREAT, libc),
        lambda: ns.setns(netns, libc=libc),
        lambda: ns.create_socket(netns, libc=libc),
        lambda: ns.pushns(netns, libc=libc),
        lambda: ns.popns(libc=libc),
    ):
        with pytest.raises(AttributeError):
            attempt()
    assert here() == before
    assert ns.exists(netns)
    assert missing not in ns.listnetns()


@pytest.mark.root
def test_libc_that_is_one(nsname):
    libc = ctypes.CDLL(None, use_errno=True)
    ns.create(nsname, libc)
    os.close(ns.getnsfd(nsname, 0, libc))
    ns.pushns(nsname, libc)
    ns.popns(libc)
    ns.pushns(libc=libc)
    ns.setns(nsname, libc=libc)
    ns.popns(libc=libc)
    ns.remove(nsname, libc=libc)


PYROUTE2 = ["create", "attach", "remove", "getnsfd", "setns", "pushns", "popns", "dropns", "create_socket"]
PYROUTE2 = [name for name in PYROUTE2 if hasattr(pyroute2.netns, name)]  # 0.9.4 has no getnsfd


def test_mocks(monkeypatch):
    monkeypatch.setattr(config, "mock_netns", True)
    for name in PYROUTE2:
        mock = getattr(ns, name)("blue", libc="text")
        assert type(mock) is config.LocalMock
        assert mock.call_args_list[-1] == (("blue",), {"libc": "text"})
        assert type(mock) is type(getattr(pyroute2.netns, name)("blue"))
        assert getattr(ns, name)(1) is mock
        mock.call_args_list.clear()
    assert ns.create_socket("blue").fileno() is None


@pytest.mark.parametrize(
    "name", [*PYROUTE2, "listnetns", "ns_pids", "pid_to_ns", "_create", "_get_netnspath"]
)
def test_signature(name):
    ours = inspect.signature(getattr(ns, name)).parameters
    code = inspect.unwrap(getattr(pyroute2.netns, name))
    if code.__closure__:  # pyroute2's mock decorator hides what it wraps
        code = next(cell.cell_contents for cell in code.__closure__ if inspect.isfunction(cell.cell_contents))
    theirs = inspect.signature(code).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for key, parameter in theirs.items():
        if key != "nspath":  # a default that is looked up at the call, not when the module is imported
            assert ours[key].default == parameter.default
    assert getattr(ns, name).__name__ == name
    assert getattr(ns, name).__doc__


def test_importing_has_no_effect():
    code = (
        "import os, threading; before = sorted(os.listdir('/proc/self/fd'))\n"
        "import fastns.netns\n"
        "assert sorted(os.listdir('/proc/self/fd')) == before\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(ns.__file__).parent.parent
    )


@pytest.mark.root
def test_errors_pickle(nsname):
    errors = []
    for attempt in (
        lambda: ns.open_ref(nsname),
        lambda: ns.remove(nsname),
        lambda: ns.open_ref(-1),
        lambda: ns.open_ref(Path("/etc/hostname")),
        lambda: ns.sysctl("/proc/self/ns/net")["net.nothing"],
        lambda: ns.sysctl("/proc/self/ns/net").__setitem__("net.ipv4.ip_forward", "text"),
    ):
        with pytest.raises(OSError) as caught:
            attempt()
        errors.append(caught.value)
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.errno, copy.strerror, copy.filename) == (
            type(error),
            error.errno,
            error.strerror,
            error.filename,
        )
        assert copy.filename is not None


# exists, info


@pytest.mark.root
def test_info(netns, sleeper):
    found = os.stat(path_of(netns))
    info = ns.info(netns)
    assert info == ns.NetnsInfo(
        netns, path_of(netns), True, found.st_dev, found.st_ino, info.nsid, (sleeper,)
    )
    ip("netns", "set", netns, "4711")
    assert ns.info(netns).nsid == 4711
    with open(path_of(netns)) as file:
        info = ns.info(file)
        assert (info.netns, info.path, info.nsid) == (file.fileno(), None, 4711)
    assert ns.run_in(netns, ns.info, netns).nsid != 4711
    info = ns.info(None, pid=sleeper)
    assert info.path == info.netns == f"/proc/{sleeper}/ns/net"
    assert pickle.loads(pickle.dumps(info)) == info


@pytest.mark.root
def test_info_and_exists_of_nothing(nsname):
    assert not ns.exists(nsname)
    assert not ns.exists(path_of(nsname))
    assert not ns.exists(None, pid=2**30)
    assert ns.exists(None, pid=os.getpid())
    with pytest.raises(FileNotFoundError) as caught:
        ns.info(nsname)
    assert caught.value.filename == nsname
    with pytest.raises(FileNotFoundError):
        ns.info(None, pid=2**30)
    with pytest.raises(TypeError):
        ns.open_ref(nsname, pid=1)


# watch


def names_of(events, kind: str) -> list[str]:
    return [name for event, name in events if event == kind]


@pytest.mark.root
def test_watch(nsname, netns_pair):
    with ns.watch() as watch:
        with pytest.raises(TimeoutError):
            watch.get(0)
        ns.create(nsname)
        assert watch.get(10) == ("created", nsname)
        ns.remove(nsname)
        ip("netns", "add", nsname)
        ip("netns", "del", netns_pair[0])
        ns.remove(nsname)
        # what has come and gone before it is looked at passes unseen
        assert [watch.get(10) for _ in range(2)] == [("removed", nsname), ("removed", netns_pair[0])]
        with pytest.raises(TimeoutError):
            watch.get(0)


@pytest.mark.root
def test_watch_sees_every_step_when_followed(nsname):
    with ns.watch() as watch:
        for round_ in range(20):
            if round_ % 2:
                ip("netns", "add", nsname)
            else:
                ns.create(nsname)
            assert watch.get(10) == ns.NetnsEvent("created", nsname)
            assert ns.exists(nsname)
            ns.remove(nsname)
            assert watch.get(10) == ns.NetnsEvent("removed", nsname)


@pytest.mark.root
def test_watch_iterates_until_the_timeout():
    names = [new_name() for _ in range(30)]
    with ns.watch(timeout=0.5) as watch:
        for name in names:
            ns.create(name)
        for name in names:
            assert next(watch).name == name
        for name in names:
            ns.remove(name)
        events = list(watch)
    assert names_of(events, "removed") == names
    assert len(events) == len(names)
    assert list(watch) == []


@pytest.mark.root
def test_watch_created_when_the_mount_is_there(nsname):
    path = path_of(nsname)
    with ns.watch() as watch:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0))
        with pytest.raises(TimeoutError):
            watch.get(0.1)
        fd = _core.ns_new()
        faults.call(faults.libc.mount(f"/proc/self/fd/{fd}".encode(), path.encode(), None, 0x1000, None))
        os.close(fd)
        # nothing but fileno() has to be looked at
        assert select.select([watch], [], [], 10)[0] == [watch]
        assert watch.get(10) == ("created", nsname)
        os.close(os.open(path + "x", os.O_CREAT | os.O_EXCL, 0))
        os.unlink(path + "x")
        with pytest.raises(TimeoutError):
            watch.get(0.05)
        ns.remove(nsname)
        assert watch.get(10) == ("removed", nsname)


@pytest.mark.root
def test_watch_without_a_run_directory(tmp_path, monkeypatch, nsname):
    directory = tmp_path / "netns"
    with pytest.raises(FileNotFoundError):
        ns.watch(str(tmp_path / "no" / "netns"))
    monkeypatch.setattr(ns, "NETNS_RUN_DIR", str(directory))
    with ns.watch() as watch:
        (tmp_path / "other").mkdir()
        with pytest.raises(TimeoutError):
            watch.get(0)
        for _ in range(2):
            ns.create(nsname)
            assert watch.get(10) == ("created", nsname)
            ns.remove(nsname)
            assert watch.get(10) == ("removed", nsname)
            faults.call(faults.libc.umount2(os.fsencode(directory), MNT_DETACH))
            directory.rmdir()
            with pytest.raises(TimeoutError):
                watch.get(0)


@pytest.mark.root
def test_watch_after_a_loss(missing, netns):
    with ns.watch() as watch:
        ns.create(missing)
        ns.remove(netns)
        while True:  # what the kernel drops when its queue is full
            try:
                os.read(watch._inotify, 65536)
            except BlockingIOError:
                break
        watch._take(-1, 0x4000, "")
        assert {watch.get(0), watch.get(0)} == {("created", missing), ("removed", netns)}
        ns.remove(missing)
        assert watch.get(10) == ("removed", missing)


@pytest.mark.root
def test_watch_in_asyncio(nsname):
    async def main():
        found = []
        loop = asyncio.get_running_loop()
        with ns.watch() as watch:
            task = loop.run_in_executor(None, ip, "netns", "add", nsname)
            async for event in watch:
                found.append(event)
                if event.event == "removed":
                    break
                await task
                task = loop.run_in_executor(None, ns.remove, nsname)
            await task
        assert [event async for event in watch] == []
        with ns.watch(timeout=0.01) as watch:
            assert [event async for event in watch] == []
        return found

    assert asyncio.run(main()) == [("created", nsname), ("removed", nsname)]


@pytest.mark.root
def test_watch_use_after_close():
    watch = ns.watch()
    assert not watch.closed
    watch.close()
    watch.close()
    assert watch.closed
    for attempt in (watch.fileno, lambda: watch.get(0)):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EBADF
    assert list(watch) == []


@pytest.mark.root
def test_watch_unclosed_warns():
    watch = ns.watch()
    with pytest.warns(ResourceWarning, match="unclosed watch"):
        del watch
        gc.collect()


@pytest.mark.root
def test_watch_descriptor_limit():
    def body():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        free = max(map(int, os.listdir("/proc/self/fd"))) + 1
        before = set(os.listdir("/proc/self/fd"))
        for more in range(4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
            try:
                ns.watch().close()
            except OSError as error:
                assert error.errno == errno.EMFILE
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        assert set(os.listdir("/proc/self/fd")) == before

    survives(body)


# sysctl


@pytest.mark.root
def test_sysctl(netns):
    setting = ns.sysctl(netns)
    home = here()
    outside = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    assert setting["net.ipv4.ip_forward"] == "0"
    setting["net.ipv4.ip_forward"] = 1
    assert setting["net/ipv4/ip_forward"] == "1"
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == outside
    assert ip("netns", "exec", netns, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    setting["net.ipv4.ip_forward"] = False
    assert setting["net.ipv4.ip_forward"] == "0"
    setting["net.ipv4.ip_local_port_range"] = "20000 30000\n"
    assert setting["net.ipv4.ip_local_port_range"].split() == ["20000", "30000"]
    setting["net.ipv4.ip_local_port_range"] = b"20001 30001"
    assert setting["net.ipv4.ip_local_port_range"].split() == ["20001", "30001"]
    assert setting.get("net.ipv4.ip_forward") == "0"
    assert setting.get("net.ipv4.nothing") is None
    assert setting.get("net.ipv4.nothing", "x") == "x"
    assert "net.ipv4.ip_forward" in setting
    assert "net.ipv4.nothing" not in setting
    assert "net.ipv4" not in setting
    assert "kernel.hostname" not in setting
    assert 5 not in setting
    names = list(setting)
    assert "net.ipv4.ip_forward" in names
    assert all(name in setting for name in names)
    assert here() == home
    assert netns in repr(setting)


@pytest.mark.root
def test_sysctl_names_with_a_dot(netns):
    ip("-n", netns, "link", "add", "eth0.10", "type", "bridge")
    setting = ns.sysctl(netns)
    for name in ("net.ipv4.conf.eth0/10.forwarding", "net/ipv4/conf/eth0.10/forwarding"):
        setting[name] = 0
        assert setting[name] == "0"
        setting[name] = 1
        assert setting[name] == "1"
    assert "net.ipv4.conf.eth0/10.forwarding" in list(setting)


@pytest.mark.root
def test_sysctl_long_value(netns):
    setting = ns.sysctl(netns)
    ports = ",".join(str(port) for port in range(2, 4000, 2))
    assert len(ports) > 4096
    setting["net.ipv4.ip_local_reserved_ports"] = ports[:4000].rpartition(",")[0]
    assert setting["net.ipv4.ip_local_reserved_ports"] == ports[:4000].rpartition(",")[0]


@pytest.mark.root
@pytest.mark.parametrize(
    "name",
    ["", "net", "net.", "net..ipv4", "net/../kernel/hostname", "kernel.hostname", "/net/ipv4/ip_forward", "net/./x",
     "net.ipv4.ip_forward\0", "../net/x", "net/ipv4/..", "net.ipv4.conf.//..x"],
)  # fmt: skip
def test_sysctl_stays_below_net(netns, name):
    setting = ns.sysctl(netns)
    for attempt in (lambda: setting[name], lambda: setting.__setitem__(name, 1)):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            attempt()
        if name != "net.ipv4.conf.//..x":
            assert isinstance(caught.value, ValueError)


@given(name=st.one_of(st.text(), st.text("net./\0ab").map(lambda tail: "net" + tail)))
def test_sysctl_any_name(name):
    try:
        path = ns.Sysctl._path(name)
    except (ValueError, UnicodeEncodeError):
        return
    assert path.startswith(b"/proc/sys/net/")
    assert os.path.normpath(path) == path


@pytest.mark.root
def test_sysctl_errors(netns, missing):
    setting = ns.sysctl(netns)
    with pytest.raises(FileNotFoundError, match=r"net\.ipv4\.nothing") as caught:
        setting["net.ipv4.nothing"]
    assert caught.value.filename == netns
    with pytest.raises(OSError, match=r"write /proc/sys/net.*ip_forward") as caught:
        setting["net.ipv4.ip_forward"] = "text"
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(TypeError):
        setting["net.ipv4.ip_forward"] = 1.5
    with pytest.raises(TypeError):
        setting[b"net.ipv4.ip_forward"]
    with pytest.raises(FileNotFoundError):
        ns.sysctl(missing)["net.ipv4.ip_forward"]
    with pytest.raises(PermissionError):
        setting["net.ipv4.route.flush"]
    setting["net.ipv4.route.flush"] = 1
