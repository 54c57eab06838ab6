"""Entering a namespace without a way back: a user namespace without a network namespace of its own."""

from __future__ import annotations

import contextvars
import errno
import os
import resource
import signal
import socket
import threading

import faults
import pytest
from entering import blocked_signals, check_udp, link, no_return, open_udp
from faults import CLONE_NEWNET, CLONE_NEWNS, here, survives

from fastns import _core
from fastns import netns as ns

pytestmark = pytest.mark.root


def test_throw_away_thread(nsname):
    def body():
        faults.user_namespace()
        no_return()
        fd = _core.ns_new("x")
        check_udp(fd)
        for _ in range(50):
            open_udp(fd).close()
        assert os.listdir("/proc/self/task") == [str(os.getpid())]
        no_return()
        _core.socket_in(fd, socket.socket, socket.AF_PACKET, socket.SOCK_RAW).close()
        assert _core.sysctl_read(fd, b"/proc/sys/net/ipv4/ip_forward") == b"0\n"
        _core.sysctl_write(fd, b"/proc/sys/net/ipv4/ip_forward", b"1\n")
        assert _core.sysctl_read(fd, b"/proc/sys/net/ipv4/ip_forward") == b"1\n"
        os.close(fd)

    survives(body)


def test_throw_away_thread_enters_nothing_of_the_parents(netns):
    def body():
        fd = ns.getnsfd(netns)
        faults.user_namespace()
        before = here()
        with pytest.raises(PermissionError, match=r"setns.*CAP_SYS_ADMIN") as caught:
            open_udp(fd)
        assert caught.value.filename == "the-name"
        with pytest.raises(PermissionError, match=r"setns.*CAP_SYS_ADMIN"):
            ns.create_socket(netns)
        assert here() == before

    survives(body)


def test_throw_away_thread_cannot_be_made(nsname):
    def body():
        faults.user_namespace()
        fd = _core.ns_new("x")
        before = here()
        faults.deny(("clone", errno.EAGAIN), ("clone3", errno.EAGAIN))
        with pytest.raises(BlockingIOError, match="pthread_create") as caught:
            open_udp(fd)
        assert caught.value.filename == "the-name"
        with pytest.raises(OSError, match="pthread_create"):
            ns.create(nsname)
        with pytest.raises(OSError, match="pthread_create"):
            ns.run_in(fd, here)
        assert here() == before
        os.close(fd)

    survives(body)


def test_throw_away_thread_over_the_process_limit():
    def body():
        faults.ordinary_user()
        faults.user_namespace()
        fd = _core.ns_new("x")
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
        with pytest.raises(OSError, match="pthread_create") as caught:
            open_udp(fd)
        assert caught.value.errno == errno.EAGAIN
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        check_udp(fd)
        os.close(fd)

    survives(body)


def test_throw_away_thread_signals_wait(nsfd):
    def body():
        faults.user_namespace()
        blocked = []

        def judge(n, tid):
            blocked.append((tid != os.getpid(), blocked_signals(tid) >> (signal.SIGINT - 1) & 1))
            return 0

        fd = _core.ns_new("x")
        faults.supervise("setns", judge)
        open_udp(fd).close()
        # the proof in this thread, the way in in the other
        assert blocked == [(False, 1), (True, 1)]
        os.close(fd)

    survives(body)


def test_entered_without_way_back():
    def body():
        faults.user_namespace()
        fd = _core.ns_new("x")
        before = here()
        with pytest.raises(PermissionError, match=r"come back.*CAP_SYS_ADMIN") as caught, ns.entered(fd):
            pytest.fail("not to be reached")
        assert caught.value.filename == fd
        assert here() == before
        os.close(fd)

    survives(body)


def test_run_in_without_way_back():
    variable = contextvars.ContextVar("variable")

    class Oops(Exception):
        pass

    def fail():
        raise Oops(here())

    def body():
        faults.user_namespace()
        fd = _core.ns_new("x")
        before = here()
        variable.set("value")

        def inside(*args, **kwargs):
            return here(), threading.get_native_id(), variable.get(), args, kwargs

        where, tid, value, args, kwargs = ns.run_in(fd, inside, 1, 2, netns=3, func=4)
        assert where == link(fd)
        assert tid != os.getpid()
        assert value == "value"
        assert (args, kwargs) == ((1, 2), {"netns": 3, "func": 4})
        with pytest.raises(Oops) as caught:
            ns.run_in(fd, fail)
        assert str(caught.value) == link(fd)
        with pytest.raises(SystemExit):
            ns.run_in(fd, lambda: (_ for _ in ()).throw(SystemExit(3)))
        assert here() == before
        assert os.listdir("/proc/self/task") == [str(os.getpid())]
        os.close(fd)

    survives(body)


def test_own_mount_namespace_without_own_network_namespace(nsname):
    # unshare -Urm: names can be made and removed; the parent's names can neither be entered nor removed
    def body():
        faults.user_namespace(CLONE_NEWNS)
        no_return()
        ns.create(nsname)
        assert ns.info(nsname).alive
        fd = ns.getnsfd(nsname)
        check_udp(fd)
        os.close(fd)
        ns.remove(nsname)
        assert nsname not in ns.listnetns()

    survives(body)


def test_mount_of_the_parent_is_locked(netns):
    def body():
        faults.user_namespace(CLONE_NEWNS)
        with pytest.raises(PermissionError, match=r"umount2.*CAP_SYS_ADMIN") as caught:
            ns.remove(netns)
        assert caught.value.filename == netns

    survives(body)
    assert ns.exists(netns)


def test_no_mount_namespace_of_its_own(missing, netns):
    # unshare -Ur: namespaces can be made and used, but not named
    def body():
        faults.user_namespace()
        with pytest.raises(PermissionError, match=r"mount.*CAP_SYS_ADMIN over the mount") as caught:
            ns.create(missing)
        assert caught.value.filename == missing
        with pytest.raises(PermissionError, match=r"umount2.*CAP_SYS_ADMIN over the mount"):
            ns.remove(netns)
        assert missing not in ns.listnetns()
        assert ns.exists(netns)

    survives(body)


def test_rootless(nsname, ifname):
    # unshare -Urnm: everything
    def body():
        faults.user_namespace(CLONE_NEWNS | CLONE_NEWNET)
        home = here()
        ns.create(nsname)
        with ns.entered(nsname):
            assert here() != home
        assert ns.run_in(nsname, here) != home
        ns.sysctl(nsname)["net.ipv4.ip_forward"] = 1
        assert ns.sysctl(nsname)["net.ipv4.ip_forward"] == "1"
        with ns.create_socket(nsname, socket.AF_PACKET, socket.SOCK_RAW):
            pass
        assert here() == home
        ns.remove(nsname)

    survives(body)


def test_own_run_directory(nsname, tmp_path):
    def body():
        faults.user_namespace(CLONE_NEWNS)
        ns.NETNS_RUN_DIR = str(tmp_path / "netns")
        ns.create(nsname)
        assert ns.listnetns() == [nsname]
        assert ns.exists(tmp_path / "netns" / nsname)
        ns.remove(nsname)
        assert ns.listnetns() == []
        faults.call(faults.libc.umount2(os.fsencode(ns.NETNS_RUN_DIR), 2))

    survives(body)


def test_no_privilege_at_all(missing, netns, ifname):
    def body():
        faults.drop_capabilities()
        before = here()
        for attempt in (
            lambda: ns.create(missing),
            lambda: ns.remove(netns),
            lambda: ns.setns(netns),
            lambda: ns.pushns(netns),
            lambda: ns.create_socket(netns),
            lambda: ns.entered(netns).__enter__(),
            lambda: ns.run_in(netns, here),
            lambda: ns.sysctl(netns)["net.ipv4.ip_forward"],
        ):
            with pytest.raises(PermissionError, match="CAP_SYS_ADMIN") as caught:
                attempt()
            assert caught.value.filename in (missing, netns)
        with pytest.raises(PermissionError, match="mount"):
            ns.attach(missing, os.getpid())
        with pytest.raises(PermissionError, match=r"TUNSETIFF.*CAP_NET_ADMIN|/dev/net/tun"):
            _core.tun_create(-1, ifname, 1)
        with pytest.raises(PermissionError, match=r"socket.*CAP_NET_RAW"):
            _core.socket_in(-1, socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
        # what needs none
        assert ns.exists(netns)
        assert netns in ns.listnetns()
        assert ns.info(netns).alive
        assert missing not in ns.listnetns()
        assert here() == before
        with pytest.raises(IndexError):
            ns.popns()

    survives(body)
