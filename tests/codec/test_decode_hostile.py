"""Bytes that no kernel sends: nothing is read outside the message, nothing runs for ever, errors are NetlinkDecodeError."""

from __future__ import annotations

import logging
import os
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from compare import MARSHALS, captured, differences, look
from hypothesis import settings
from pyroute2.netlink import ctrlmsg, nla, nlmsg
from pyroute2.netlink.exceptions import NetlinkDecodeError
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fastns import _codec
from fastns.errors import NetlinkError
from fastns.schema import marshal_class

FUZZ = Path(__file__).parents[1] / "fuzz" / "fuzz_decode.py"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def parse(marshal: type[Marshal], data: bytes) -> list[Any]:
    out: list[Any] = []
    _codec.parse(marshal_class(marshal)(), data, out)
    return out


def marshal_of(**classes: type) -> type[Marshal]:
    return type("marshal", (Marshal,), {"msg_map": {int(key[1:]): cls for key, cls in classes.items()}})


def header(size: int, kind: int, flags: int = 2, seq: int = 7) -> bytes:
    return struct.pack("=IHHII", size, kind, flags, seq, 0)


def attr(kind: int, payload: bytes, size: int | None = None) -> bytes:
    return struct.pack("=HH", 4 + len(payload) if size is None else size, kind) + payload + bytes(-len(payload) % 4)


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_every_truncation(step):
    for name, marshal, data in captured():
        first = data[: struct.unpack_from("=I", data)[0]]
        if len(first) > 700 and step != 7:
            continue
        for size in range(0, len(first), step):
            try:
                messages = parse(marshal, first[:size])
            except NetlinkDecodeError:
                continue
            for msg in messages:
                try:
                    look(msg)
                except NetlinkDecodeError:
                    pass
                except Exception as error:
                    raise AssertionError(f"{name} cut to {size}") from error


def test_truncated_header_says_so(rng):
    """A length that says less than there is: pyroute2's result for those bytes alone, or a decode error."""
    share = settings().max_examples / 100
    for _, marshal, data in captured():
        whole = struct.unpack_from("=I", data)[0]
        if marshal is not MarshalRtnl or whole > 300 or data[4:6] == b"\2\0":
            continue
        for size in rng.sample(range(16, whole), round(min(share, 1) * (whole - 16))):
            cut = struct.pack("=I", size) + data[4:size]
            try:
                theirs = [look(msg) for msg in marshal().parse(cut)]
            except Exception:
                continue
            try:
                ours = [look(msg) for msg in parse(marshal, cut + b"\xff" * 40)][: len(theirs)]
            except NetlinkDecodeError:
                continue
            assert list(differences(ours[0], theirs[0])) == []


@pytest.mark.parametrize("size", [0, 1, 4, 15])
def test_length_below_a_header(size):
    good = header(28, 24) + bytes(12)
    bad = header(size, 24) + bytes(12)
    out: list[Any] = []
    if size:
        with pytest.raises(NetlinkDecodeError):
            _codec.parse(marshal_class(MarshalRtnl)(), good + bad, out)
    else:  # pyroute2 stops there, too
        _codec.parse(marshal_class(MarshalRtnl)(), good + bad, out)
    assert len(out) == 1


def test_messages_before_a_broken_one_are_delivered():
    parser = marshal_class(MarshalRtnl)()
    messages = parser.parse(header(28, 24) + bytes(12) + header(20, 24) + bytes(4))
    assert next(messages)["header"]["type"] == 24
    with pytest.raises(NetlinkDecodeError):
        next(messages)


def test_length_beyond_the_datagram():
    assert parse(MarshalRtnl, header(0xFFFFFFFF, 24) + bytes(12)) == []
    data = header(28, 24) + bytes(12) + header(56, 24) + bytes(12)
    assert len(parse(MarshalRtnl, data)) == 2


def test_alien_sequence_numbers_do_not_stop_the_parser():
    data = header(28, 24, seq=5) + bytes(12) + header(28, 24, seq=7) + bytes(12)
    assert [m["header"]["sequence_number"] for m in marshal_class(MarshalRtnl)().parse(data, 7, None, True)] == [7]


def test_array_with_an_empty_element():
    """pyroute2's loop over such an array never ends."""
    payload = attr(6, bytes(8))
    data = header(20 + len(payload), 16) + bytes(4) + payload
    msg = parse(marshal_of(_16=ctrlmsg), data)[0]
    assert msg["attrs"][0].value == payload
    assert msg.get_attr("CTRL_ATTR_OPS") == payload
    cell = msg["attrs"][0].cell[1]
    with pytest.raises(NetlinkDecodeError):
        cell.decode()


def test_encapsulation_without_end():
    """pyroute2 looks for RTA_ENCAP_TYPE for ever when an attribute has length 0."""
    payload = attr(22, b"", 0) + attr(1, bytes(4))
    data = header(28 + len(payload), 24) + b"\2" + bytes(11) + payload
    msg = parse(marshal_of(_24=rtmsg), data)[0]
    assert [slot.name for slot in msg["attrs"]] == ["RTA_ENCAP", "RTA_DST"]


def test_loops_of_pyroute2_end_where_its_own_code_decodes():
    """In what is cut off, in a class with a decode() of its own, in a copy and in what cannot be imitated."""
    class own(nla):
        nla_map = ((1, "INNER", "*inner"),)

        class inner(nla):
            fields = (("value", "I"),)

            def decode(self):
                nla.decode(self)
                self.data[self.offset + 4 : self.offset + 8]

    class strange(own):
        def get_attr(self, attr, default=None):
            return own.get_attr(self, attr, default)

        def decode(self):
            own.decode(self)
            assert self["attrs"][0].value is not None

    names = ((1, "OWN", "own"), (2, "STRANGE", "strange"), (3, "ARRAY", "*uint32"))
    carrier = type("carrier", (nlmsg,), {"nla_map": names, "own": own, "strange": strange})
    good = header(28, 24) + b"\2" + bytes(11) + attr(1, b"\1\2\3\4") + bytes(28)
    good = header(len(good), 24) + good[16:]
    cut = header(28 + 40, 24) + b"\2" + bytes(11) + attr(22, b"", 0) + attr(1, bytes(4))
    msg = parse(marshal_of(_24=rtmsg), good + cut)[1]
    assert msg.get("dst") is None or msg.get("no such") is None
    stuck = attr(1, bytes(8) + attr(1, bytes(4)))
    for kind in (1, 2):
        payload = attr(kind, stuck)
        msg = parse(marshal_of(_24=carrier), header(16 + len(payload), 24) + payload)[0]
        look(msg)
        assert msg["attrs"][0].value is not None
    payload = attr(3, bytes(8))
    msg = parse(marshal_of(_24=carrier), header(16 + len(payload), 24) + payload)[0].copy()
    assert msg["attrs"][0].value == payload


def test_what_cannot_be_decoded_can_be_asked_for_any_number_of_times():
    payload = attr(6, b"")  # an index without its four bytes, at the end
    msg = parse(marshal_of(_24=rtmsg), header(28 + len(payload), 24) + b"\2" + bytes(11) + payload)[0].copy()
    for _ in range(5500):
        assert msg.get_attr("RTA_PRIORITY") == payload


def test_deep_nesting():
    """One level for each four bytes of a large datagram: found, not followed."""
    class deep(nlmsg):
        nla_map = ((1, "IN", "inner"),)

        class inner(nla):
            nla_map = ((1, "IN", "recursive"),)

    nested = b""
    for _ in range(8000):
        size = 4 + len(nested)
        nested = struct.pack("=HH", size, 1 | 0x8000) + nested
    data = header(16 + len(nested), 16) + nested
    msg = parse(marshal_of(_16=deep), data)[0]
    level = msg
    for _ in range(8000):
        attrs = level["attrs"]
        if not attrs:
            break
        level = attrs[0].value
        if not isinstance(level, dict):
            break
    del attrs, level
    try:
        msg.dump()
    except RecursionError:
        pass
    del msg


def test_many_attributes_take_time_in_proportion():
    def seconds(count: int) -> float:
        payload = attr(15, bytes(4)) * count
        msg = parse(marshal_of(_24=rtmsg), header(28 + len(payload), 24) + bytes(12) + payload)[0]
        started = time.perf_counter()
        assert msg.get_attr("RTA_OIF") is None
        assert len(msg["attrs"]) == count
        return time.perf_counter() - started

    seconds(10)
    seconds(7000)  # a datagram full of them: an hour if it were quadratic in anything slow


def test_error_without_a_code():
    with pytest.raises(NetlinkDecodeError):
        parse(MarshalRtnl, header(18, 2) + bytes(4))


@pytest.mark.parametrize("inner", [0, 3, 15, 16, 17, 36, 37, 5000, 0xFFFFFFFF])
def test_error_that_encloses_nonsense(inner):
    enclosed = struct.pack("=IHHII", inner, 24, 5, 7, 0) + bytes(4)
    data = header(20 + len(enclosed), 2, 0) + struct.pack("=i", -22) + enclosed
    for tail in (b"", b"\xff" * 64):
        msg = parse(MarshalRtnl, data + tail)[0]
        error = msg["header"]["error"]
        assert isinstance(error, NetlinkError)
        assert error.code == 22
        assert msg["header"]["errmsg"]["header"] == {
            "length": inner, "type": 24, "flags": 5, "sequence_number": 7, "pid": 0
        }  # fmt: skip


def test_error_code_out_of_range():
    data = header(36, 2, 0) + struct.pack("=i", -(1 << 31)) + header(16, 24)
    assert parse(MarshalRtnl, data)[0]["header"]["error"].code == 0x7FFFFFFF


def test_capped_error_with_text():
    """NLM_F_CAPPED leaves the request's payload out: pyroute2 never finds the text behind it."""
    tlvs = attr(1, b"no such thing\0") + attr(2, struct.pack("=I", 20))
    data = header(36 + len(tlvs), 2, 0x300) + struct.pack("=i", -19) + header(400, 24) + tlvs
    msg = parse(MarshalRtnl, data)[0]
    error = msg["header"]["error"]
    assert (error.code, error.args[1], error.offset) == (19, "no such thing", 20)
    assert msg.get_attr("NLMSGERR_ATTR_MSG") == "no such thing"
    assert msg["header"]["errmsg"]["header"]["length"] == 400


def test_error_names_the_attribute():
    request = header(36, 24, 5) + b"\2" + bytes(11) + attr(4, struct.pack("=I", 99))
    tlvs = attr(1, b"bad device\0") + attr(2, struct.pack("=I", 28))
    data = header(20 + len(request) + len(tlvs), 2, 0x200) + struct.pack("=i", -19) + request + tlvs
    error = parse(MarshalRtnl, data)[0]["header"]["error"]
    assert (error.attribute, error.offset, error.request["family"]) == ("RTA_OIF", 28, 2)


def test_dump_that_ends_with_a_code():
    out: list[Any] = []
    data = header(20, 3) + struct.pack("=i", -95)
    assert _codec.parse_dump(marshal_class(MarshalRtnl)(), data, out, 7) & 4
    assert out[-1]["header"]["error"].code == 95
    assert _codec.parse_dump(marshal_class(MarshalRtnl)(), header(20, 3, 0x12) + bytes(4), [], 7) == 3


def test_class_of_the_user_with_short_data():
    class mine(nlmsg):
        fields = (("a", "I"), ("b", ">H"))
        nla_map = (("X", "inner"),)

        class inner(nla):
            fields = (("value", "4I"),)

    data = header(24, 99) + bytes(8)
    assert parse(marshal_of(_99=mine), data)[0]["b"] == 0
    with pytest.raises(NetlinkDecodeError):
        parse(marshal_of(_99=mine), header(20, 99) + bytes(4))
    short = header(36, 99) + bytes(8) + attr(0, bytes(8))
    assert parse(marshal_of(_99=mine), short)[0]["attrs"][0].value == attr(0, bytes(8))


def test_wrong_types_are_refused():
    parser = marshal_class(MarshalRtnl)()
    with pytest.raises(TypeError):
        _codec.parse_dump(parser, "text", [], 7)
    with pytest.raises(TypeError):
        _codec.parse_dump(parser, b"", None, 7)
    with pytest.raises(TypeError):
        _codec.plan(dict)
    assert _codec.parse_dump(parser, memoryview(b""), [], 7) == 0
    assert _codec.parse_dump(parser, bytearray(header(28, 24) + bytes(12)), out := [], 7) == 0
    assert len(out) == 1


def test_fuzz_briefly():
    """The fuzzer itself, for some seconds; FASTNS_FUZZ_SECONDS for longer."""
    seconds = os.environ.get("FASTNS_FUZZ_SECONDS", "4")
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--seconds", seconds],
        check=False,
        capture_output=True,
        text=True,
        timeout=float(seconds) + 90,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_every_family_has_a_marshal():
    assert set(MARSHALS) >= {0, 4, 12, 16}
