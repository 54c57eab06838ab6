"""fastns.netns on the real kernel."""

from __future__ import annotations

import ctypes
import errno
import gc
import inspect
import multiprocessing
import os
import pickle
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import faults
import pyroute2.netns
import pytest
from faults import here, survives
from hypothesis import given, settings
from hypothesis import strategies as st
from isolation import RUN_DIR
from pyroute2 import config
from rundir import MNT_DETACH, ip, ip_names, is_mounted, mounts_on, path_of, unshare_run_directory

from fastns import netns as ns

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


@pytest.mark.parametrize("way", ["assigned", "monkeypatch", "mock"])
def test_the_run_directory_set_on_the_module(way, tmp_path, monkeypatch):
    before, changed = ns.NETNS_RUN_DIR, str(tmp_path)
    (tmp_path / "blue").touch(0)

    def check(directory):
        assert directory == ns.NETNS_RUN_DIR
        assert ns._get_netnspath("blue") == os.fsencode(f"{directory}/blue")

    def check_changed():
        check(changed)
        assert ns.listnetns() == ["blue"]
        assert ns.ns_pids() == {} and ns.pid_to_ns(os.getpid()) is None
        assert ns.info("blue").alive is False
        with ns.watch() as events, pytest.raises(TimeoutError):
            events.get(0)

    if way == "assigned":
        ns.NETNS_RUN_DIR = changed
        try:
            check_changed()
        finally:
            ns.NETNS_RUN_DIR = before
    elif way == "monkeypatch":
        with monkeypatch.context() as patch:
            patch.setattr("fastns.netns.NETNS_RUN_DIR", changed)
            check_changed()
    else:
        with mock.patch("fastns.netns.NETNS_RUN_DIR", changed):
            check_changed()
    check(before)


@pytest.mark.parametrize(
    ("double", "call"),
    [
        ("create", lambda: ns.create_many(["blue"], workers=1)),
        ("remove", lambda: ns.remove_many(["blue"], workers=1)),
        ("_create", lambda: ns.create("blue")),
        ("open_ref", lambda: ns.exists("blue")),
        ("open_ref", lambda: ns.run_in("blue", len, "")),
        ("listnetns", ns.ns_pids),
    ],
    ids=["create_many", "remove_many", "create", "exists", "run_in", "ns_pids"],
)
def test_a_double_on_the_module_is_what_its_functions_call(double, call):
    """As in a program's tests, whose doubles keep it from touching the machine."""

    class Called(Exception):
        pass

    with mock.patch(f"fastns.netns.{double}", side_effect=Called), pytest.raises(Called):
        call()
    assert not isinstance(getattr(ns, double), mock.Mock)


@pytest.mark.parametrize("name", [name for name in ns.__all__ if callable(getattr(ns, name))])
def test_public_names_pickle_by_the_public_path(name):
    thing = getattr(ns, name)
    data = pickle.dumps(thing, 0)
    assert data.startswith(f"cfastns.netns\n{name}\n".encode())
    assert pickle.loads(data) is thing


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
@pytest.mark.parametrize("libc", ["text", 5, object(), b"c"], ids=["text", "number", "object", "bytes"])
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
        [sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(ns.__file__).parents[2]
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
