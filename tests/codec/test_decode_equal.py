"""Decoding equals pyroute2's: what the kernel sent, and generated messages of every class."""

from __future__ import annotations

import copy
import pickle
import struct
from typing import Any

import pytest
from compare import captured, differences, look
from pyroute2.netlink import nla_slot
from pyroute2.netlink.connector.cn_proc import ProcEventMarshal
from pyroute2.netlink.diag import MarshalDiag
from pyroute2.netlink.exceptions import NetlinkDecodeError, NetlinkError
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from fastns import _codec
from fastns.schema import LazyType, lazy_class, marshal_class

CAPTURED = list(captured())


def keywords(**kwarg: Any) -> dict[str, Any]:
    return kwarg


def both(marshal: type, data: bytes) -> list[tuple[Any, Any]]:
    ours = list(marshal_class(marshal)().parse(data))
    theirs = list(marshal().parse(data))
    assert len(ours) == len(theirs)
    return list(zip(ours, theirs))


def assert_same(ours: Any, theirs: Any) -> None:
    assert list(differences(look(ours), look(theirs))) == []


class Pairs:
    """The messages of one captured datagram: pyroute2's once, ours fresh every time."""

    def __init__(self, marshal: type, data: bytes) -> None:
        self.parser = marshal_class(marshal)()
        self.data = data
        self.theirs = list(marshal().parse(data))

    def __call__(self) -> list[tuple[Any, Any]]:
        ours = list(self.parser.parse(self.data))
        assert len(ours) == len(self.theirs)
        return list(zip(ours, self.theirs))


@pytest.fixture(params=CAPTURED, ids=[name for name, _, _ in CAPTURED])
def pairs(request):
    return Pairs(*request.param[1:])


def outcome(call: Any) -> Any:
    """What a call gives, or the class of what it raises."""
    try:
        return look(call())
    except Exception as error:
        return type(error)


def test_captured_whole(pairs):
    for ours, theirs in pairs():
        assert_same(ours, theirs)


def test_captured_isinstance(pairs):
    for ours, theirs in pairs():
        assert isinstance(ours, type(theirs))
        assert type(ours) == type(theirs)  # noqa: E721
        assert hash(type(ours)) == hash(type(theirs))
        assert type(ours).__name__ == type(theirs).__name__
        assert ours.__class__ is type(theirs)
        assert type(ours)().__class__ is type(theirs)
        assert pickle.loads(pickle.dumps(type(ours))) is type(theirs)


def test_captured_keys_without_filling(pairs):
    for index, (_, theirs) in enumerate(pairs()):
        for key in theirs:
            ours = pairs()[index][0]
            assert key in ours
            assert_same(ours[key], theirs[key])
            ours = pairs()[index][0]
            assert_same(ours.get(key), theirs.get(key))


def test_captured_attributes_without_filling(pairs):
    for index, (_, theirs) in enumerate(pairs()):
        names = [slot[0] for slot in theirs["attrs"]] if "attrs" in theirs else []
        for name in [*names, "NO_SUCH", "UNKNOWN", "flags"]:
            for short in (name, theirs.nla2name(name) if theirs.prefix else name.lower()):
                assert_same(pairs()[index][0].get_attr(name), theirs.get_attr(name))
                if "attrs" in theirs:
                    assert_same(pairs()[index][0].get_attrs(name), theirs.get_attrs(name))
                assert_same(pairs()[index][0].get(short), theirs.get(short))
                assert_same(pairs()[index][0].get_nested(short), theirs.get_nested(short))
                assert_same(pairs()[index][0].get((short,), 7), theirs.get((short,), 7))
            value = theirs.get_attr(name)
            if isinstance(value, dict) and "attrs" in value:
                for inner in value["attrs"]:
                    path = (name, inner[0])
                    assert_same(pairs()[index][0].get(path), theirs.get(path))
                    assert_same(pairs()[index][0].get_nested(*path), theirs.get_nested(*path))


def test_captured_dump_load_pickle_copy(pairs):
    for index, (ours, theirs) in enumerate(pairs()):
        if theirs["header"]["error"] is not None:
            continue
        assert_same(ours.dump(), theirs.dump())
        fresh = [pairs()[index][0] for _ in range(9)]
        assert_same(pickle.loads(pickle.dumps(fresh[0])), pickle.loads(pickle.dumps(theirs)))
        assert_same(copy.copy(fresh[1]), copy.copy(theirs))
        assert_same(copy.deepcopy(fresh[2]), copy.deepcopy(theirs))
        assert outcome(fresh[3].copy) == outcome(theirs.copy)
        assert list(dict(fresh[4])) == list(theirs)
        assert list({**fresh[5]}) == list(theirs)
        assert list(keywords(**fresh[6])) == list(theirs)
        assert repr(fresh[7]) == repr(theirs)
        assert_same(type(theirs)().load(fresh[8].dump()), type(theirs)().load(theirs.dump()))


def test_captured_compare_and_arithmetic(pairs):
    for index, (ours, theirs) in enumerate(pairs()):
        if theirs["header"]["error"] is not None:
            continue
        again = pairs()[index]
        assert ours == theirs
        assert again[1] == again[0]
        assert pairs()[index][0] == pairs()[index][0]
        assert (pairs()[index][0] != theirs) is False
        first_ours, first_theirs = pairs()[0]
        assert_same(pairs()[index][0] - first_ours, theirs - first_theirs)
        assert_same(pairs()[index][0] & first_ours, theirs & first_theirs)


def test_captured_slots(pairs):
    for ours, theirs in pairs():
        if "attrs" not in theirs:
            continue
        for one, other in zip(ours["attrs"], theirs["attrs"]):
            assert isinstance(one, nla_slot)
            assert one.name == other.name == one[0]
            assert_same(one[1], other[1])
            assert_same(one[:], other[:])
            assert_same(one[0:1], other[0:1])
            assert one.get_flags() == other.get_flags()
            assert repr(one) == repr(other)
            assert_same(list(one), list(other))
            with pytest.raises(IndexError):
                one[2]


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.__setitem__("new", 1),
        lambda m: m.update(new=2),
        lambda m: m.pop("header"),
        lambda m: m.popitem(),
        lambda m: m.setdefault("new", 3),
        lambda m: m.__delitem__("header"),
        lambda m: m.clear(),
        lambda m: m["header"].update(target="here"),
        lambda m: m.setvalue({"new": 4}),
        lambda m: m.load({"new": 5}),
        lambda m: m.strip(["RTA_TABLE"]),
        lambda m: m.__ior__({"new": 6}),
        lambda m: setattr(m, "parent", None),
        lambda m: setattr(m, "length", 5),
        lambda m: setattr(m, "value", 5),
        lambda m: m.decode(),
        lambda m: m.nla(),
        lambda m: m | {"new": 7},
        lambda m: {"new": 7} | m,
        lambda m: list(reversed(m)),
        lambda m: (len(m), list(m), list(m.keys()), len(m.values()), len(m.items())),
    ],
)
def test_change_of_an_unfilled_message(change):
    _, marshal, data = next(item for item in CAPTURED if item[0].startswith("0-route4"))
    for ours, theirs in both(marshal, data):
        if "attrs" in theirs:
            assert_same(change(ours), change(theirs))
            assert_same(ours, theirs)


def test_attributes_of_the_object_stay():
    _, marshal, data = next(item for item in CAPTURED if item[0].startswith("0-route4"))
    ours = both(marshal, data)[0][0]
    ours.note = "kept"
    assert ours["attrs"] is ours["attrs"]
    assert ours["header"] is ours["header"]
    assert ours.note == "kept"


def test_header_before_and_after_filling():
    _, marshal, data = next(item for item in CAPTURED if item[0].startswith("0-link-"))
    parser = marshal_class(marshal)()
    parser.header_extra = {"target": "here", "stats": (0, 0, 0)}
    msg = next(iter(parser.parse(data)))
    header = msg["header"]
    assert list(header)[-3:] == ["error", "target", "stats"]
    header["mine"] = 1
    assert len(msg) > 3
    assert msg["header"] is header


def test_parse_dump_flags():
    by_name = {name: (marshal, data) for name, marshal, data in CAPTURED}
    marshal, data = by_name["0-route4-0"]
    parser = marshal_class(marshal)()
    out: list[Any] = []
    assert _codec.parse_dump(parser, data, out, 7) == 0
    assert [m["event"] for m in out] == ["RTM_NEWROUTE"] * len(out)
    assert out
    assert _codec.parse_dump(parser, data, out2 := [], 8) == 0
    assert out2 == []
    assert _codec.parse_dump(parser, by_name["0-route4-1"][1], [], 7) == 1
    marshal, data = by_name["0-err-0"]
    assert _codec.parse_dump(marshal_class(marshal)(), data, out3 := [], 7) & 4
    assert isinstance(out3[-1]["header"]["error"], NetlinkError)


class Shifted(Marshal):
    """Its keys are the types times 65536."""

    key_format, key_offset, key_mask = "I", 2, 0xFFFF0000
    error_type = 2 << 16
    msg_map = {key << 16: cls for key, cls in MarshalRtnl().msg_map.items()}


def proc_event(what: int) -> bytes:
    body = struct.pack("=IIIIHHIIQ", 1, 1, 1, 0, 40, 0, what, 0, 12345) + struct.pack("=IIII", 7, 8, 9, 10) + b"name\0" + bytes(11)
    return struct.pack("=IHHII", 16 + len(body), 3, 0, 5, 6) + body


@pytest.mark.parametrize(
    ("marshal", "data"),
    [
        *((marshal, data) for _, marshal, data in CAPTURED if marshal is MarshalDiag),
        (ProcEventMarshal, b"".join(proc_event(what) for what in (0, 1, 2, 4, 0x200, 0x80000000, 3, 99))),
        *((Shifted, data) for name, _, data in CAPTURED if name.startswith(("0-link-", "0-err"))),
    ],
)
def test_marshals_with_a_key_of_their_own(marshal, data):
    for ours, theirs in both(marshal, data):
        assert isinstance(type(ours), LazyType)
        assert_same(ours, theirs)


def test_a_message_too_short_for_its_key():
    with pytest.raises(NetlinkDecodeError):
        list(marshal_class(MarshalDiag)().parse(struct.pack("=IHHII", 16, 20, 2, 1, 1) + bytes(16)))


def test_lazy_class_is_made_once():
    _, marshal, _ = CAPTURED[0]
    for cls in set(marshal.msg_map.values()):
        assert lazy_class(cls) is lazy_class(cls)
        assert lazy_class(lazy_class(cls)) is lazy_class(cls)
        assert issubclass(lazy_class(cls), cls)
