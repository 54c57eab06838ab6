"""Storms of links and routes mixed, and several monitors of one namespace: each is told of its own losses."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from handwritten import WAIT, ended, settle
from pyroute2.netlink.rtnl import RTMGRP_IPV4_ROUTE, RTMGRP_LINK
from test_monitor import add_routes, address, everything, number_of, until_it_ends

from fastns import Lost, NetNS, Proxy, ProxyError

pytestmark = pytest.mark.root
BOTH = RTMGRP_LINK | RTMGRP_IPV4_ROUTE
COUNT = 3000
MTU = 1000  # of event 0: events are numbered by the address of their route, or by the MTU of their link


@pytest.fixture(params=["direct", "relay"])
def transport(request):
    return request.param


@pytest.fixture
def writer(netns):
    with NetNS(netns, flags=0, transport="direct") as ns:
        ns.link("set", index=1, state="up")
        yield ns


def mixed_storm(writer, index, rng):
    """Changes numbered from 0, a route or the MTU of a link each."""
    number = 0
    while number < COUNT:
        with writer.batch(chunk=rng.choice([20, 100, 400])) as batch:
            for _ in range(min(500, COUNT - number)):
                if rng.random() < 0.5:
                    batch.route("add", dst=f"{address(number)}/32", oif=1)
                else:
                    batch.link("set", index=index, mtu=MTU + number)
                number += 1


def number_of_either(msg, index):
    """The number of the change that made the event, None of another event."""
    if msg["event"] == "RTM_NEWROUTE":
        return number_of(msg)
    if msg["event"] == "RTM_NEWLINK" and msg["index"] == index and MTU <= msg.get("mtu") < MTU + COUNT:
        return msg.get("mtu") - MTU
    return None


def check(items, index):
    """Everything is in order and no gap is silent. Its place is what tests/relay/test_gap.py is about."""
    last, lost, missing = -1, False, False
    for item in items:
        if isinstance(item, Lost):
            lost, missing = True, False
            continue
        number = number_of_either(item, index)
        if number is None or number == last:  # a link's change can have two events
            continue
        assert number > last
        missing = missing or (number != last + 1 and not lost)
        last, lost = number, False
    assert not missing
    assert lost or last == COUNT - 1


@pytest.mark.parametrize("rcvbuf", [5000, 20000])
def test_mixed_sizes(netns, writer, transport, rng, rcvbuf):
    writer.link("add", ifname="b0", kind="bridge")
    index = writer.link_lookup(ifname="b0")[0]
    writer.link("set", index=index, mtu=MTU - 1)
    with NetNS(netns, flags=0, transport=transport) as ns:
        with ns.monitor(groups=BOTH, rcvbuf=rcvbuf, ring_size=65536) as monitor:
            storm = threading.Thread(target=mixed_storm, args=(writer, index, rng))
            items = list(until_it_ends(storm, monitor, type(rng)(rng.random()), 0.003, 0.003))
            items += everything(monitor)
    check(items, index)


def test_two_monitors_have_all_each(netns, writer, transport):
    with NetNS(netns, flags=0, transport=transport) as ns:
        with ns.monitor(groups=RTMGRP_IPV4_ROUTE) as first, ns.monitor(groups=RTMGRP_IPV4_ROUTE) as second:
            add_routes(writer, range(150))
            assert [number_of(item) for item in everything(first)] == list(range(150))
            assert [number_of(item) for item in everything(second)] == list(range(150))


def test_each_is_told_of_its_own_loss(netns, writer, transport):
    with NetNS(netns, flags=0, transport=transport) as ns:
        with (
            ns.monitor(groups=RTMGRP_IPV4_ROUTE, rcvbuf=4096, ring_size=65536) as small,
            ns.monitor(groups=RTMGRP_IPV4_ROUTE, rcvbuf=1 << 20) as large,
        ):
            proxy = getattr(small._transport, "client", None)
            if proxy is not None:
                os.kill(proxy.pid, signal.SIGSTOP)
            try:
                add_routes(writer, range(150))
            finally:
                if proxy is not None:
                    os.kill(proxy.pid, signal.SIGCONT)
            told, all_of_it = everything(small), everything(large)
            add_routes(writer, [200])
            told += everything(small)
            all_of_it += everything(large)
    assert [number_of(item) for item in all_of_it] == [*range(150), 200]
    (place,) = (n for n, item in enumerate(told) if isinstance(item, Lost))
    assert [number_of(item) for item in told[:place]] == list(range(place))
    assert told[place].count == 150 - place
    assert [number_of(item) for item in told[place + 1 :]] == [200]


def test_one_is_closed_in_a_storm(netns, writer, transport):
    with NetNS(netns, flags=0, transport=transport) as ns, ns.monitor(groups=RTMGRP_IPV4_ROUTE) as stays:
        leaves = ns.monitor(groups=RTMGRP_IPV4_ROUTE)
        seen, begun = [], threading.Event()

        def consume():
            for item in leaves:
                seen.append(number_of(item))
                begun.set()

        def storm():
            for start in range(0, 140, 10):
                add_routes(writer, range(start, start + 10))

        threads = [threading.Thread(target=consume), threading.Thread(target=storm)]
        for thread in threads:
            thread.start()
        assert begun.wait(WAIT)
        leaves.close()
        for thread in threads:
            thread.join()
        assert seen == list(range(len(seen)))
        assert [number_of(item) for item in everything(stays)] == list(range(140))


def test_one_dies_in_a_storm(netns, writer):
    """With its proxy: the one of another proxy goes on, and those of the same one both say so."""
    with Proxy() as mortal, Proxy() as other:
        with (
            NetNS(netns, flags=0, proxy=mortal) as dying,
            NetNS(netns, flags=0, proxy=other) as living,
            dying.monitor(groups=RTMGRP_IPV4_ROUTE) as first,
            dying.monitor(groups=RTMGRP_IPV4_ROUTE) as second,
            living.monitor(groups=RTMGRP_IPV4_ROUTE) as third,
        ):
            add_routes(writer, range(100))
            settle(mortal)
            os.kill(mortal.pid, signal.SIGKILL)
            assert ended(mortal.pid)
            add_routes(writer, range(100, 150))
            for monitor in (first, second):
                seen = []
                with pytest.raises(ProxyError, match="signal 9"):
                    for item in monitor:
                        seen.append(number_of(item))  # noqa: PERF401
                assert seen == list(range(100))
            assert [number_of(item) for item in everything(third)] == list(range(150))
