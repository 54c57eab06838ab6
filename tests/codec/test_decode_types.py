"""Every message of rtnetlink has an event, whatever its type; what pyroute2 knows of it stays as it is."""

from __future__ import annotations

import json
import pickle
import random
import struct
from typing import Any

import pytest
from compare import MarshalGeneric, look, same
from pyroute2.netlink import nlmsg, rtnl
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from rawmessages import message

from fastns.cli.messages import plain
from fastns.schema import ADDITIONS, MESSAGES, event_name, marshal_class, nhmsg

TYPES = [0, *range(5, 301), 500, 65535]
LATER = {number: name for name, number in ADDITIONS["rtnl"].numbers.items() if name.startswith("RTM_")}


def datagram(kind: int, rng: random.Random) -> bytes:
    return message(rng, MESSAGES.get(kind) or MarshalRtnl.msg_map.get(kind, nlmsg), kind)


def parse(data: bytes, cls: type = MarshalRtnl) -> Any:
    (msg,) = marshal_class(cls)().parse(data)
    return msg


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_has_its_event(kind: int, rng: random.Random) -> None:
    expected = rtnl.RTM_VALUES.get(kind) or LATER.get(kind) or f"RTM_{kind}"
    for data in (struct.pack("=IHHII", 40, kind, 0, 0, 0) + bytes(24), datagram(kind, rng), datagram(kind, rng)):
        assert parse(data)["event"] == expected  # read in place
        msg = parse(data)
        assert msg.dump()["event"] == expected
        assert dict(msg)["event"] == expected == msg["event"]
        assert pickle.loads(pickle.dumps(msg))["event"] == expected
        json.dumps(plain(msg), default=str)
        (theirs,) = MarshalRtnl().parse(data)
        if kind not in MESSAGES:
            theirs.setdefault("event", expected)
            same(look(parse(data)), look(theirs))


def test_names_are_complete() -> None:
    """No name is told twice, and none that the kernel has is only a number."""
    assert event_name(rtnl.RTM_NEWLINK) == "RTM_NEWLINK"
    assert [event_name(number) for number in (100, 105, 106, 57, 60)] == [
        "RTM_NEWCHAIN", "RTM_DELNEXTHOP", "RTM_GETNEXTHOP", "RTM_DELMULTICAST", "RTM_NEWANYCAST",
    ]  # fmt: skip
    assert event_name(299) == "RTM_299"


def test_pyroute2_s_name_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rtnl.RTM_VALUES, 104, "RTM_THEIRS")
    assert parse(struct.pack("=IHHII", 24, 104, 0, 0, 0) + bytes(8))["event"] == "RTM_THEIRS"


@pytest.mark.parametrize("kind", [1, 2, 3, 4])
def test_control_messages_are_pyroute2_s(kind: int) -> None:
    data = struct.pack("=IHHIIi", 20, kind, 0, 7, 0, 0)
    (theirs,) = MarshalRtnl().parse(data)
    assert parse(data)["event"] == theirs["event"]
    same(look(parse(data)), look(theirs))


def test_other_families_are_pyroute2_s() -> None:
    """Their types are numbers of their own, which have no RTM_ name."""
    for kind in (16, 104, 299):
        data = struct.pack("=IHHII", 20, kind, 0, 0, 0) + bytes(4)
        (theirs,) = MarshalGeneric().parse(data)
        assert "event" not in theirs
        assert "event" not in parse(data, MarshalGeneric)
        same(look(parse(data, MarshalGeneric)), look(theirs))


def test_a_field_named_event_stays() -> None:
    class told(nlmsg):
        fields = (("event", "I"),)

    class Mine(MarshalRtnl):
        msg_map = {**MarshalRtnl.msg_map, 250: told, rtnl.RTM_NEWPREFIX: told}

    for kind, expected in ((250, 7), (rtnl.RTM_NEWPREFIX, "RTM_NEWPREFIX")):
        data = struct.pack("=IHHIII", 20, kind, 0, 0, 0, 7)
        (theirs,) = Mine().parse(data)
        msg = parse(data, Mine)
        assert msg.dump()["event"] == theirs["event"] == expected


@pytest.mark.parametrize("kind", [24, 104, 299])
def test_by_a_parser_and_by_a_marshal_of_ones_own(kind: int) -> None:
    class Mine(MarshalRtnl):
        def get_parser(self, *args: Any) -> Any:
            return super().get_parser(*args)

    data = struct.pack("=IHHII", 40, kind, 0, 7, 0) + bytes(24)
    assert parse(data, Mine)["event"] == event_name(kind)
    marshal = marshal_class(MarshalRtnl)()
    marshal.seq_map[7] = lambda data, offset, length: marshal.parse_one_message(kind, 0, 8, data, offset, length)
    (msg,) = marshal.parse(data)
    assert msg["event"] == event_name(kind)


def test_next_hops_of_a_group() -> None:
    """struct nexthop_grp: weights from 1, their high byte where older kernels have a reserved one."""
    members = struct.pack("=IBBHIBBHIB", 6, 2, 0, 0, 10, 0, 1, 0, 99, 1)  # and a piece of a third
    attribute = struct.pack("=HH", 4 + len(members), 2) + members + bytes(-len(members) % 4)
    body = struct.pack("=BBBBI", 0, 0, 3, 0, 0) + attribute
    msg = parse(struct.pack("=IHHII", 16 + len(body), 104, 0, 0, 0) + body)
    assert isinstance(msg, nhmsg)
    assert msg["protocol"] == 3
    assert msg.get("group") == [{"id": 6, "weight": 3}, {"id": 10, "weight": 257}]
    assert pickle.loads(pickle.dumps(msg)).get("group") == msg.get("group")
