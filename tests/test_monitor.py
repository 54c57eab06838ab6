"""Events on real namespaces: in order, never lost in silence, and with resync always ending in the kernel's state."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from handwritten import WAIT, settle
from pyroute2.netlink.rtnl import RTMGRP_IPV4_ROUTE, RTMGRP_LINK

from fastns import NetNS, Proxy, ProxyError
from fastns.monitor import Lost, ResyncBegin, ResyncEnd, group_numbers

pytestmark = pytest.mark.root
FIRST = 0x0B000000
ROUNDS = int(os.environ.get("FASTNS_STORMS", "25"))


@pytest.fixture(params=["auto", "direct", "relay"])
def transport(request):
    return request.param


@pytest.fixture
def ns(netns, transport):
    with NetNS(netns, flags=0, transport=transport) as handle:
        handle.link("set", index=1, state="up")
        yield handle


def address(number):
    return socket.inet_ntoa(struct.pack(">I", FIRST + number))


def add_routes(ns, numbers, command="add"):
    with ns.batch(errors="collect") as batch:
        for n in numbers:
            batch.route(command, dst=f"{address(n)}/32", oif=1)


def everything(monitor, *, due=True):
    """All items of what has happened until now, and, unless `due` is false, of the re-dump that is due for it."""
    client = getattr(monitor._transport, "client", None)
    items = []
    while True:
        if client is not None:
            settle(client)
        before = len(items)
        try:
            while True:
                items.append(monitor.get(0 if monitor._due is None or not due else WAIT))
        except TimeoutError:
            if len(items) == before:
                return items


def until_it_ends(thread, monitor, rng, chance, pause):
    """Start the thread; what arrives while it runs, read with a pause now and then."""
    thread.start()
    while thread.is_alive():
        try:
            yield monitor.get(0.01)
        except TimeoutError:
            pass
        if rng.random() < chance:
            time.sleep(pause)
    thread.join()


def names(items):
    return [(item["event"], item.get("ifname")) for item in items if item.get("ifname") != "lo"]


# ---- the stream ----------------------------------------------------------------------------------------------


def test_events_in_order(ns):
    with ns.monitor() as monitor:
        with pytest.raises(TimeoutError):
            monitor.get(0)
        for n in range(5):
            ns.link("add", ifname=f"v{n}", kind="bridge")
        for n in range(5):
            ns.link("del", ifname=f"v{n}")
        seen = names(item for item in everything(monitor) if item["event"].endswith("LINK"))
        made = [name for event, name in seen if event == "RTM_NEWLINK"]
        assert list(dict.fromkeys(made)) == [f"v{n}" for n in range(5)]
        gone = [name for event, name in seen if event == "RTM_DELLINK"]
        assert list(dict.fromkeys(gone)) == [f"v{n}" for n in range(5)]


def test_groups(ns):
    with ns.monitor(groups=RTMGRP_IPV4_ROUTE) as routes, ns.monitor(groups=[1]) as links:
        ns.link("add", ifname="v0", kind="bridge")
        add_routes(ns, range(3))
        assert {item["event"] for item in everything(routes)} == {"RTM_NEWROUTE"}
        assert {item["event"] for item in everything(links)} == {"RTM_NEWLINK"}
    assert routes.kinds == (("route", 2),)


def test_groups_beyond_the_mask(ns):
    ns.link("set", index=1, state="up")
    with ns.monitor(groups=[32, 33]) as monitor:
        assert monitor.kinds == (("nexthop", 0),)


@pytest.mark.parametrize("groups", [-1, 1 << 32, [0], [-1], ["link"], [1 << 16]])
def test_wrong_groups(groups):
    with pytest.raises(ValueError):
        group_numbers(groups)


def test_wrong_options(ns):
    with pytest.raises(ValueError):
        ns.monitor(resync=-1)
    with pytest.raises(ValueError, match="all_ns"):
        ns.monitor(resync=True, all_ns=True)


def events_that_fit() -> int:
    """More than the usual buffer holds, where a larger one may be forced (socket(7), SO_RCVBUFFORCE)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)
        except PermissionError:
            return 150
    return 30000


@pytest.mark.parametrize("transport", ["auto", "relay"], indirect=True)
def test_a_sleeping_consumer_loses_nothing(ns):
    count = events_that_fit()
    with ns.monitor(groups=RTMGRP_IPV4_ROUTE) as monitor:
        add_routes(ns, range(count))
        time.sleep(0.3)
        items = everything(monitor)
        assert [item.get("dst") for item in items] == [address(n) for n in range(count)]


def test_the_handle_stays_usable(ns):
    with ns.monitor() as monitor:
        add_routes(ns, range(100))
        assert len(ns.get_links()) == 1
        with ns.monitor() as second:
            add_routes(ns, range(100), "del")
            assert len(everything(second)) == 100
        assert len(everything(monitor)) == 200


# ---- loss ----------------------------------------------------------------------------------------------------


def test_loss_is_an_item_at_its_place(ns, transport):
    with ns.monitor(groups=RTMGRP_IPV4_ROUTE, rcvbuf=20000, ring_size=65536) as monitor:
        before = time.time()
        add_routes(ns, range(4000))
        items = everything(monitor)
        add_routes(ns, range(5000, 5010))
        items += everything(monitor)
    lost = [n for n, item in enumerate(items) if isinstance(item, Lost)]
    assert lost
    numbers = [
        None if isinstance(i, Lost) else struct.unpack(">I", socket.inet_aton(i.get("dst")))[0] for i in items
    ]
    first = [n - FIRST for n in numbers[: lost[0]]]
    assert first == list(range(len(first)))
    assert [n - FIRST for n in numbers[-10:]] == list(range(5000, 5010))
    for a, b in zip(numbers, numbers[1:]):
        assert a is None or b is None or b == a + 1 or b == FIRST + 5000
    total = sum(item.count or 0 for item in items if isinstance(item, Lost))
    assert total + len(items) - len(lost) == 4010
    assert before <= items[lost[0]].at <= time.time()


def number_of(msg):
    return struct.unpack(">I", socket.inet_aton(msg.get("dst")))[0] - FIRST


@pytest.mark.parametrize("rcvbuf", [5000, 60000])
def test_every_gap_in_a_storm_has_its_loss(ns, netns, rng, rcvbuf):
    """The reader keeps up now and then: what follows a gap is queued before anybody has seen the queue empty."""
    chunks, count = (20, 100, 400), 5000

    def storm():
        with NetNS(netns, flags=0, transport="direct") as writer:
            for part, chunk in enumerate(chunks):
                with writer.batch(chunk=chunk) as batch:
                    for n in range(part * count, (part + 1) * count):
                        batch.route("add", dst=f"{address(n)}/32", oif=1)

    with ns.monitor(groups=RTMGRP_IPV4_ROUTE, rcvbuf=rcvbuf, ring_size=65536) as monitor:
        items = list(until_it_ends(threading.Thread(target=storm), monitor, rng, 0.002, 0.003))
        items += everything(monitor)
    last, lost, seen = -1, False, 0
    for item in items:
        if isinstance(item, Lost):
            lost = True
            seen += item.count or 0
        else:
            assert number_of(item) == last + 1 or (lost and number_of(item) > last)
            last, lost = number_of(item), False
            seen += 1
    assert lost or last == len(chunks) * count - 1
    assert seen == len(chunks) * count


def test_a_poll_tells_of_a_loss_that_nothing_follows(netns, transport):
    """One event for each time the handle is readable: the loss comes behind the events that were queued before it."""
    with NetNS(netns, flags=0, transport=transport, rcvbuf=5000) as ns, NetNS(netns, flags=0) as writer:
        writer.link("set", index=1, state="up")
        ns.bind(RTMGRP_IPV4_ROUTE)
        proxy = getattr(ns.asyncore.events, "client", None)
        if proxy is not None:
            os.kill(proxy.pid, signal.SIGSTOP)
        try:
            add_routes(writer, range(1000))
        finally:
            if proxy is not None:
                os.kill(proxy.pid, signal.SIGCONT)
        got = []
        while not got or got[-1] is not None:
            assert select.select([ns], [], [], 30)[0]
            try:
                got += [number_of(msg) for msg in ns.get()]
            except OSError as error:
                assert error.errno == errno.ENOBUFS
                got.append(None)
        assert got[:-1] == list(range(len(got) - 1))
        assert not select.select([ns], [], [], 0)[0]
        add_routes(writer, [2000])
        assert [number_of(msg) for msg in ns.get()] == [2000]


def key(msg):
    return (
        msg["family"],
        msg.get_attr("RTA_TABLE"),
        msg.get_attr("RTA_DST"),
        msg["dst_len"],
        msg.get_attr("RTA_PRIORITY"),
    )


class Replica:
    """A consumer: applies the stream, and nothing else."""

    def __init__(self):
        self.state = {}
        self.fresh = None
        self.lost = self.resyncs = 0

    def apply(self, item):
        if isinstance(item, Lost):
            self.lost += 1
        elif isinstance(item, ResyncBegin):
            self.fresh = {}
        elif isinstance(item, ResyncEnd):
            if item.complete:
                self.state = self.fresh
            self.fresh = None
            self.resyncs += 1
        else:
            if item["header"].get("resync"):
                assert self.fresh is not None
                state = self.fresh
            else:
                assert self.fresh is None
                state = self.state
            if item["event"] == "RTM_NEWROUTE":
                state[key(item)] = item.get_attr("RTA_OIF")
            elif item["event"] == "RTM_DELROUTE":
                state.pop(key(item), None)


def kernel_state(ns):
    return {key(msg): msg.get_attr("RTA_OIF") for msg in ns.get_routes(family=socket.AF_INET)}


@pytest.mark.timeout(300)
def test_applying_the_stream_ends_in_the_kernels_state(ns, rng):
    """Storms with forced loss, the consumer now fast, now slow: afterwards the replica is a fresh dump."""
    losses = 0
    for number in range(ROUNDS):
        replica = Replica()
        with ns.monitor(
            groups=RTMGRP_IPV4_ROUTE,
            resync=rng.choice([0.001, 0.02, 0.1]),
            initial=True,
            rcvbuf=rng.choice([5000, 20000, 60000]) if number else 5000,  # too small for the first storm
            ring_size=65536,
        ) as monitor:

            chunks = rng.choice([50, 400]) if number else 400

            def storm(seed, chunk=chunks):
                with ns.batch(errors="collect", chunk=chunk) as batch:
                    for _ in range(1500):
                        n = seed.randrange(400)
                        command = seed.choice(["add", "replace", "del"])
                        batch.route(command, dst=f"{address(n)}/32", oif=1, priority=n % 3)

            if number == 0:
                storm(type(rng)(rng.random()))  # while nobody reads
            thread = threading.Thread(target=storm, args=(type(rng)(rng.random()),))
            for item in until_it_ends(thread, monitor, rng, 0.01, 0.005):
                replica.apply(item)
            for item in everything(monitor):
                replica.apply(item)
            assert replica.state == kernel_state(ns)
            losses += replica.lost
            assert replica.resyncs >= 1
    # a proxy that has a processor of its own can keep up
    assert losses > 0 or ns.asyncore.options["transport"] == "auto"


def test_resyncs_are_rate_limited(ns):
    """However many losses, at most one re-dump an interval; and one follows the last loss."""
    replica = Replica()
    with ns.monitor(groups=RTMGRP_IPV4_ROUTE, resync=0.5, rcvbuf=5000, ring_size=65536) as monitor:
        start = time.monotonic()
        items = []
        for n in range(5):
            add_routes(ns, range(n * 1500, n * 1500 + 1500))
            items += everything(monitor, due=False)
        items += everything(monitor)
        took = time.monotonic() - start
    for item in items:
        replica.apply(item)
    assert replica.lost >= 2
    assert 1 <= replica.resyncs <= took / 0.5 + 1
    assert replica.state.keys() >= kernel_state(ns).keys() - {k for k in kernel_state(ns) if k[1] != 254}
    kinds = [type(item) for item in items if isinstance(item, (Lost, ResyncEnd))]
    assert kinds[-1] is ResyncEnd


def test_initial_state(ns):
    add_routes(ns, range(10))
    ns.link("add", ifname="br0", kind="bridge")
    ns.addr("add", index=1, address="10.0.0.1", prefixlen=8)
    with ns.monitor(initial=True) as monitor:
        items = everything(monitor)
    assert isinstance(items[0], ResyncBegin)
    end = next(n for n, item in enumerate(items) if isinstance(item, ResyncEnd))
    assert items[end].complete
    assert items[0].kinds == items[end].kinds
    assert {"link", "addr", "route", "rule", "neigh"} <= {kind for kind, _ in items[0].kinds}
    state = items[1:end]
    assert all(item["header"]["resync"] for item in state)
    assert "br0" in {item.get("ifname") for item in state if item["event"] == "RTM_NEWLINK"}
    assert "10.0.0.1" in {item.get("address") for item in state if item["event"] == "RTM_NEWADDR"}
    assert {address(n) for n in range(10)} <= {
        item.get("dst") for item in state if item["event"] == "RTM_NEWROUTE"
    }


def test_an_interrupted_resync_is_repeated(ns, monkeypatch):
    from fastns.engine.blocking import Engine
    from fastns.errors import NetlinkDumpInterrupted

    real, calls = Engine.collect, []

    def interrupted(engine, dump):
        calls.append(1)
        if len(calls) == 1:
            raise NetlinkDumpInterrupted()
        return real(engine, dump)

    monkeypatch.setattr(Engine, "collect", interrupted)
    with ns.monitor(groups=RTMGRP_IPV4_ROUTE, resync=0.01, initial=True) as monitor:
        ends = [item for item in everything(monitor) if isinstance(item, ResyncEnd)]
    assert [end.complete for end in ends] == [False, True]


# ---- other namespaces ----------------------------------------------------------------------------------------


def test_all_ns_labels(ns, nsname):
    from fastns import netns as netns_module

    other = nsname + "o"
    netns_module.create(other)
    try:
        subprocess.run(["ip", "-n", ns.status["netns"], "netns", "set", other, "77"], check=True)
        with ns.monitor(groups=RTMGRP_LINK, all_ns=True) as monitor, NetNS(other, flags=0) as there:
            there.link("add", ifname="far0", kind="bridge")
            ns.link("add", ifname="near0", kind="bridge")
            labels = {(item.get("ifname"), item["header"]["nsid"]) for item in everything(monitor)}
        assert ("far0", 77) in labels
        assert ("near0", None) in labels
        assert {nsid for name, nsid in labels if name == "far0"} == {77}
        assert {nsid for name, nsid in labels if name == "near0"} == {None}
    finally:
        netns_module.remove(other)


# ---- life ----------------------------------------------------------------------------------------------------


def test_close_ends_the_iteration(ns):
    monitor = ns.monitor(groups=RTMGRP_LINK)
    ns.link("add", ifname="v0", kind="bridge")
    assert next(monitor)["event"] == "RTM_NEWLINK"
    monitor.close()
    monitor.close()
    assert monitor.closed
    assert [item for item in monitor if item["event"] != "RTM_NEWLINK"] == []
    with pytest.raises(OSError) as caught:
        monitor.get(1)
    assert caught.value.errno == errno.EBADF


def test_close_wakes_a_waiting_thread(ns):
    monitor = ns.monitor(groups=RTMGRP_LINK)
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(monitor))
    thread.start()
    ns.link("add", ifname="v0", kind="bridge")
    while not seen:
        time.sleep(0.01)
    monitor.close()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert seen[0].get("ifname") == "v0"


def test_the_monitor_outlives_its_handle(netns, transport):
    handle = NetNS(netns, flags=0, transport=transport)
    with NetNS(netns, flags=0) as other, handle.monitor(groups=RTMGRP_LINK) as monitor:
        handle.close()
        other.link("add", ifname="v0", kind="bridge")
        assert monitor.get(WAIT)["event"] == "RTM_NEWLINK"


def test_asynchronous(ns):
    async def work():
        monitor = ns.monitor(groups=RTMGRP_LINK, resync=True, initial=True)
        seen = []

        async def consume():
            async for item in monitor:
                seen.append(item)  # noqa: PERF401

        task = asyncio.ensure_future(consume())
        while not any(isinstance(item, ResyncEnd) for item in seen):
            await asyncio.sleep(0.01)
        for n in range(3):
            ns.link("add", ifname=f"v{n}", kind="bridge")
        while not any(item.get("ifname") == "v2" for item in seen if isinstance(item, dict)):
            await asyncio.sleep(0.01)
        monitor.close()
        await asyncio.wait_for(task, WAIT)
        return seen

    seen = asyncio.run(asyncio.wait_for(work(), WAIT))
    assert isinstance(seen[0], ResyncBegin)


def test_asynchronous_cancelled(ns):
    async def work():
        with ns.monitor(groups=RTMGRP_LINK) as monitor:
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(monitor.__anext__(), 0.05)
            ns.link("add", ifname="v0", kind="bridge")
            assert (await asyncio.wait_for(monitor.__anext__(), WAIT)).get("ifname") == "v0"

    asyncio.run(work())


def test_in_select(ns):
    import select

    with ns.monitor(groups=RTMGRP_LINK) as monitor:
        assert select.select([monitor], [], [], 0)[0] == []
        ns.link("add", ifname="v0", kind="bridge")
        assert select.select([monitor], [], [], WAIT)[0] == [monitor]
        everything(monitor)
        assert select.select([monitor], [], [], 0)[0] == []


def test_the_death_of_the_proxy_is_an_error(netns):
    with (
        Proxy() as proxy,
        NetNS(netns, flags=0, proxy=proxy) as handle,
        handle.monitor(groups=RTMGRP_LINK) as monitor,
    ):
        threading.Timer(0.1, os.kill, (proxy.pid, signal.SIGKILL)).start()
        with pytest.raises(ProxyError):
            monitor.get(10)


def test_in_a_forked_child(ns):
    with ns.monitor(groups=RTMGRP_LINK) as monitor:
        pid = os.fork()
        if pid == 0:
            try:
                monitor.get(1)
            except OSError as error:
                os._exit(0 if error.errno == errno.EBADF else 2)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        ns.link("add", ifname="v0", kind="bridge")
        assert monitor.get(WAIT).get("ifname") == "v0"
