"""Events of IPRoute and NetNS, over the direct and the relay transport."""

from __future__ import annotations

import errno
import select
import threading
import time

import pytest
from handles import until, veth
from handwritten import settle
from pyroute2.netlink.rtnl import RTMGRP_LINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from fastns import NetNS

pytestmark = pytest.mark.root


@pytest.mark.parametrize("way", ["auto", "direct", "relay"])
def test_bind_and_get(netns, way):
    with NetNS(netns, transport=way) as ns:
        ns.bind()
        ns.link("add", ifname="e0", kind="bridge")
        msg = until(ns, lambda m: m["event"] == "RTM_NEWLINK" and m.get("ifname") == "e0")[-1]
        assert isinstance(msg, ifinfmsg)
        ns.bind(RTMGRP_LINK)
        index = ns.link_lookup(ifname="e0")[0]
        ns.link("set", index=index, state="up")
        ns.link("del", index=index)
        until(ns, lambda m: m["event"] == "RTM_DELLINK")


@pytest.mark.parametrize("way", ["auto", "direct", "relay"])
@pytest.mark.parametrize("poller", ["select", "poll", "epoll"])
def test_readiness(netns, way, poller):
    def ready(fd, timeout):
        if poller == "select":
            return bool(select.select([fd], [], [], timeout)[0])
        if poller == "poll":
            p = select.poll()
            p.register(fd, select.POLLIN)
            return bool(p.poll(timeout * 1000))
        with select.epoll() as p:
            p.register(fd, select.EPOLLIN)
            return bool(p.poll(timeout))

    with NetNS(netns, transport=way) as ns:
        fd = ns.fileno()
        ns.bind()
        assert ns.fileno() == fd
        assert not ready(ns, 0)
        ns.link("add", ifname="e0", kind="bridge")
        assert ready(ns, 20)
        until(ns, lambda m: m.get("ifname") == "e0")
        if hasattr(ns.asyncore.events, "client"):
            settle(ns.asyncore.events.client)
        while ready(ns, 0):
            ns.get()
        assert not ready(ns, 0)


def test_enobufs_does_not_kill_the_handle(netns):
    with NetNS(netns, transport="direct", rcvbuf=4096) as ns:
        index, _ = veth(ns)
        ns.bind()
        for i in range(400):
            ns.link("set", index=index, state="up" if i % 2 else "down")
        with pytest.raises(OSError) as caught:
            while True:
                ns.get()
        assert caught.value.errno == errno.ENOBUFS
        assert ns.link("get", index=index)
        while select.select([ns.asyncore.events.fileno()], [], [], 0)[0]:
            try:
                ns.get()
            except OSError as error:
                assert error.errno == errno.ENOBUFS
        ns.link("add", ifname="later", kind="bridge")
        until(ns, lambda m: m.get("ifname") == "later")


def test_events_and_requests_from_different_threads(ns):
    ns.bind()
    seen = []
    done = threading.Event()

    def reader():
        while not done.is_set():
            for msg in ns.get():
                if msg["event"] == "RTM_NEWLINK":
                    seen.append(msg.get("ifname"))
                if msg.get("ifname") == "last":
                    done.set()

    thread = threading.Thread(target=reader)
    thread.start()
    for i in range(20):
        ns.link("add", ifname=f"t{i}", kind="bridge")
        assert ns.link_lookup(ifname=f"t{i}")
    ns.link("add", ifname="last", kind="bridge")
    thread.join(30)
    assert not thread.is_alive()
    assert {f"t{i}" for i in range(20)} <= set(seen)


def test_close_wakes_a_waiting_reader(ns):
    ns.bind()
    caught = []

    def reader():
        try:
            while True:
                ns.get()
        except OSError as error:
            caught.append(error.errno)

    thread = threading.Thread(target=reader)
    thread.start()
    time.sleep(0.2)
    ns.close()
    thread.join(30)
    assert not thread.is_alive()
    assert caught == [errno.EBADF]
