"""A handle among threads, event loops and forks, and its end."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import signal
import threading
import time
import warnings

import pyroute2
import pytest
from handles import until
from pyroute2 import config
from pyroute2.netlink import NLM_F_REQUEST
from pyroute2.netlink.rtnl import RTM_NEWLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from fastns import IPRoute, NetlinkError, NetNS, Proxy
from fastns import netns as netns_module
from fastns.engine.blocking import Engine

pytestmark = pytest.mark.root


def test_one_handle_many_threads(ns):
    names = [f"t{i}" for i in range(8)]
    for name in names:
        ns.link("add", ifname=name, kind="bridge")
    wrong = []

    def work(name):
        for _ in range(40):
            (link,) = ns.link("get", ifname=name)
            if link.get("ifname") != name:
                wrong.append((name, link.get("ifname")))
            if {m.get("ifname") for m in ns.link("dump")} != {"lo", *names}:
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


def test_inside_a_running_event_loop(netns, transport):
    async def main():
        with NetNS(netns, transport=transport) as ns:
            ns.link("add", ifname="a0", kind="bridge")
            assert ns.ensure(ns.link, present=True, ifname="a0", kind="bridge")
            return ns.link_lookup(ifname="a0")

    assert asyncio.run(main())


def test_a_forked_child_leaves_the_handle_alone(ns):
    ns.bind()
    ns.fileno()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for call in (lambda: ns.link("dump"), ns.get, ns.bind):
                try:
                    call()
                except OSError as error:
                    if error.errno != errno.EBADF:
                        os._exit(2)
                else:
                    os._exit(3)
            ns.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ns.link("get", index=1)
    ns.link("add", ifname="f0", kind="bridge")
    until(ns, lambda m: m.get("ifname") == "f0")


def test_fork_while_another_thread_is_mid_request(ns):
    stop = threading.Event()

    def work():
        while not stop.is_set():
            ns.link("dump")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for _ in range(10):
                pid = os.fork()
                if pid == 0:
                    try:
                        ns.link("dump")
                    except OSError:
                        ns.close()
                        os._exit(0)
                    os._exit(1)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        thread.join(30)


def test_close_and_use_after_close(netns, transport):
    ns = NetNS(netns, transport=transport)
    ns.bind()
    with pytest.raises(NetlinkError):
        ns.link("del", index=4242)
    ns.close()
    ns.close()
    assert ns.status["closed"]
    for call in (
        lambda: ns.link("dump"),
        ns.get,
        ns.bind,
        ns.fileno,
        lambda: ns.sendto(b"x" * 16, (0, 0)),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    assert netns in netns_module.listnetns()


def closed_during(ns, call):
    """What `call` raises in a thread while the handle is closed in this one."""
    caught = []

    def run():
        try:
            call()
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.1)  # it waits by now, or fails for the same reason when it comes to that
    ns.close()
    thread.join(30)
    assert not thread.is_alive()
    return caught


def test_close_wakes_a_request(netns, transport):
    """One whose answer never comes: neither the request nor close() waits for it."""
    ns = NetNS(netns, transport=transport)
    loopback = ifinfmsg()
    loopback["index"] = 1
    request = ns.put(loopback, RTM_NEWLINK, NLM_F_REQUEST)  # done, and not acknowledged
    ns.asyncore.expect(request.msg_seq)
    caught = closed_during(ns, lambda: ns.get(msg_seq=request.msg_seq))
    assert [error.errno for error in caught] == [errno.EBADF]
    assert "closed" in str(caught[0])
    assert netns in str(caught[0])


def test_close_wakes_requests_to_a_stopped_proxy(netns):
    with Proxy() as proxy:
        handles = [NetNS(netns, flags=0, proxy=proxy) for _ in range(2)]
        os.kill(proxy.pid, signal.SIGSTOP)
        try:
            for ns, call in zip(handles, (lambda: handles[0].link("get", index=1), handles[1].get_links)):
                caught = closed_during(ns, call)
                assert [error.errno for error in caught] == [errno.EBADF]
        finally:
            os.kill(proxy.pid, signal.SIGCONT)


def test_close_of_a_proxy_wakes_whoever_opens(netns):
    proxy = Proxy()
    os.kill(proxy.pid, signal.SIGSTOP)
    caught = closed_during(proxy, lambda: NetNS(netns, flags=0, proxy=proxy))
    assert [error.errno for error in caught] == [errno.EBADF]


def test_status_has_the_keys_of_pyroute2(netns, transport):
    for ours, theirs in (
        (NetNS(netns, transport=transport), pyroute2.NetNS(netns)),
        (IPRoute(transport=transport, nlm_generator=True), pyroute2.IPRoute(nlm_generator=True)),
    ):
        with ours, theirs:
            assert set(ours.status) == set(theirs.status)
            differ = {key for key in theirs.status if ours.status[key] != theirs.status[key]}
            # extended acknowledgements are on; there is no event loop of its own
            assert differ == {"ext_ack", "eids", "event_loop"}


def test_remove_with_and_without_close(nsname, transport):
    for close in (True, False):
        ns = NetNS(nsname, transport=transport)
        if close:
            ns.close()
        ns.remove()
        assert nsname not in netns_module.listnetns()


def test_an_unclosed_handle_warns_and_releases(netns, transport):
    ns = NetNS(netns, transport=transport)
    ns.bind()
    with pytest.warns(ResourceWarning, match=netns):
        del ns
        gc.collect()


def test_a_handle_outlives_the_name(nsname, transport):
    with NetNS(nsname, transport=transport) as ns:
        netns_module.remove(nsname)
        ns.link("add", ifname="still", kind="bridge")
        assert ns.link_lookup(ifname="still")
        netns_module.create(nsname)
        ns.bind()
        ns.link("add", ifname="event", kind="bridge")
        until(ns, lambda m: m.get("ifname") == "event")


def test_the_callers_namespace_never_changes(netns, transport):
    before = os.readlink("/proc/thread-self/ns/net")
    for _ in range(20):
        with NetNS(netns, transport=transport) as ns:
            ns.link("dump")
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_an_error_at_the_end_of_a_dump_is_raised(netns, transport):
    with IPRoute(netns=netns, transport=transport) as ipr:
        for ask in (lambda: ipr.get_rules(family=99), lambda: ipr.table("rule", family=99)):
            with pytest.raises(NetlinkError) as caught:
                ask()
            assert caught.value.errno == errno.EAFNOSUPPORT


def test_a_handle_without_a_name_lives_as_long_as_what_came_of_it(netns, transport, monkeypatch):
    """What a request, a monitor or a method of it still needs it keeps; then it is closed at once, with its warning."""

    def handle():
        return IPRoute(netns=netns, transport=transport)

    with pytest.warns(ResourceWarning, match=f"unclosed <IPRoute '{netns}'>"):
        assert handle().sendto(b"\x10\0\0\0" + bytes(12), (0, 0)) == 16
        monkeypatch.setattr(config, "nlm_generator", True)
        for dump in (lambda ipr: ipr.link("dump"), lambda ipr: ipr.get_links(), lambda ipr: ipr.get_links(mtu=65536)):
            assert [link.get("ifname") for link in dump(handle())] == ["lo"]
        with handle().monitor(initial=True) as monitor:
            assert next(iter(monitor))
        with handle().batch() as batch:
            batch.link("set", index=1, state="up")
        del monitor, batch
        engines = [item for item in gc.get_objects() if type(item) is Engine and item.options["netns"] == netns]
        assert all(engine.closed for engine in engines)
