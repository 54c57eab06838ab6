"""Descriptors inside requests, header patching and the acknowledgement scan."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, devlink, nl80211, nlmsg, rtnl
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fastns import _codec, schema

GENERIC = 16


def encoded(msg: nlmsg, msg_type: int) -> bytes:
    msg["header"].update({"type": msg_type, "flags": NLM_F_REQUEST | NLM_F_ACK})
    msg.encode()
    return bytes(msg.data)


def at(data: bytes, offsets: list[int]) -> list[int]:
    return [struct.unpack_from("I", data, x)[0] for x in offsets]


def link(*attrs: tuple[str, Any], kind: str | None = None, data: Any = None) -> bytes:
    msg = ifinfmsg()
    msg["attrs"] = list(attrs)
    if kind is not None:
        msg["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", data)]}))
    return encoded(msg, rtnl.RTM_NEWLINK)


VETH = {"attrs": [("VETH_INFO_PEER", {"attrs": [("IFLA_IFNAME", "v1"), ("IFLA_NET_NS_FD", 777)]})]}


def test_find_fds_in_links() -> None:
    top = link(("IFLA_IFNAME", "x"), ("IFLA_NET_NS_FD", 555), ("IFLA_MTU", 1400))
    peer = link(("IFLA_NET_NS_FD", 555), kind="veth", data=VETH)
    assert at(top, _codec.find_fds(top)) == [555]
    assert at(peer, _codec.find_fds(peer)) == [555, 777]
    assert at(top + peer + top, _codec.find_fds(top + peer + top)) == [555, 555, 777, 555]
    for buffer in (bytearray(peer), memoryview(peer)):
        assert at(peer, _codec.find_fds(buffer)) == [555, 777]
    built = _codec.build("link", "add", {"kind": "veth", "peer": {"net_ns_fd": 9, "ifname": "x"}, "net_ns_fd": 8})
    assert at(built, _codec.find_fds(built)) == [8, 9]


@pytest.mark.parametrize(("kind", "found"), [("vxcan", [777]), ("netkit", [777]), ("dummy", []), ("vethx", []), ("vet", [])])
def test_find_fds_in_peers_of_other_kinds(kind: str, found: list[int]) -> None:
    peer = link(kind="veth", data=VETH)
    padded = kind.encode() + b"\0"
    old = struct.pack("HH", 9, 1) + b"veth\0\0\0\0"
    new = struct.pack("HH", 4 + len(padded), 1) + padded + bytes(-len(padded) % 4)
    assert old in peer
    data = bytearray(peer.replace(old, new))
    grown = len(data) - len(peer)
    linkinfo = data.index(new) - 4
    struct.pack_into("H", data, linkinfo, struct.unpack_from("H", data, linkinfo)[0] + grown)
    struct.pack_into("I", data, 0, len(data))
    assert at(data, _codec.find_fds(data)) == found


def test_find_fds_elsewhere() -> None:
    nsid = nsidmsg()
    nsid["attrs"] = [("NETNSA_NSID", 4), ("NETNSA_FD", 666)]
    for msg_type in (rtnl.RTM_NEWNSID, rtnl.RTM_GETNSID):
        data = encoded(nsid, msg_type)
        nsid.reset()
        assert at(data, _codec.find_fds(data)) == [666]
        assert _codec.find_fds(data, family=12) == []
    route = rtmsg()
    route["attrs"] = [("RTA_TABLE", 28), ("RTA_PRIORITY", 3)]
    assert _codec.find_fds(encoded(route, rtnl.RTM_NEWROUTE)) == []
    for name, cls, attr in (
        ("devlink", devlink.devlinkcmd, "DEVLINK_ATTR_NETNS_FD"),
        ("nl80211", nl80211.nl80211cmd, "NL80211_ATTR_NETNS_FD"),
    ):
        msg = cls()
        msg["cmd"] = 1
        msg["attrs"] = [(attr, 888)]
        data = encoded(msg, 30)
        assert at(data, _codec.find_fds(data, family=GENERIC, genl_name=name)) == [888]
        assert _codec.find_fds(data, family=GENERIC, genl_name="ethtool") == []
        assert _codec.find_fds(data, family=GENERIC) == []


@given(st.data())
def test_find_fds_stays_inside(data: st.DataObject) -> None:
    whole = bytearray(link(("IFLA_NET_NS_FD", 555), kind="veth", data=VETH))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from([0, 1, 3, 4, 8, 255]))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for family, name in ((0, None), (GENERIC, "devlink")):
        for offset in _codec.find_fds(cut, family, name):
            assert 20 <= offset <= len(cut) - 4


def test_split_and_patch() -> None:
    one = _codec.build("route", "add", {"dst": "10.0.0.0/24", "oif": 1}, False, 1, 2)
    two = _codec.build("link", "add", {"ifname": "ab", "kind": "ifb"}, False, 3, 4)
    data = bytearray(one + two)
    assert _codec.split(data) == [(0, len(one)), (len(one), len(two))]
    assert _codec.split(b"") == []
    assert _codec.patch_header(data, len(one), seq=9, flags=5) == len(two)
    assert struct.unpack_from("IHHII", data, len(one)) == (len(two), rtnl.RTM_NEWLINK, 5, 9, 4)
    _codec.patch_header(data, 0, pid=2**32 - 1)
    assert struct.unpack_from("II", data, 8) == (1, 2**32 - 1)
    assert data[16 : len(one)] == one[16:]
    for offset in (-1, 4, len(data) - 4, len(data), 2**40):
        before = bytes(data)
        with pytest.raises(ValueError):
            _codec.patch_header(data, offset, seq=1)
        assert data == before
    with pytest.raises(ValueError):
        _codec.split(data[:-1])
    with pytest.raises(OverflowError):
        _codec.patch_header(data, 0, seq=2**32)
    with pytest.raises(BufferError):
        _codec.patch_header(bytes(data), 0, seq=1)


def message(msg_type: int, seq: int, payload: bytes) -> bytes:
    return struct.pack("IHHII", 16 + len(payload), msg_type, 0, seq, 0) + payload + bytes(-len(payload) % 4)


def test_scan_acks() -> None:
    parts = [
        (message(NLMSG_ERROR, 1, struct.pack("i", 0) + bytes(16)), 0),
        (message(NLMSG_ERROR, 2, struct.pack("i", -17) + bytes(16) + b"text"), 17),
        (message(NLMSG_ERROR, 3, struct.pack("i", -(2**31)) + bytes(17)), 2**31),
        (message(rtnl.RTM_NEWROUTE, 4, bytes(12)), None),
        (message(NLMSG_DONE, 5, struct.pack("i", 3)), 0),
        (message(NLMSG_DONE, 6, struct.pack("i", -4)), 4),
        (message(NLMSG_DONE, 2**32 - 1, b""), 0),
    ]
    data = b"".join(x for x, _ in parts)
    acks = _codec.scan_acks(data)
    assert [x[:2] for x in acks] == [(struct.unpack_from("I", x, 8)[0], code) for x, code in parts]
    for (_, _, offset, length), (part, _) in zip(acks, parts):
        assert data[offset : offset + length] == part[:length]
        assert length == struct.unpack_from("I", part)[0]
    assert [x[0] for x in _codec.scan_acks(data[:-1])] == [1, 2, 3, 4, 5, 6]
    assert _codec.scan_acks(b"") == []


@given(st.binary(max_size=100))
def test_buffers_of_anything(data: bytes) -> None:
    for _, _, offset, length in _codec.scan_acks(data):
        assert 16 <= length <= len(data) - offset
    try:
        assert sum(length for _, length in _codec.split(data)) <= len(data)
    except ValueError:
        pass


def test_short_answer() -> None:
    marshal = schema.marshal_class(MarshalRtnl)()
    plain = message(rtnl.RTM_NEWLINK, 9, bytes(16))
    assert _codec.short_answer(marshal, plain, 9) is None  # the sockets' own header entries are not set up
    marshal.header_extra = {"target": "here", "stats": None}
    (msg,) = _codec.short_answer(marshal, plain, 9)
    assert isinstance(msg, ifinfmsg)
    assert (msg["header"]["target"], msg["header"]["error"], msg["event"]) == ("here", None, "RTM_NEWLINK")
    (ack,) = _codec.short_answer(marshal, message(NLMSG_ERROR, 9, struct.pack("i", 0) + bytes(16)), 9)
    assert ack["error"] == 0 and ack["header"]["error"] is None
    for data in (
        b"",
        plain[:-1],
        plain + plain,
        message(rtnl.RTM_NEWLINK, 8, bytes(16)),
        plain[:6] + struct.pack("H", 2) + plain[8:],
        message(NLMSG_ERROR, 9, struct.pack("i", -17) + bytes(16)),
        message(NLMSG_ERROR, 9, b""),
        message(NLMSG_DONE, 9, struct.pack("i", 0)),
        bytearray(plain),
    ):
        assert _codec.short_answer(marshal, data, 9) is None
    assert _codec.short_answer(MarshalRtnl(), plain, 9) is None


def test_build_without_acknowledgement() -> None:
    for kind, command, kwarg, flags in (
        ("link", "get", {"index": 1}, NLM_F_REQUEST),
        ("link", "set", {"index": 1}, NLM_F_REQUEST | NLM_F_ACK),
        ("route", "get", {"dst": "10.0.0.1"}, NLM_F_REQUEST),
        ("route", "dump", {}, NLM_F_REQUEST | 0x300),
    ):
        data = _codec.build(kind, command, kwarg, ack_gets=False)
        assert struct.unpack_from("H", data, 6) == (flags,)
