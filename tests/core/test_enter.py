"""Entering a namespace: where the calling thread is afterwards, whatever fails."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import threading
import time

import faults
import pytest
from entering import blocked_signals, check_udp, link, open_udp
from faults import CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, here, in_child, socket_namespace, survives
from programs import script

from fastns import _core
from fastns import netns as ns

pytestmark = pytest.mark.root


# the calling thread goes and returns


def test_socket_is_inside_and_the_thread_at_home(nsfd):
    check_udp(nsfd)


def test_minus_one_is_the_present_namespace(nsfd):
    with ns.entered(nsfd):
        sock = open_udp(-1)
    assert socket_namespace(sock.fileno()) == link(nsfd)
    sock.close()


def test_no_thread_where_the_return_is_proven(nsfd):
    def body():
        faults.deny(("clone", errno.EAGAIN), ("clone3", errno.EAGAIN))
        check_udp(nsfd)

    survives(body)


def test_a_thread_returns_to_its_own_namespace_not_the_main_threads(netns_pair):
    one, two = netns_pair
    seen = []

    def body():
        ns.setns(one)
        before = here()
        fd = ns.getnsfd(two)
        check_udp(fd)
        os.close(fd)
        seen.append(before == here())

    main = here()
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [True]
    assert here() == main


def test_signals_wait_until_the_thread_is_home(nsfd):
    def body():
        main = threading.get_native_id()
        inside = []
        handled = []
        signal.signal(signal.SIGUSR1, lambda *_: handled.append(here()))
        home = here()

        def judge(n, tid):
            # 1: the proof, 2: the way in, 3: the way back
            inside.append((n, tid == main, blocked_signals(tid)))
            if n == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
            return 0

        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        faults.supervise("setns", judge)
        sock = open_udp(nsfd)
        sock.close()
        assert [n for n, _, _ in inside] == [1, 2, 3]
        for _, is_main, blocked in inside:
            assert is_main
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD):
                assert blocked >> (number - 1) & 1
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
        # The handler runs at the next opportunity in the main thread, or has.
        while not handled:
            time.sleep(0.001)
        assert handled == [home]

    survives(body)


def test_the_gil_is_free_while_entering(nsfd):
    # The supervisor that lets each call go on is Python itself: with the GIL held this would never end.
    def body():
        faults.supervise("setns", lambda n, tid: 0)
        check_udp(nsfd)
        fd = _core.ns_new("x")
        os.close(fd)

    survives(body)


def test_an_alarm_storm_interrupts_nothing(nsname):
    home = here()
    strangers = []
    count = 0

    def handler(signum, frame):
        nonlocal count
        count += 1
        if here() != home:
            strangers.append(here())

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        for _ in range(60):
            ns.create(nsname)
            fd = ns.getnsfd(nsname)
            for _ in range(20):
                check_udp(fd)
            os.close(fd)
            assert ns.run_in(nsname, here) != home
            ns.remove(nsname)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert count > 0
    # run_in's body is Python code inside the namespace, where handlers may run; nothing else is.
    assert len(strangers) <= 60


def test_threads_entering_different_namespaces_at_once(netns_pair):
    wrong = []

    def body(name):
        fd = ns.getnsfd(name)
        for _ in range(150):
            try:
                check_udp(fd)
            except BaseException as error:
                wrong.append(error)
        os.close(fd)

    threads = [threading.Thread(target=body, args=(name,)) for name in netns_pair * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# what cannot be entered


def test_closed_descriptor(nsfd):
    closed = os.dup(nsfd)
    os.close(closed)
    before = here()
    with pytest.raises(OSError, match="setns") as caught:
        open_udp(closed)
    assert caught.value.errno == errno.EBADF
    assert caught.value.filename == "the-name"
    assert here() == before


@pytest.mark.parametrize("path", ["/proc/self/ns/mnt", "/dev/null"])
def test_descriptor_of_something_else(path):
    fd = os.open(path, os.O_RDONLY)
    before = here()
    with pytest.raises(OSError, match="setns") as caught:
        open_udp(fd)
    assert caught.value.errno == errno.EINVAL
    assert here() == before
    os.close(fd)


def test_deleted_namespace_lives_on_in_its_descriptor(nsname):
    ns.create(nsname)
    fd = ns.getnsfd(nsname)
    ns.remove(nsname)
    check_udp(fd)
    os.close(fd)
    with pytest.raises(FileNotFoundError) as caught:
        ns.open_ref(nsname)
    assert caught.value.filename == nsname


def test_failing_operation_inside(nsfd):
    before = here()
    with pytest.raises(OSError, match="socket") as caught:
        _core.socket_in(nsfd, socket.socket, 255, socket.SOCK_RAW, 0, "the-name")
    assert caught.value.errno in (errno.EAFNOSUPPORT, errno.EINVAL)
    assert here() == before


def test_no_descriptor_left(nsfd):
    def body():
        before = here()
        soft = max(map(int, os.listdir("/proc/self/fd"))) + 4
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        held = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        while True:
            try:
                held.append(os.dup(nsfd))
            except OSError:
                break
        for free in range(3):
            if free:
                os.close(held.pop())
            try:
                open_udp(nsfd).close()
            except OSError as error:
                assert error.errno == errno.EMFILE
                assert free < 2
                assert error.filename == "the-name"
            else:
                assert free >= 1
            try:
                os.close(_core.ns_new("the-name"))
            except OSError as error:
                assert error.errno == errno.EMFILE
                assert free < 2
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        assert here() == before
        check_udp(nsfd)

    survives(body)


def test_setns_refused(nsfd):
    def body():
        before = here()
        faults.deny(("setns", errno.EPERM))
        with pytest.raises(PermissionError, match=r"setns.*CAP_SYS_ADMIN") as caught:
            open_udp(nsfd)
        assert caught.value.filename == "the-name"
        with pytest.raises(PermissionError, match="come back"), ns.entered(nsfd):
            pass
        with pytest.raises(PermissionError, match="setns"):
            ns.run_in(nsfd, here)
        with pytest.raises(PermissionError, match="setns"):
            ns.setns(nsfd)
        assert here() == before

    survives(body)


@pytest.mark.parametrize("way", ["proven", "thread"])
def test_unshare_refused(nsname, way):
    def body():
        if way == "thread":
            faults.user_namespace(CLONE_NEWNS)
        before = here()
        faults.deny(("unshare", errno.ENOSPC, {0: CLONE_NEWNET}))
        with pytest.raises(OSError, match="unshare") as caught:
            ns.create(nsname)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == nsname
        assert here() == before
        assert nsname not in ns.listnetns()

    survives(body)


@pytest.mark.parametrize("err", [errno.EPERM, errno.EINVAL, errno.ENOMEM])
def test_mount_refused_leaves_nothing(nsname, tmp_path, err):
    def body():
        before = here()
        faults.deny(("mount", err))
        for name in (nsname, str(tmp_path / "new" / "x"), tmp_path / "y"):
            with pytest.raises(OSError, match="mount") as caught:
                ns.create(name)
            assert caught.value.errno == err
            assert caught.value.filename == os.fspath(name)
            if err == errno.EPERM:
                assert "CAP_SYS_ADMIN over the mount namespace" in caught.value.strerror
        assert nsname not in ns.listnetns()
        assert os.listdir(tmp_path) == []
        assert here() == before

    survives(body)


def test_bind_mount_refused_leaves_nothing(nsname):
    def body():
        MS_BIND = 0x1000
        faults.deny(("mount", errno.ENOMEM, {3: MS_BIND}))
        with pytest.raises(OSError, match="mount") as caught:
            ns.create(nsname)
        assert caught.value.errno == errno.ENOMEM
        assert nsname not in ns.listnetns()
        with pytest.raises(OSError, match="mount"):
            ns.attach(nsname, os.getpid())
        assert nsname not in ns.listnetns()

    survives(body)


def test_umount_refused_leaves_the_namespace(netns):
    def body():
        faults.deny(("umount2", errno.EPERM))
        with pytest.raises(PermissionError, match=r"umount2.*CAP_SYS_ADMIN") as caught:
            ns.remove(netns)
        assert caught.value.filename == netns
        assert ns.exists(netns)

    survives(body)
    assert ns.exists(netns)


def test_without_proc(nsfd):
    def body():
        faults.call(faults.libc.unshare(CLONE_NEWNS))
        faults.call(faults.libc.mount(b"none", b"/", None, 0x4000 | 1 << 18, None))
        before = here()
        proc = os.open("/proc", os.O_RDONLY)
        faults.call(faults.libc.mount(b"none", b"/proc", b"tmpfs", 0, None))
        open_udp(nsfd).close()
        with pytest.raises(FileNotFoundError, match="/proc/thread-self/ns/net"):
            _core.ns_new("x")
        os.fchdir(proc)
        assert os.readlink("thread-self/ns/net") == before

    survives(body)


# a proven return that fails all the same


def aborts(body) -> None:
    status = in_child(body)
    assert os.WIFSIGNALED(status), status
    assert os.WTERMSIG(status) == signal.SIGABRT


@pytest.mark.parametrize("what", ["socket", "create", "sysctl"])
def test_failed_return_aborts(netns, missing, what, capfd):
    def body():
        fd = ns.getnsfd(netns)
        # 1: the proof, 2: the way in (an unshare for create), then the way back
        faults.supervise("setns", lambda n, tid: errno.EPERM if n == (2 if what == "create" else 3) else 0)
        if what == "socket":
            open_udp(fd)
        elif what == "sysctl":
            _core.sysctl_read(fd, b"/proc/sys/net/ipv4/ip_forward")
        else:
            ns.create(missing)

    aborts(body)
    assert "cannot return to the caller's network namespace" in capfd.readouterr().err
    assert missing not in ns.listnetns()


@pytest.mark.parametrize("what", ["run_in", "entered", "raising"])
def test_body_that_gives_up_the_way_back_aborts(netns, what, capfd):
    def lose():
        faults.deny(("setns", errno.EPERM))
        if what == "raising":
            raise ValueError

    def body():
        if what == "entered":
            with ns.entered(netns):
                lose()
        else:
            ns.run_in(netns, lose)

    aborts(body)
    assert "cannot return to the caller's network namespace" in capfd.readouterr().err


def test_abort_is_not_to_be_caught(netns):
    def body():
        signal.signal(signal.SIGABRT, lambda *_: None)
        faults.supervise("setns", lambda n, tid: errno.EPERM if n == 3 else 0)
        fd = ns.getnsfd(netns)
        open_udp(fd)

    aborts(body)


# entered and run_in


def test_entered_and_home_again(netns, nsfd):
    before = here()
    for ref in (netns, netns.encode(), f"/var/run/netns/{netns}", nsfd):
        with ns.entered(ref):
            assert here() == link(nsfd)
        assert here() == before
    with pytest.raises(KeyError), ns.entered(netns):
        raise KeyError
    assert here() == before


def test_entered_by_pid(netns, nsfd):
    process = subprocess.Popen(["ip", "netns", "exec", netns, "sleep", "60"])
    try:
        while ns.pid_to_ns(process.pid) != netns:
            time.sleep(0.005)
        with ns.entered(None, pid=process.pid):
            assert here() == link(nsfd)
    finally:
        process.kill()
        process.wait()


def test_entered_nests(netns_pair):
    home = here()
    with ns.entered(netns_pair[0]):
        outer = here()
        with ns.entered(netns_pair[1]):
            assert here() not in (outer, home)
            with ns.entered(netns_pair[0]):
                assert here() == outer
        assert here() == outer
    assert here() == home


def test_entered_creates_when_asked(nsname):
    with pytest.raises(FileNotFoundError), ns.entered(nsname):
        pass
    with ns.entered(nsname, os.O_CREAT):
        pass
    with pytest.raises(FileExistsError), ns.entered(nsname, os.O_CREAT | os.O_EXCL):
        pass
    ns.remove(nsname)


def test_entered_twice_or_not_at_all(netns):
    manager = ns.entered(netns)
    with pytest.raises(RuntimeError):
        manager.__exit__(None, None, None)
    with manager, pytest.raises(RuntimeError):
        manager.__enter__()
    with manager:  # again, afterwards
        pass


def test_entered_is_left_by_its_own_thread(netns):
    manager = ns.entered(netns)
    manager.__enter__()
    errors = []

    def other():
        try:
            manager.__exit__(None, None, None)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    manager.__exit__(None, None, None)
    assert len(errors) == 1


def test_entered_affects_no_other_thread(netns):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    path = f"/proc/self/task/{thread.native_id}/ns/net"
    home = here()
    with ns.entered(netns):
        assert here() != home
        assert os.readlink(path) == home
    stop.set()
    thread.join()


def test_entered_does_not_pickle(netns):
    import pickle

    with pytest.raises(TypeError):
        pickle.dumps(ns.entered(netns))


def test_run_in_returns_and_raises(netns, nsfd):
    home = here()
    assert ns.run_in(netns, here) == link(nsfd)
    assert ns.run_in(nsfd, lambda *args, **kwargs: (args, kwargs), 1, netns=2) == ((1,), {"netns": 2})
    with pytest.raises(ZeroDivisionError):
        ns.run_in(netns, lambda: 1 // 0)
    with pytest.raises(KeyboardInterrupt):
        ns.run_in(netns, signal.raise_signal, signal.SIGINT)
    assert ns.run_in(netns, threading.get_native_id) == threading.get_native_id()
    assert here() == home


def test_run_in_body_that_wanders_off(netns_pair):
    home = here()
    ns.run_in(netns_pair[0], ns.setns, netns_pair[1])
    assert here() == home


def test_run_in_forks(netns, nsfd):
    inside = link(nsfd)
    home = here()
    pid = ns.run_in(netns, os.fork)
    if pid == 0:
        os._exit(0 if here() == home else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert ns.run_in(netns, here) == inside


# tun, tap, sysctl

needs_tun = pytest.mark.skipif(
    not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="kernel: /dev/net/tun is not there for this user"
)


@needs_tun
@pytest.mark.parametrize("flags, kind", [(1 | 0x1000, "tun"), (2 | 0x1000, "tap")])
def test_tun_create(netns, nsfd, ifname, flags, kind):
    before = here()
    assert _core.tun_create(nsfd, ifname, flags, os.getuid(), os.getgid(), True, netns) == ifname
    shown = subprocess.run(
        ["ip", "-n", netns, "tuntap", "show"], check=True, capture_output=True, text=True
    ).stdout
    assert f"{ifname}: {kind}" in shown
    assert f"user {os.getuid()}" in shown
    assert f"group {os.getgid()}" in shown
    assert not os.path.exists(f"/sys/class/net/{ifname}")
    assert _core.tun_create(nsfd, ifname, flags, persist=False) == ifname
    links = subprocess.run(["ip", "-n", netns, "link"], check=True, capture_output=True, text=True).stdout
    assert ifname not in links
    assert here() == before


@needs_tun
def test_tun_create_numbered(nsfd):
    assert _core.tun_create(nsfd, "fns%d", 2) == "fns0"
    assert _core.tun_create(nsfd, b"fns%d", 2) == "fns1"


@pytest.mark.parametrize("name", ["x" * 16, "a/b", "a\0b"])
def test_tun_create_bad_name(nsfd, name):
    with pytest.raises(ValueError, match="interface name"):
        _core.tun_create(nsfd, name, 1)


@needs_tun
def test_tun_create_refused(netns, nsfd):
    with pytest.raises(OSError, match="TUNSETIFF") as caught:
        _core.tun_create(nsfd, "lo", 2, ref=netns)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == netns


def test_new_user_namespace_needs_one_thread():
    # what the tests above rest on: the children made here have a single thread
    def body():
        assert os.listdir("/proc/self/task") == [str(os.getpid())]
        faults.call(faults.libc.unshare(CLONE_NEWUSER))

    survives(body)


WITHOUT_PROC = """
import os, subprocess, sys
from fastns import netns
here = os.stat("/proc/thread-self/ns/net").st_ino
subprocess.run(["mount", "-t", "tmpfs", "none", "/proc"], check=True)  # which may not be unmounted by everybody
name = sys.argv[1]
for attempt in (lambda: netns.entered(name).__enter__(), lambda: netns.pushns(name), lambda: netns.create(name + "-made")):
    try:
        attempt()
    except FileNotFoundError as error:
        assert "/proc is not mounted" in str(error), error
    else:
        raise AssertionError(attempt)
assert netns.run_in(name, os.getpid) == os.getpid()
netns.create_socket(name).close()
assert not netns.exists(name + "-made")
"""


def test_without_proc_the_error_names_it_and_a_thread_goes(netns):
    script(WITHOUT_PROC, netns, prefix=("unshare", "-m"))
