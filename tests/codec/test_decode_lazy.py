"""What is particular to lazy messages: memory, the collector, threads, and the marshal's surface."""

from __future__ import annotations

import gc
import json
import struct
import sys
import threading
import tracemalloc
import weakref
from typing import Any

import pytest
from compare import captured, differences, look
from pyroute2.netlink import nla, nla_slot, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fastns import _codec
from fastns.schema import LazyType, lazy_class, marshal_class, schema

DATA = {name: data for name, marshal, data in captured() if marshal is MarshalRtnl}
ROUTES = DATA["0-route4-0"]
LINKS = DATA["0-link-0"]


def parse(data: bytes, marshal: Any = None) -> list[Any]:
    out: list[Any] = []
    _codec.parse(marshal or marshal_class(MarshalRtnl)(), data, out)
    return out


def route(seq: int = 7) -> bytes:
    body = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 4, 0, 1, 0)
    for kind, value in ((15, b"\xfe\0\0\0"), (1, b"\x0a\1\2\0"), (5, b"\x0a\1\0\7"), (4, b"\3\0\0\0")):
        body += struct.pack("=HH", 8, kind) + value
    return struct.pack("=IHHII", 16 + len(body), 24, 2, seq, 99) + body


def test_unfilled_messages_are_outside_the_collector():
    msg = parse(ROUTES)[0]
    assert not gc.is_tracked(msg)
    assert msg["family"] == 2
    assert msg.get("oif") is not None
    assert msg["header"]["error"] is None
    assert not gc.is_tracked(msg)
    msg["attrs"].append(msg)  # a cycle
    assert gc.is_tracked(msg)


def test_an_unfilled_message_in_a_cycle_is_collected():
    msg = parse(ROUTES)[0]
    msg.myself = msg
    gone = weakref.ref(msg)
    del msg
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("touch", [lambda m: None, lambda m: m.dump(), lambda m: [s.nla for s in m["attrs"]], repr])
def test_messages_go_away(touch):
    for data in (ROUTES, LINKS, DATA["0-err-0"]):
        messages = parse(data)
        for msg in messages:
            touch(msg)
        gone = [weakref.ref(msg) for msg in messages]
        del messages, msg
        gc.collect()
        assert [ref() for ref in gone] == [None] * len(gone)


def test_memory_of_held_routes():
    part = route() * 546
    parts = [bytes(bytearray(part)) for _ in range(20)]
    marshal = marshal_class(MarshalRtnl)()
    parse(part, marshal)
    out: list[Any] = []
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for data in parts:
        _codec.parse_dump(marshal, data, out, 7)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(out) == 20 * 546
    assert (after - before) / len(out) + len(route()) <= 400


def test_filling_and_copies_let_the_datagram_go():
    datagram = bytes(bytearray(route() * 10))
    before = sys.getrefcount(datagram)
    messages = parse(datagram)
    assert sys.getrefcount(datagram) == before + 10
    copies = [msg.copy() for msg in messages[:5]]
    for msg in messages:
        msg["attrs"]
    assert sys.getrefcount(datagram) == before
    assert bytes(copies[0].data) == route()
    assert (messages[3].offset, messages[3].length, len(messages[3].data)) == (0, len(route()), len(route()))


def test_json():
    msg = parse(route())[0]
    assert json.loads(json.dumps(msg.dump()))["dst_len"] == 24
    with pytest.raises(TypeError):  # a slot is no JSON, and an unfilled message is not an empty dict
        json.dumps(parse(route())[0])

    class plain(nlmsg):
        fields = (("a", "I"),)

    marshal = marshal_class(type("marshal", (MarshalRtnl,), {"msg_map": {99: plain}}))()
    msg = parse(struct.pack("=IHHIII", 20, 99, 0, 7, 0, 5), marshal)[0]
    assert json.loads(json.dumps(msg))["a"] == 5


def test_threads_filling_the_same_messages():
    expected = [look(msg) for msg in parse(LINKS * 4)]
    for _ in range(5):
        messages = parse(LINKS * 4)
        barrier = threading.Barrier(4)
        seen: list[Any] = [None] * 4

        def work(number: int, messages: Any = messages, barrier: Any = barrier, seen: Any = seen) -> None:
            barrier.wait(10)
            seen[number] = [look(msg) for msg in messages]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for found in seen:
            assert list(differences(found, expected)) == []


def test_threads_making_the_same_plan():
    for _ in range(20):

        class fresh(nlmsg):
            fields = (("a", "I"),)
            nla_map = (("X", "inner"),)

            class inner(nla):
                fields = (("value", "I"),)

        barrier = threading.Barrier(4)
        made: list[Any] = []

        def work(cls: Any = fresh, barrier: Any = barrier, made: Any = made) -> None:
            barrier.wait(10)
            made.append((schema(cls), lazy_class(cls), _codec.plan(cls)))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({tuple(map(id, item)) for item in made}) == 1


def test_policy_changed_at_run_time():
    class mine(rtmsg):
        def gateway(self) -> Any:
            return self.get("gateway")

    marshal = marshal_class(MarshalRtnl)()
    assert not hasattr(parse(route(), marshal)[0], "gateway")
    marshal.msg_map[24] = mine
    msg = parse(route(), marshal)[0]
    assert isinstance(msg, mine)
    assert msg.gateway() == "10.1.0.7"
    del marshal.msg_map[24]
    assert type(parse(route(), marshal)[0]) is lazy_class(nlmsg)


def test_class_with_its_own_decode():
    class mine(rtmsg):
        def decode(self) -> None:
            super().decode()
            self["network"] = f"{self.get_attr('RTA_DST')}/{self['dst_len']}"

    marshal = marshal_class(MarshalRtnl)()
    marshal.msg_map[24] = mine
    msg = parse(route(), marshal)[0]
    assert msg["network"] == "10.1.2.0/24"
    assert msg.get("network") == "10.1.2.0/24"
    assert msg["event"] == "RTM_NEWROUTE"
    assert [slot.name for slot in msg["attrs"]] == ["RTA_TABLE", "RTA_DST", "RTA_GATEWAY", "RTA_OIF"]


def test_class_that_is_no_plain_dict():
    class mine(rtmsg):
        def get_attr(self, attr: str, default: Any = None) -> Any:
            return "mine"

    assert lazy_class(mine) is None
    marshal = marshal_class(MarshalRtnl)()
    marshal.msg_map[24] = mine
    msg = parse(route(), marshal)[0]
    assert type(msg) is mine
    assert msg.get_attr("x") == "mine"
    assert msg["event"] == "RTM_NEWROUTE"


def test_parser_of_a_request():
    marshal = marshal_class(MarshalRtnl)()
    marshal.seq_map[7] = lambda data, offset, length: None if offset else rtmsg(data, offset)
    marshal.seq_map[8] = lambda data, offset, length: {"header": {"type": 3}}
    assert len(parse(route() * 3, marshal)) == 1
    assert parse(route(8), marshal) == [{"header": {"type": 3}, "event": "NLMSG_DONE"}]
    assert len(parse(route(9), marshal)) == 1


def test_callback_swallows_messages():
    marshal = marshal_class(MarshalRtnl)()
    data = route(7) + route(8)
    assert [m["header"]["sequence_number"] for m in marshal.parse(data, 7, lambda msg: True)] == [8]
    assert len(list(marshal.parse(data, 7, lambda msg: False))) == 2
    assert len(list(marshal.parse(data, 7, lambda msg: 1 / 0))) == 2


def test_own_fix_message():
    class Mine(MarshalRtnl):
        def fix_message(self, msg: Any) -> None:
            msg["mine"] = msg["dst_len"]

    marshal = marshal_class(Mine)()
    assert isinstance(marshal, Mine)
    assert parse(route(), marshal)[0]["mine"] == 24


def test_own_error():
    class Mine(marshal_class(MarshalRtnl)):  # type: ignore[misc]
        def make_error(self, code: int, text: str | None, msg: Any) -> Exception:
            return NetlinkError(code, f"mine: {text}")

    error = parse(DATA["0-err-0"], Mine())[0]["header"]["error"]
    assert error.args == (19, "mine: None")


def test_values_keep_their_identity():
    msg = parse(LINKS)[0]
    assert msg.get_attr("IFLA_AF_SPEC") is msg.get_attr("IFLA_AF_SPEC")
    assert msg.get("af_spec") is msg["attrs"][-1].value or msg.get("af_spec") is msg.get_attr("IFLA_AF_SPEC")
    msg.get_attr("IFLA_AF_SPEC")["mine"] = 1
    assert msg.get_attr("IFLA_AF_SPEC")["mine"] == 1


def test_slot_classes():
    slot = parse(LINKS)[0]["attrs"][0]
    assert isinstance(slot, nla_slot)
    assert type(slot) == nla_slot  # noqa: E721
    assert type(type(slot)) is LazyType
    with pytest.raises(AttributeError):
        type(slot).__new__(type(slot)).name  # noqa: B018
    with pytest.raises(AttributeError):
        nla_slot.__new__(type(slot))[0]
    assert [slot[0], slot[1]] == list(slot) == slot[:]
    with pytest.raises(IndexError):
        slot[-1]


def test_parent_gone_before_a_value_is_read():
    """pyroute2's attributes hold their message weakly: what is left cannot be decoded any more, or can, as there."""
    for name in ("0-route4-0", "0-link-0", "0-neigh-0"):
        data = DATA[name]
        ours = [slot for msg in parse(data) if "attrs" in msg for slot in msg["attrs"]]
        theirs = [slot for msg in MarshalRtnl().parse(data) if "attrs" in msg for slot in msg["attrs"]]
        gc.collect()
        assert [look(slot.value) for slot in ours] == [look(slot.value) for slot in theirs]
