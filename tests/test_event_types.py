"""Events of every kind the kernel tells of have `msg["event"]`, whatever way they come: next hops and filter chains too."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from handwritten import WAIT
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl import RTMGRP_DEFAULTS

from fastns import AsyncNetNS, NetNS, ResyncBegin, ResyncEnd
from fastns.schema import chainmsg, constant, nhmsg

pytestmark = pytest.mark.root
NEXTHOP = constant(rtnl, "RTNLGRP_NEXTHOP")
MASK = RTMGRP_DEFAULTS | 1 << (NEXTHOP - 1)
GROUPS = [number for number in range(1, 33) if MASK >> (number - 1) & 1]
EXPECTED = {"RTM_NEWNEXTHOP", "RTM_DELNEXTHOP", "RTM_NEWQDISC", "RTM_NEWCHAIN", "RTM_NEWTFILTER"}
LAST = "RTM_DELNEXTHOP"
CHANGES = """
ip link set lo up
ip link add p0 type ifb
ip link set p0 up
tc qdisc add dev p0 clsact
tc filter add dev p0 ingress protocol ip u32 match u32 0 0 flowid 1:1
ip nexthop add id 5 dev lo
ip nexthop del id 5
"""


def change(name, lines=CHANGES):
    for line in lines.strip().splitlines():
        program, *words = line.split()
        subprocess.run([program, "-n", name, *words], check=True, capture_output=True)


@pytest.fixture(params=["auto", "direct", "relay"])
def way(request):
    return request.param


def test_of_a_monitor(netns, way):
    seen = {}
    with NetNS(netns, flags=0, transport=way) as ns, ns.monitor(groups=GROUPS) as monitor:
        change(netns)
        for msg in monitor:
            seen[msg["event"]] = msg
            if msg["event"] == LAST:
                break
    assert seen.keys() >= EXPECTED
    hop, chain = seen["RTM_NEWNEXTHOP"], seen["RTM_NEWCHAIN"]
    assert isinstance(hop, nhmsg)
    assert (hop.get("id"), hop.get("oif"), hop["family"]) == (5, 1, 2)
    assert isinstance(chain, chainmsg)
    assert chain.get("chain") == 0


def test_of_a_monitor_on_the_default_groups(netns, way):
    """The first filter of a link makes a chain, which pyroute2 has no event for."""
    seen = set()
    with NetNS(netns, flags=0, transport=way) as ns, ns.monitor() as monitor:
        change(netns)
        for msg in monitor:
            seen.add(msg["event"])
            if msg["event"] == "RTM_NEWTFILTER":
                break
    assert "RTM_NEWCHAIN" in seen


def test_of_bind_and_get(netns, way):
    seen = set()
    with NetNS(netns, flags=0, transport=way) as ns:
        ns.bind(MASK)
        change(netns)
        while LAST not in seen:
            seen |= {msg["event"] for msg in ns.get()}
    assert seen >= EXPECTED


def test_of_an_asynchronous_handle(netns, way):
    async def work():
        received, iterated = set(), set()
        async with AsyncNetNS(netns, flags=0, transport=way) as ns:
            await ns.bind(MASK)
            with ns.monitor(groups=GROUPS) as monitor:
                change(netns)
                while LAST not in received:
                    received |= {msg["event"] async for msg in ns.get()}
                async for msg in monitor:
                    iterated.add(msg["event"])
                    if msg["event"] == LAST:
                        break
        return received, iterated

    received, iterated = asyncio.run(asyncio.wait_for(work(), WAIT))
    assert received >= EXPECTED
    assert iterated >= EXPECTED


def test_of_a_resync_and_of_all_namespaces(netns, way):
    with NetNS(netns, flags=0, transport=way) as ns:
        change(netns, "ip link set lo up\nip nexthop add id 7 dev lo")
        with ns.monitor(groups=GROUPS, resync=True, initial=True) as monitor:
            items = [monitor.get(WAIT)]
            while not isinstance(items[-1], ResyncEnd):
                items.append(monitor.get(WAIT))
        assert isinstance(items[0], ResyncBegin)
        (hop,) = (msg for msg in items[1:-1] if msg["event"] == "RTM_NEWNEXTHOP")
        assert hop.get("id") == 7
        with ns.monitor(groups=GROUPS, all_ns=True) as monitor:
            change(netns, "ip nexthop del id 7")
            msg = next(msg for msg in monitor if msg["event"] == "RTM_DELNEXTHOP")
            assert (msg["header"]["nsid"], msg.get("id")) == (None, 7)


def test_of_a_poll_and_of_a_dump(netns, way):
    with NetNS(netns, flags=0, transport=way) as ns:
        change(netns, CHANGES.replace("ip nexthop del id 5", ""))
        assert {msg["event"] for msg in ns.poll(ns.link, "dump", ifname="p0")} == {"RTM_NEWLINK"}
        assert {msg["event"] for msg in ns.get_filters(index=ns.link_lookup(ifname="p0")[0], parent=0xFFFFFFF2)} == {
            "RTM_NEWTFILTER"
        }


def test_types_newer_than_pyroute2_have_the_kernel_s_names(netns):
    """Multicast addresses, of which the kernel tells since 6.14."""
    with NetNS(netns, flags=0) as ns:
        try:
            monitor = ns.monitor(groups=[37])  # RTNLGRP_IPV4_MCADDR
        except OSError:
            pytest.skip("kernel: no RTNLGRP_IPV4_MCADDR")
        with monitor:
            change(netns, "ip link set lo up")
            assert monitor.get(WAIT)["event"] == "RTM_NEWMULTICAST"
