"""`_codec.encode` is pyroute2's `encode()`: bytes, exceptions and what is left in the message."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pyroute2.netlink
import pytest
from compare import captured, look
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroute2.netlink import nla, nla_slot, nlmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from strategies import contents, fill, message_classes

from fastns import _codec, schema

CLASSES = message_classes()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyroute2 logs the stack of whatever it cannot encode, and of what it cannot decode afterwards."""
    monkeypatch.setattr(pyroute2.netlink.log, "disabled", True)


def attempt(encode: Any, msg: nlmsg) -> type[BaseException] | None:
    try:
        encode(msg)
    except Exception as error:
        return type(error)
    return None


def look_slots(msg: nlmsg) -> list[Any]:
    return [look(cell) if isinstance(cell, nla_slot) else cell for cell in msg.get("attrs") or ()]


def check(cls: type[nlmsg], content: dict[str, Any]) -> nlmsg:
    theirs, ours = (fill(cls(), copy.deepcopy(content)) for _ in range(2))
    expected = attempt(cls.encode, theirs)
    assert attempt(_codec.encode, ours) == expected
    if expected is not None:
        return ours
    assert bytes(ours.data).hex() == bytes(theirs.data).hex()
    assert type(ours.data) is type(theirs.data)
    assert (ours.length, ours.offset, ours.decoded) == (theirs.length, theirs.offset, theirs.decoded)
    assert ours.get("header") == theirs.get("header")
    assert list(ours) == list(theirs)
    assert [cell[0] for cell in ours.get("attrs") or ()] == [cell[0] for cell in theirs.get("attrs") or ()]
    assert look_slots(ours) == look_slots(theirs)
    return ours


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__.rpartition('.')[2]}-{cls.__qualname__}")
def test_encode_equal(cls: type[nlmsg]) -> None:
    @settings(max_examples=settings().max_examples)
    @given(contents(cls))
    def run(content: dict[str, Any]) -> None:
        check(cls, content)

    run()


@pytest.mark.parametrize("cls", [rtmsg, ifinfmsg])
def test_encode_equal_more(cls: type[nlmsg]) -> None:
    @settings(max_examples=5 * settings().max_examples)
    @given(contents(cls))
    def run(content: dict[str, Any]) -> None:
        check(cls, content)

    run()


@pytest.mark.parametrize("cls", [rtmsg, ifinfmsg])
def test_encode_again(cls: type[nlmsg]) -> None:
    """An encoded message can be changed, reset and encoded again, with or without looking at it in between."""

    @settings(max_examples=settings().max_examples)
    @given(contents(cls), st.booleans())
    def run(content: dict[str, Any], looked: bool) -> None:
        theirs, ours = (fill(cls(), copy.deepcopy(content)) for _ in range(2))
        for _ in range(2):
            expected = attempt(cls.encode, theirs)
            assert attempt(_codec.encode, ours) == expected
            if expected is not None:
                return
            assert bytes(ours.data).hex() == bytes(theirs.data).hex()
            if looked:
                assert look_slots(ours) == look_slots(theirs)
            for msg in (theirs, ours):
                msg.reset()
                msg["header"]["sequence_number"] = 77
        # without reset() the data grows
        assert attempt(_codec.encode, ours) == attempt(cls.encode, theirs)
        assert attempt(_codec.encode, ours) == attempt(cls.encode, theirs)
        assert bytes(ours.data).hex() == bytes(theirs.data).hex()

    run()


@pytest.mark.parametrize(("name", "marshal", "data"), [pytest.param(*x, id=x[0]) for x in captured()])
def test_encode_what_was_received(name: str, marshal: Any, data: bytes) -> None:
    parsers = (marshal, marshal, schema.marshal_class(marshal))
    for theirs, ours, lazy in zip(*(list(parser().parse(data))[:20] for parser in parsers)):
        for msg in (theirs, ours, lazy):
            msg.reset()
        expected = attempt(type(theirs).encode, theirs)
        assert attempt(_codec.encode, ours) == expected
        assert attempt(lambda msg: msg.encode(), lazy) == expected
        if expected is None:
            assert bytes(ours.data).hex() == bytes(theirs.data).hex()
            assert bytes(lazy.data).hex() == bytes(theirs.data).hex()
            assert look_slots(lazy) == look_slots(theirs)


def route() -> rtmsg:
    return fill(
        rtmsg(),
        {
            "family": 2,
            "dst_len": 24,
            "header": {"type": 24, "flags": 5},
            "attrs": [
                ("RTA_DST", "10.0.0.0"),
                ["RTA_MULTIPATH", [{"oif": 3, "attrs": [("RTA_GATEWAY", "10.0.0.1")]}, {"oif": 4, "hops": 1}]],
                ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1400)]}),
            ],
        },
    )


def test_encode_slots_are_pyroute2s() -> None:
    msg = route()
    data = _codec.encode(msg)
    assert isinstance(data, bytes)
    assert data == bytes(msg.data)
    slot = msg["attrs"][2]
    assert isinstance(slot, nla_slot)
    assert slot.name == slot[0] == "RTA_METRICS"
    assert isinstance(slot.nla, rtmsg.metrics)
    assert slot.nla.data is msg.data
    assert slot.value["attrs"][0].nla.data is msg.data
    assert slot[:] == ["RTA_METRICS", slot.value]
    assert msg.get_nested("metrics", "mtu") == 1400
    assert pickle.loads(pickle.dumps(msg)).dump() == msg.dump()
    assert copy.copy(msg["attrs"][0]).value == "10.0.0.0"
    assert repr(msg["attrs"][0]) == "('RTA_DST', '10.0.0.0')"


def test_encode_runs_what_a_user_overrides() -> None:
    seen = []

    class Message(nlmsg):
        fields = (("a", "B"), ("b", "3x"), ("c", ">I"))
        nla_map = (("X_UNSPEC", "none"), ("X_ONE", "one"), ("X_TWO", "uint16"), ("X_THREE", "three"), ("X_FOUR", "uint8"))

        class one(nla):
            fields = (("value", "I"),)

            def encode(self) -> None:
                seen.append(self.parent["a"])
                self["value"] = self.value * 2
                nla.encode(self)

        class three(nla):
            align = 0
            fields = (("value", "B"),)

    content = {"a": 7, "c": 1, "attrs": [("X_TWO", 5), ("X_ONE", 21), ("X_TWO", 6), ("X_ONE", 1)]}
    msg = check(Message, content)
    assert seen[:4] == [7] * 4
    assert bytes(msg.data)[24:].hex() == "0600020005000000080001002a00000006000200060000000800010002000000"
    # an encoder without padding puts what follows where pyroute2 puts it, or makes it fail the same way
    check(Message, {**content, "attrs": [("X_TWO", 5), ("X_THREE", 1)]})
    check(Message, {**content, "attrs": [("X_THREE", 1), ("X_FOUR", 1), ("X_TWO", 1)]})


def test_encode_is_native_for_nearly_all_attributes() -> None:
    done, left = 0, []
    for cls in CLASSES:
        if not cls.nla_map or not isinstance(cls.nla_map, (list, tuple)):
            continue
        cls()
        for name in cls._nlmsg_base__r_nla_map:
            if _codec._encoding(cls, name):
                done += 1
            else:
                left.append((cls.__name__, name))
    assert done > 20 * len(left), left
    for cls in (rtmsg, ifinfmsg):
        assert _codec._encoding(cls)


@given(st.integers(2040, 2100), st.integers(0, 40))
def test_encode_long_messages(size: int, count: int) -> None:
    attrs = [("IFLA_IFALIAS", "x" * size), *[("IFLA_IFNAME", "y" * 1000)] * count]
    check(ifinfmsg, {"attrs": attrs})


@pytest.mark.parametrize("size", [65530, 65531, 65532, 65536, 70000])
def test_encode_attribute_limit(size: int) -> None:
    check(ifinfmsg, {"attrs": [("IFLA_IFALIAS", b"x" * size)]})
    check(ifinfmsg, {"attrs": [("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "x" * size)]})]})


def test_encode_deep_nesting() -> None:
    value: Any = {"attrs": []}
    for _ in range(40):
        value = {"attrs": [("NFTA_LIST_ELEM", value)]}
    for cls in CLASSES:
        if cls.__name__ == "nft_rule_msg":
            check(cls, {"attrs": [("NFTA_RULE_EXPRESSIONS", value)]})
