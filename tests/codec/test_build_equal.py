"""Requests built natively are pyroute2's, byte for byte; what is not plain is left to pyroute2."""

from __future__ import annotations

import copy
import ipaddress
import random
import socket
from typing import Any

import pyroute2.netlink
import pytest
from capture import PID, SEQ, request
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyroute2.netlink.rtnl import ndmsg, rt_proto, rt_scope, rt_type

from fastns import _codec

U8, U16, U32 = st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([-1, 0, 255, 256, 2**31, 2**32 - 1, 2**32, 1.0, "", "0", "x", "10", "1.5", b"lo", (), [], {}, [3]]),
    st.text(max_size=20),
    st.binary(max_size=8),
)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.one_of(
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda x: x.exploded.upper()),
    st.sampled_from(["::1", "fe80::1", "::ffff:1.2.3.4", "::1.2.3.4", "1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8"]),
    st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=7, unique=True).map(lambda x: ":".join(f"{i:x}" for i in x) + "::"),
)
BAD_ADDRESS = st.one_of(
    st.sampled_from(
        "10.0.0 10.0.0.0.0 010.0.0.1 256.0.0.1 1::2::3 12345:: ::g fe80::1%lo 1:2:3:4:5:6:7:8:: ::1:2:3:4:5:6:7:8 "
        "default 0 0.0.0.0/0 ::/0 :: 16/24 10.0.0.1/ /24 10.0.0.0/24/8 10.0.0.0/+8 10.0.0.0/300 10.0.0.0/1_6 null "
        "10.0.0.0/255.255.0.0 10.0.0.0/255.0.255.0 fd00::/ffff:: ٣.0.0.1 10.0.0.0/٣ true 10.0.0.1\0".split(" ")
    ),
    st.sampled_from(["1.2.3.4 ", "10.0.0.0/ 24", " ::1"]),
    st.text(alphabet="0123456789abcdef:./", max_size=24),
)
ADDRESS = st.one_of(V4, V4, V6, BAD_ADDRESS)
PREFIX = st.one_of(
    ADDRESS,
    st.tuples(V4, st.integers(0, 33)).map(lambda x: f"{x[0]}/{x[1]}"),
    st.tuples(V6, st.integers(0, 129)).map(lambda x: f"{x[0]}/{x[1]}"),
    st.tuples(V4, V4).map("/".join),
)
FAMILY = st.sampled_from([socket.AF_INET, socket.AF_INET6, 0, 2, 10, 7, 28, 255, 256, -1, None])
INDEX = st.one_of(st.integers(0, 2**31 - 1), st.integers(1, 9).map(lambda x: [x]), st.integers(1, 9).map(lambda x: (x,)))
MAC = st.one_of(
    st.binary(min_size=6, max_size=6).map(lambda x: ":".join(f"{i:02x}" for i in x)),
    st.binary(min_size=6, max_size=6).map(lambda x: ":".join(f"{i:02X}" for i in x)),
    st.sampled_from(["0011.2233.4455", "00:11:22:33:44", "0:1:2:3:4:5", "00:11:22:33:44:5g", "::1", "10.0.0.1", ""]),
    st.text(alphabet="0123456789abcdefx: ", min_size=17, max_size=17),
)
NAME = st.one_of(
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=15),
    st.sampled_from(["lo", "é", "a" * 15, "a\0b", "", "\ud800", "a" * 2000]),
)
LIFETIME = st.one_of(U32, st.sampled_from([0, 100, 200, 2**32 - 1, "forever"]))
ROUTE = {
    "dst": PREFIX,
    "src": PREFIX,
    "gateway": st.one_of(ADDRESS, PREFIX, st.just({"family": 2, "addr": "10.0.0.1"})),
    "prefsrc": ADDRESS,
    "dst_len": st.integers(0, 130),
    "src_len": st.integers(0, 130),
    "oif": INDEX,
    "iif": INDEX,
    "family": FAMILY,
    "table": st.one_of(st.integers(0, 300), U32, st.just("main")),
    "priority": U32,
    "proto": st.one_of(U8, st.sampled_from([x for x in rt_proto if isinstance(x, str)] + ["", "nope"])),
    "type": st.one_of(U8, st.sampled_from([x for x in rt_type if isinstance(x, str)] + ["", "nope"])),
    "scope": st.one_of(U8, st.sampled_from([x for x in rt_scope if isinstance(x, str)] + ["", "nope"])),
    "tos": U8,
    "flags": st.one_of(U32, st.sampled_from(["onlink", ["onlink", "pervasive"], ("dead",), ["nope"], ""])),
    "mark": U32,
    "pref": U8,
    "flow": U32,
    "protoinfo": U32,
    "realms": U32,
    "metrics": st.one_of(
        st.dictionaries(
            st.sampled_from(["mtu", "advmss", "hoplimit", "lock", "cc_algo", "unspec", "RTAX_MTU", "nope", "attrs"]),
            st.one_of(U32, st.none(), st.just("cubic"), ODD),
            max_size=3,
        ),
        st.just({"attrs": [["RTAX_MTU", 1400]]}),
    ),
    "multipath": st.lists(
        st.dictionaries(
            st.sampled_from(["gateway", "oif", "hops", "flags", "priority", "via", "encap", "weight", "prefsrc", "attrs"]),
            st.one_of(ADDRESS, st.integers(0, 300), st.none(), ODD),
            max_size=3,
        ),
        max_size=3,
    ),
    "encap_type": st.sampled_from(["mpls", 1]),
    "RTA_PRIORITY": U32,
    "unknown": U8,
}
ADDR = {
    "index": INDEX,
    "address": PREFIX,
    "local": ADDRESS,
    "broadcast": st.one_of(ADDRESS, st.booleans()),
    "anycast": ADDRESS,
    "prefixlen": st.one_of(st.integers(0, 130), st.sampled_from(["24", "255.255.255.0", "x", " 24", "-1", "1e1", "0024"])),
    "mask": st.integers(0, 32),
    "label": NAME,
    "scope": st.one_of(U8, st.just("link")),
    "family": FAMILY,
    "flags": U32,
    "rt_priority": U32,
    "proto": st.one_of(U8, st.just("kernel_lo")),
    "preferred": LIFETIME,
    "valid": LIFETIME,
    "preferred_lft": LIFETIME,
    "valid_lft": LIFETIME,
    "cacheinfo": st.just({}),
}
STATE = st.one_of(U16, st.sampled_from([*ndmsg.states, "permanent,noarp", "NUD_REACHABLE", "nope", ""]))
NEIGH = {
    "dst": ADDRESS,
    "lladdr": MAC,
    "ifindex": INDEX,
    "index": INDEX,
    "family": FAMILY,
    "state": STATE,
    "nud": STATE,
    "flags": U8,
    "ndm_type": U8,
    "vlan": st.integers(0, 4095),
    "port": U16,
    "vni": U32,
    "src_vni": U32,
    "master": U32,
    "probes": U32,
    "link_netnsid": U32,
    "nh_id": U32,
    "cacheinfo": st.just({}),
}
RULE = {
    "src": PREFIX,
    "dst": PREFIX,
    "src_len": st.integers(0, 130),
    "dst_len": st.integers(0, 130),
    "table": st.one_of(st.integers(0, 300), U32),
    "priority": U32,
    "fwmark": U32,
    "fwmask": U32,
    "iifname": NAME,
    "oifname": NAME,
    "family": FAMILY,
    "action": st.one_of(
        U8, st.sampled_from(["FR_ACT_UNREACHABLE", "blackhole", "to_tbl", "goto", "Prohibit", "nope", "TO_TBL"])
    ),
    "goto": U32,
    "tos": U8,
    "flags": U32,
    "tun_id": st.integers(0, 2**64 - 1),
    "ip_proto": U8,
    "protocol": U8,
    "l3mdev": U8,
    "suppress_prefixlen": U32,
    "uid_range": st.sampled_from(["1:2", "x"]),
    "dport_range": st.just("80:90"),
    "FRA_TABLE": U32,
}
PEER = st.one_of(
    NAME,
    st.fixed_dictionaries(
        {},
        optional={
            "ifname": NAME,
            "net_ns_fd": U32,
            "net_ns_pid": U32,
            "mtu": U32,
            "address": MAC,
            "index": U8,
            "IFLA_IFNAME": NAME,
            "unknown": U8,
        },
    ),
)
KINDS = ["dummy", "bridge", "ifb", "veth", "vxlan", "vlan", "macvlan", "ipvlan", "gre", "bond", "vrf", "tuntap", "tun"]
LINK = {
    "index": INDEX,
    "ifname": NAME,
    "mtu": U32,
    "state": st.sampled_from(["up", "down", "UP", None, 1]),
    "address": MAC,
    "broadcast": MAC,
    "master": st.one_of(U32, st.just({"index": 4})),
    "link": st.one_of(U32, st.just({"index": 4})),
    "net_ns_fd": U32,
    "net_ns_pid": U32,
    "txqlen": U32,
    "group": st.one_of(U32, st.just("default")),
    "flags": st.one_of(U32, st.just(["IFF_UP"])),
    "change": U32,
    "mask": U32,
    "arp": st.booleans(),
    "noarp": st.booleans(),
    "family": FAMILY,
    "ifi_type": U16,
    "ifalias": NAME,
    "altname": NAME,
    "ext_mask": U32,
    "num_tx_queues": U32,
    "tso_max_size": U32,
    "link_netnsid": st.integers(-(2**31), 2**31 - 1),
    "carrier": U8,
    "operstate": st.just("UP"),
    "kind": st.one_of(st.sampled_from(KINDS), st.sampled_from(["bridge_slave", "", "macvtap", "sit", "geneve", 3])),
    "peer": PEER,
    "mode": st.one_of(U16, st.just("bridge")),
    "vxlan_id": U32,
    "vxlan_link": st.one_of(U32, st.just({"index": 4})),
    "vxlan_local": ADDRESS,
    "vxlan_group": ADDRESS,
    "vxlan_group6": ADDRESS,
    "vxlan_port": U16,
    "vxlan_learning": U8,
    "vxlan_ttl": U8,
    "vxlan_gbp": st.booleans(),
    "vxlan_port_range": st.just({"low": 1, "high": 2}),
    "vlan_id": U16,
    "vlan_protocol": U16,
    "vlan_flags": st.sampled_from([1, "gvrp", (1, 1)]),
    "macvlan_mode": st.one_of(U32, st.sampled_from(["bridge", "vepa", "nope"])),
    "br_stp_state": U32,
    "br_vlan_filtering": U8,
    "br_group_addr": MAC,
    "gre_local": ADDRESS,
    "gre_remote": ADDRESS,
    "gre_ikey": U32,
    "ipvlan_mode": U16,
    "bond_mode": U8,
    "vrf_table": U32,
    "IFLA_MTU": U32,
}
TABLES = {"route": ROUTE, "addr": ADDR, "neigh": NEIGH, "fdb": NEIGH, "rule": RULE, "link": LINK}
COMMANDS = {
    "route": "add set replace change append del remove delete get show dump".split(),
    "addr": "add del remove delete replace dump get set".split(),
    "neigh": "add set replace change append del remove delete get dump".split(),
    "fdb": "add set replace change append del remove delete get dump".split(),
    "rule": "add del remove delete dump set".split(),
    "link": "add set update del remove delete get dump property_add".split(),
}


@st.composite
def calls(draw: st.DrawFn, kind: str) -> tuple[str, dict[str, Any]]:
    """A call with a handful of arguments in any order, each mostly of its own sort."""
    table = TABLES[kind]
    names = draw(st.lists(st.sampled_from(sorted(table)), unique=True, max_size=6))
    return (
        draw(st.sampled_from(COMMANDS[kind])),
        # for a name instead of a descriptor pyroute2 opens what is called so
        {n: draw(st.one_of(table[n], table[n], table[n], ODD) if n != "net_ns_fd" else table[n]) for n in names},
    )


def check(kind: str, command: Any, kwarg: dict[str, Any], echo: bool = False, strict: bool = False) -> bool:
    """The property; the answer is whether the request was built natively."""
    before = copy.deepcopy(kwarg)
    built = _codec.build(kind, command, kwarg, echo, SEQ, PID, strict)
    assert kwarg == before
    assert list(kwarg) == list(before)
    if command in ("dump", "show"):
        # the other arguments choose among the answers
        kwarg = {k: v for k, v in kwarg.items() if k in ("family", "ext_mask")}
    try:
        expected = request(kind, command, copy.deepcopy(kwarg), echo, strict)
    except Exception:
        expected = None
    if built is not None:
        assert expected is not None
        assert built.hex() == expected.hex()
    return built is not None


@pytest.mark.parametrize("kind", TABLES)
def test_build_equal(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # pyroute2 logs the stack of whatever it cannot encode
    monkeypatch.setattr(pyroute2.netlink.log, "disabled", True)

    @settings(max_examples=10 * settings().max_examples)
    @given(calls(kind), st.booleans(), st.booleans())
    def run(call: tuple[str, dict[str, Any]], echo: bool, strict: bool) -> None:
        check(kind, *call, echo, strict)

    run()


@settings(max_examples=20 * settings().max_examples)
@given(st.text(alphabet="0123456789abcdefABCDEF:.", min_size=2, max_size=24))
@example("1:2:3:4:5:6:7::")
@example("1:2:3:4:5:6:7:8::")
@example("::1.2.3.4")
def test_build_addresses_are_those_of_ipaddress(text: str) -> None:
    """pyroute2 has IPv6 destinations normalised by `ipaddress` first, which must accept no more and no less."""
    built = _codec.build("route", "add", {"dst": text})
    if ":" in text:
        try:
            packed = ipaddress.IPv6Address(text).packed
        except ValueError:
            assert built is None
        else:
            assert built is not None
            assert packed in built or text == "::"


COMMON = [
    ("route", "add", {"dst": "10.0.0.0/24", "gateway": "10.1.1.1"}),
    ("route", "add", {"dst": "10.0.0.0", "dst_len": 24, "oif": 3, "table": 100, "priority": 5, "scope": "link"}),
    ("route", "add", {"dst": "default", "gateway": "10.1.1.1", "oif": [3], "flags": ["onlink"]}),
    ("route", "replace", {"dst": "fd00::/64", "gateway": "fe80::1", "oif": 3, "proto": "zebra", "metrics": None}),
    ("route", "add", {"dst": "0.0.0.0/0", "gateway": "10.1.1.1", "family": socket.AF_INET}),
    ("route", "add", {"dst": "10.9.9.9", "type": "blackhole"}),
    ("route", "change", {"dst": "10.0.0.0/24", "gateway": "10.1.1.1", "prefsrc": "10.1.1.2"}),
    ("route", "append", {"dst": "fd00::1", "gateway": "fe80::1", "oif": 3, "priority": 0}),
    ("route", "add", {"dst": "10.0.0.0/24", "gateway": "10.1.1.1", "metrics": {"mtu": 1400, "hoplimit": None}}),
    (
        "route",
        "add",
        {
            "family": 2,
            "dst": "10.0.0.0/24",
            "multipath": [{"gateway": "10.1.1.1", "hops": 1}, {"gateway": "10.1.1.2", "oif": 3}, {"oif": 4}],
        },
    ),
    ("route", "del", {"dst": "10.0.0.0/24", "table": 254}),
    ("route", "get", {"dst": "8.8.8.8"}),
    ("route", "dump", {"family": socket.AF_INET, "table": 254}),
    ("addr", "add", {"index": 3, "address": "10.0.0.1", "prefixlen": 24, "broadcast": "10.0.0.255"}),
    ("addr", "add", {"index": 3, "address": "10.0.0.1/24", "label": "eth0:1", "scope": 253}),
    ("addr", "add", {"index": 3, "address": "10.0.0.1", "local": "10.0.0.2", "prefixlen": 32}),
    ("addr", "add", {"index": 3, "address": "fd00::1", "prefixlen": 64, "flags": 2, "family": 10}),
    ("addr", "replace", {"index": 3, "address": "fd00::1/64", "preferred_lft": 60, "valid_lft": 120}),
    ("addr", "del", {"index": 3, "address": "10.0.0.1", "prefixlen": 24}),
    ("addr", "dump", {"family": 2, "index": 3}),
    ("neigh", "add", {"dst": "10.0.0.1", "lladdr": "00:11:22:33:44:55", "ifindex": 3, "state": 128}),
    ("neigh", "replace", {"dst": "fe80::1", "lladdr": "00:11:22:33:44:55", "ifindex": 3, "nud": "permanent"}),
    ("neigh", "del", {"dst": "10.0.0.1", "ifindex": 3}),
    ("neigh", "get", {"dst": "10.0.0.1", "ifindex": 3}),
    ("neigh", "dump", {"family": 2}),
    ("fdb", "add", {"ifindex": 3, "lladdr": "00:11:22:33:44:55", "dst": "10.0.0.1", "vlan": 200}),
    ("fdb", "append", {"ifindex": 3, "lladdr": "00:00:00:00:00:00", "dst": "fd00::1"}),
    ("fdb", "del", {"ifindex": 3, "lladdr": "00:11:22:33:44:55"}),
    ("fdb", "dump", {}),
    ("rule", "add", {"table": 10, "priority": 32000}),
    ("rule", "add", {"src": "10.0.0.0/8", "dst": "10.1.0.1", "table": 1000, "fwmark": 10, "iifname": "lo"}),
    ("rule", "add", {"src": "fd00::", "src_len": 8, "table": 10, "family": 10, "action": "FR_ACT_UNREACHABLE"}),
    ("rule", "del", {"priority": 32000, "table": 10}),
    ("rule", "dump", {"family": 2}),
    ("link", "add", {"ifname": "d0", "kind": "dummy"}),
    ("link", "add", {"ifname": "b0", "kind": "bridge", "br_stp_state": 0, "state": "up"}),
    ("link", "add", {"ifname": "v0", "kind": "veth", "peer": "v1"}),
    ("link", "add", {"ifname": "v0", "kind": "veth", "peer": {"ifname": "v1", "net_ns_fd": 9}, "mtu": 1400}),
    ("link", "add", {"ifname": "x", "kind": "vxlan", "vxlan_id": 5, "vxlan_group": "239.1.1.1", "vxlan_port": 4789}),
    ("link", "add", {"ifname": "x", "kind": "vlan", "link": 3, "vlan_id": 30}),
    ("link", "add", {"ifname": "x", "kind": "macvlan", "link": 3, "macvlan_mode": "bridge"}),
    ("link", "set", {"index": 3, "state": "up"}),
    ("link", "set", {"index": 3, "master": 4, "address": "02:00:00:00:00:01", "ifname": "new", "mtu": 9000}),
    ("link", "set", {"index": 3, "net_ns_fd": 9}),
    ("link", "set", {"index": 3, "net_ns_pid": 9, "arp": False}),
    ("link", "get", {"index": 1}),
    ("link", "get", {"ifname": "lo", "ext_mask": 1}),
    ("link", "get", {"altname": "lo"}),
    ("link", "del", {"index": 3}),
    ("link", "dump", {"ext_mask": 9}),
]


@pytest.mark.parametrize(("kind", "command", "kwarg"), COMMON)
@pytest.mark.parametrize("echo", [False, True])
def test_build_common_forms_are_native(kind: str, command: str, kwarg: dict[str, Any], echo: bool) -> None:
    assert check(kind, command, kwarg, echo)


@pytest.mark.parametrize("kind", TABLES)
def test_build_argument_order_is_kept(kind: str, rng: random.Random) -> None:
    for _, command, kwarg in (x for x in COMMON if x[0] == kind):
        for _ in range(5):
            items = list(kwarg.items())
            rng.shuffle(items)
            # without a family by then, pyroute2 fails on multipath
            assert check(kind, command, dict(items)) or "multipath" in kwarg


@pytest.mark.parametrize("kind", TABLES)
def test_build_none_is_no_argument(kind: str) -> None:
    native = 0
    for _, command, kwarg in (x for x in COMMON if x[0] == kind):
        for name in TABLES[kind]:
            if name not in kwarg:
                native += check(kind, command, {**kwarg, name: None})
                native += check(kind, command, {name: None, **kwarg})
    assert native > 50


@pytest.mark.parametrize("kwarg", [{"mask": 24}, {"dump_filter": lambda x: True}, {"request_filter": {}}, {"match": {}}])
@pytest.mark.parametrize("command", ["add", "dump"])
def test_build_leaves_machinery_arguments_alone(kwarg: dict[str, Any], command: str) -> None:
    built = _codec.build("addr", command, {"index": 1, "address": "10.0.0.1", **kwarg})
    assert built is None or (command == "dump" and kwarg.keys() & {"mask", "match"})


def test_build_knows_no_other_kind_or_command() -> None:
    assert _codec.build("tc", "add", {}) is None
    for kind, kwarg in ((None, {}), ("route", None), ("route", [])):
        with pytest.raises(TypeError):
            _codec.build(kind, "add", kwarg)
    for command in ("nope", 24, ("a",), [], None, {}):
        assert _codec.build("route", command, {}) is None
