"""The RTNL API, call by call, answers on fastns as on pyroute2: the same calls in two fresh namespaces."""

from __future__ import annotations

import socket

import pyroute2
import pytest
from pyroute2 import config
from pyroute2.netlink import nlmsg_base

import fastns

pytestmark = pytest.mark.root

# What two namespaces do not have in common, or what changes by itself.
VOLATILE = {
    "sequence_number", "pid", "stats", "stats64", "cacheinfo", "target", "handle", "event", "direct_pkts",
    "IFLA_STATS", "IFLA_STATS64", "IFLA_AF_SPEC", "IFLA_ADDRESS", "IFLA_PERM_ADDRESS", "IFLA_CARRIER_CHANGES",
    "IFLA_CARRIER_UP_COUNT", "IFLA_CARRIER_DOWN_COUNT", "NDA_CACHEINFO", "RTA_CACHEINFO", "IFA_CACHEINFO",
    "TCA_STATS", "TCA_STATS2", "TCA_XSTATS",
    "IFLA_BR_HELLO_TIMER", "IFLA_BR_TCN_TIMER", "IFLA_BR_GC_TIMER", "IFLA_BR_TOPOLOGY_CHANGE_TIMER",
    "IFLA_BRPORT_MESSAGE_AGE_TIMER", "IFLA_BRPORT_FORWARD_DELAY_TIMER", "IFLA_BRPORT_HOLD_TIMER",
}  # fmt: skip
DUMP_FILTERED = 0x20  # set by the kernel where it filtered itself


def plain(value):
    if isinstance(value, dict):
        result = {}
        for key, item in value.items():
            if key in VOLATILE:
                continue
            if key == "header":
                flags = item.get("flags")
                result[key] = [item.get("type"), item.get("error"), flags and flags & ~DUMP_FILTERED]
            elif key == "attrs":
                result[key] = [(cell[0], plain(cell[1])) for cell in item if cell[0] not in VOLATILE]
            else:
                result[key] = plain(item)
        return (type(value).__name__, result) if isinstance(value, nlmsg_base) else result
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def answer(call):
    try:
        result = call()
        kind = type(result).__name__
        if hasattr(result, "__next__"):
            result = list(result)
        return kind, plain(result)
    except pyroute2.NetlinkError as error:
        return "NetlinkError", error.code
    except Exception as error:
        return type(error).__name__, getattr(error, "errno", None)


V0, V1, BR = 10, 2, 20  # the peer takes the first free number
MAC = "02:00:00:00:00:"

LINKS = [
    ("link", "add", {"kind": "veth", "ifname": "v0", "index": V0, "peer": {"ifname": "v1", "mtu": 1400}}),
    *[("link", "set", {"index": index, "address": f"{MAC}{index:02}"}) for index in (V0, V1)],
    *[("link", "set", {"index": index, "state": "up"}) for index in (1, V0, V1)],
    ("link", "property_add", {"index": V0, "altname": ["alt0", "a-name-longer-than-fifteen"]}),
    ("link", "get", {"altname": "alt0"}),
    ("link", "property_del", {"index": V0, "altname": "alt0"}),
    *[
        ("link_lookup", None, spec)
        for spec in (
            {"ifname": "v0"}, {"ifname": "nosuch"}, {"kind": "veth", "index": V0}, {"altname": "a-name-longer-than-fifteen"},
            {"address": f"{MAC}10"}, {"mtu": 1400}, {"match": lambda msg: msg["index"] == V0},
        )
    ],
    *[
        ("link", "dump", spec)
        for spec in (
            {}, {"kind": "veth"}, {"match": {"ifname": "v0"}}, {"match": lambda msg: msg["index"] == V0}, {"master": 5},
            {"ifname": "v0", "mtu": 1500}, {"ifname": "v0", "mtu": 7},
        )
    ],
    ("get_links", (V0,), {}),
    ("get_links", (1, V0), {}),
    ("get_links", (), {}),
    ("get_links", (), {"ifname": "v1"}),
    ("link", "get", {"ifname": "v0"}),
    ("stats", "get", {"index": V0}),
]  # fmt: skip

ADDRESSES = [
    *[
        ("addr", "add", {"index": V0, **spec})
        for spec in (
            {"address": "10.0.0.1", "prefixlen": 24, "label": "v0:1", "broadcast": "10.0.0.255"}, {"address": "10.0.0.2/24"},
            {"address": "2001:db8::1", "prefixlen": 64, "flags": 2}, {"local": "10.0.7.1", "address": "10.0.7.2", "prefixlen": 32},
            {"address": "10.0.8.1", "mask": 24}, {"address": "10.0.0.1", "prefixlen": 24}, {}, {"address": "bad"},
        )
    ],
    ("addr", "replace", {"index": V0, "address": "10.0.8.1", "prefixlen": 24}),
    ("addr", "add", {"index": [V0], "address": "10.66.0.1", "prefixlen": 24}),
    ("addr", "del", {"index": V0, "address": "1.1.1.1", "prefixlen": 24}),
    *[
        ("get_addr", (), spec)
        for spec in (
            {}, {"family": 2}, {"label": "v0:1"}, {"index": V0, "family": 10}, {"match": lambda msg: msg["index"] == 1},
            {"scope": 0}, {"address": "10.0.0.2"}, {"prefixlen": 24},
        )
    ],
]  # fmt: skip

ROUTES = [
    *[
        ("route", "add", spec)
        for spec in (
            {"dst": "10.1.0.0/24", "gateway": "10.0.0.9", "metrics": {"mtu": 1300, "hoplimit": 5}, "priority": 10, "proto": "static"},
            {"dst": "10.2.0.0", "dst_len": 24, "oif": V0, "table": 100, "scope": "link", "prefsrc": "10.0.0.2"},
            {"dst": "10.3.0.0/24", "multipath": [{"gateway": "10.0.0.5", "hops": 2}, {"gateway": "10.0.0.6"}]},
            {"dst": "2001:db8:5::/64", "gateway": "2001:db8::9"},
            {"dst": "default", "gateway": "10.0.0.1"},
            {"dst": "10.9.0.0/24", "type": "blackhole"},
            {"dst": "10.10.0.0/24", "type": "unreachable", "table": 200},
            {"dst": "10.11.0.0/24", "gateway": "10.0.0.3", "table": "main", "tos": 4},
            {"dst": "10.12.0.0/24", "via": {"family": 10, "addr": "fe80::1"}, "oif": V0},
            {"dst": "10.13.0.1", "oif": V0},
            {"dst": "10.14.0.0/24", "gateway": "203.0.113.1"}, {"dst": "10.0.0.0/33"}, {},
        )
    ],
    ("route", "replace", {"dst": "default", "gateway": "10.0.0.99"}),
    ("route", "change", {"dst": "10.1.0.0/24", "gateway": "10.0.0.10", "priority": 10}),
    ("route", "append", {"dst": "10.1.0.0/24", "gateway": "10.0.0.11", "priority": 10}),
    ("route", "del", {"dst": "10.77.0.0/24"}),
    ("route", "get", {"dst": "10.1.0.5"}),
    ("route", "get", {"dst": "2001:db8:5::1"}),
    ("route", "get", {}),
    *[
        ("get_routes", (), spec)
        for spec in (
            {}, {"family": 2}, {"family": 10}, {"table": 100}, {"oif": V0, "family": 2}, {"gateway": "10.0.0.10"}, {"type": 6},
            {"scope": 253, "family": 2}, {"proto": 4, "family": 2}, {"dst": "10.3.0.0", "dst_len": 24}, {"priority": 10},
            {"tos": 4}, {"dst": "10.1.0.0"}, {"family": 2, "dst": "10.1.0.5"},
            {"match": lambda msg: msg.get("priority") == 10}, {"match": {("metrics", "mtu"): 1300}},
        )
    ],
    ("route", "show", {"dst": "10.1.0.0/24"}),
    ("route", "dump", {"dst": "default"}),
    ("route", "dump", {"match": {"dst_len": 24, "table": 100}}),
    ("get_default_routes", (), {}),
    ("get_default_routes", (), {"family": 2, "table": 254}),
]  # fmt: skip

RULES = [
    *[
        ("rule", "add", spec)
        for spec in (
            {"src": "10.0.0.0/24", "table": 100, "priority": 100},
            {"dst": "10.5.0.0", "dst_len": 24, "fwmark": 5, "fwmask": 255, "table": 200, "priority": 101, "iifname": "v0"},
            {"goto": 200, "priority": 103}, {"table": 100, "family": 10, "priority": 104, "action": "unreachable"},
            {"table": 10, "priority": 105, "ip_proto": 6, "dport_range": {"start": 80, "end": 90}},
        )
    ],
    *[
        ("get_rules", (), spec)
        for spec in ({}, {"priority": 100}, {"family": 10}, {"match": lambda msg: msg.get("priority") == 101})
    ],
    ("rule", "dump", {"table": 200}),
    ("rule", "del", {"priority": 100, "src": "10.0.0.0/24", "table": 100}),
    ("rule", "del", {"priority": 999}),
    ("rule", "nope", {}),
]  # fmt: skip

NEIGHBOURS = [
    ("neigh", "add", {"dst": "10.0.0.77", "lladdr": f"{MAC}77", "ifindex": V0, "state": "permanent"}),
    ("neigh", "add", {"dst": "2001:db8::77", "lladdr": f"{MAC}77", "ifindex": V0, "state": 128}),
    ("neigh", "add", {}),
    *[
        ("get_neighbours", (), spec)
        for spec in (
            {"ifindex": V0, "dst": "10.0.0.77"}, {"lladdr": f"{MAC}77"}, {"match": lambda msg: msg["state"] == 128},
            {"family": 2, "ifindex": V0, "state": 128},
        )
    ],
    ("neigh", "get", {"dst": "10.0.0.77", "ifindex": V0}),
    ("neigh", "change", {"dst": "10.0.0.77", "lladdr": f"{MAC}78", "ifindex": V0, "state": "permanent"}),
    ("neigh", "dump", {"ifindex": V0, "state": 128}),
    ("neigh", "del", {"dst": "10.0.0.77", "ifindex": V0}),
]  # fmt: skip

BRIDGES = [
    ("link", "add", {"kind": "bridge", "ifname": "br0", "index": BR, "br_stp_state": 1, "br_forward_delay": 1000}),
    ("link", "set", {"index": BR, "address": f"{MAC}20"}),
    ("link", "set", {"index": V0, "master": BR}),
    ("brport", "show", {"index": V0}),
    ("brport", "set", {"index": V0, "cost": 77, "unicast_flood": 0}),
    ("link", "get", {"index": V0}),
    ("fdb", "add", {"ifindex": V0, "lladdr": f"{MAC}99"}),
    ("fdb", "dump", {"ifindex": V0}),
    ("fdb", "dump", {"lladdr": f"{MAC}99"}),
    ("fdb", "del", {"ifindex": V0, "lladdr": f"{MAC}99"}),
    ("get_vlans", (), {}),
    ("link", "dump", {"family": 7}),
    ("link", "dump", {"match": {("linkinfo", "data", "br_forward_delay"): 1000}}),
    ("link", "dump", {"kind": "bridge", "br_forward_delay": 1000}),
    ("link", "set", {"index": V0, "master": 0}),
]

TRAFFIC = [
    ("tc", ("add", "htb", V0, 0x10000), {"default": 0x200000}),
    ("tc", ("add-class", "htb", V0, 0x10001), {"parent": 0x10000, "rate": "256kbit", "burst": 1024 * 6}),
    (
        "tc", ("add-filter", "u32", V0),
        {
            "parent": 0x10000, "prio": 10, "protocol": socket.AF_INET, "target": 0x10001,
            "keys": ["0x0006/0x00ff+8", "0x0000/0xffc0+2"],
        },
    ),
    ("get_qdiscs", (), {"index": V0}),
    ("get_classes", (), {"index": V0}),
    ("get_filters", (), {"index": V0, "parent": 0x10000}),
    ("tc", ("del", "htb", V0, 0x10000), {}),
    ("tc", ("add", "nosuch", V0), {}),
    ("tc", ("dump",), {"index": V0}),
]  # fmt: skip

ERRORS = [
    *[
        ("link", command, spec)
        for command, spec in (
            ("get", {}), ("get", {"index": 9999}), ("del", {"ifname": "nosuch"}), ("add", {"ifname": "x" * 20, "kind": "ifb"}),
            ("add", {}), ("add", {"kind": "nosuch", "ifname": "q9"}), ("set", {"index": V0, "mtu": 99999999}), ("bala", {}),
            ("set", {"index": V0, "net_ns_fd": "fns-nosuch"}), ("set", {"ifname": "v0", "mtu": 1499}),
            ("set", {"index": V0, "unknown_key": 5}), ("set", {"index": str(V0), "mtu": 1400}),
        )
    ],
    ("link", "add", {"kind": "vxlan", "ifname": "vx0", "vxlan_id": 5, "vxlan_group": "239.1.1.1", "vxlan_link": V0}),
    ("link", "add", {"kind": "macvlan", "ifname": "mv0", "macvlan_mode": "bridge", "link": V0}),
    ("link", "add", {"kind": "tuntap", "ifname": "tap1", "mode": "fail"}),
]  # fmt: skip

FLUSHES = [
    ("flush_addr", (), {"index": V0, "family": 2}),
    ("flush_routes", (), {"table": 200}),
    ("flush_rules", (), {"priority": 101}),
]

CALLS = LINKS + ADDRESSES + ROUTES + RULES + NEIGHBOURS + BRIDGES + TRAFFIC + ERRORS + FLUSHES


def answers(cls, netns):
    found = []
    # no addresses and routes that come by themselves, some time later
    for setting, value in (("accept_dad", 0), ("addr_gen_mode", 1), ("router_solicitations", 0)):
        fastns.netns.sysctl(netns)[f"net.ipv6.conf.default.{setting}"] = value
    with cls(netns) as ns:
        for name, command, spec in CALLS:
            args = command if isinstance(command, tuple) else () if command is None else (command,)
            # as nobody else writes to what they were given
            found.append(answer(lambda name=name, args=args, spec=dict(spec): getattr(ns, name)(*args, **spec)))
            if (name, command) == ("link", "set") and spec.get("state") == "up" and spec["index"] == V1:
                ns.poll(ns.link, "dump", index=V0, operstate="UP")
                ns.poll(ns.link, "dump", index=V1, operstate="UP")
            if spec.get("address") == "2001:db8::1":  # its route follows later
                ns.poll(ns.route, "dump", family=10, table=255, match=lambda msg: msg.get("dst") == "2001:db8::1")
    return found


@pytest.mark.parametrize("generators", [False, True], ids=["tuples", "generators"])
def test_same_answers(netns_pair, generators, monkeypatch):
    monkeypatch.setattr(config, "nlm_generator", generators)
    theirs = answers(pyroute2.NetNS, netns_pair[0])
    ours = answers(fastns.NetNS, netns_pair[1])
    for call, mine, other in zip(CALLS, ours, theirs):
        if mine != other and isinstance(mine[1], list) and isinstance(other[1], list):
            both = [item for item in mine[1] if item in other[1]]
            only = [[item for item in side[1] if item not in both] for side in (mine, other)]
            assert only == [[], []], call
        assert mine == other, call
    kinds = {kind for kind, _ in theirs}
    assert kinds >= {"NetlinkError", "list", "generator" if generators else "tuple"}
    assert sum(kind == "NetlinkError" for kind, _ in theirs) < len(CALLS) // 4, "most calls do what they are for"
