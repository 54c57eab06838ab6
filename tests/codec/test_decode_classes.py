"""Generated messages of every class of the installed pyroute2 decode as pyroute2 decodes them.

FASTNS_EXAMPLES says how many per class.
"""

from __future__ import annotations

import functools
import logging
import random
import traceback
from typing import Any, Iterator

import pyroute2.netlink
import pytest
import rawmessages as wire
from compare import Finite, look, same
from hypothesis import HealthCheck, given, reject, settings
from pyroute2.netlink import nla, nlmsg, nlmsg_base
from pyroute2.netlink.exceptions import NetlinkDecodeError
from pyroute2.netlink.marshal import Marshal
from strategies import contents, fill, message_classes

from fastns.schema import lazy_class, marshal_class, schema

EXAMPLES = settings().max_examples
KIND = 0x40
CLASSES = wire.classes()


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """pyroute2 logs a traceback of each attribute that it cannot decode, and keeps each attribute's header."""
    monkeypatch.setattr(traceback, "format_exc", str)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    pyroute2.netlink.cache_hdr.clear()


@functools.cache
def message_class(cls: type[nlmsg_base]) -> type[nlmsg_base]:
    """A message class as it is; an attribute class inside a message that has it once and as an array."""
    if cls.header == nlmsg.header and not cls.is_nla:
        return cls

    class carrier(nlmsg):
        fields = (("family", "B"), ("pad", "3x"))
        nla_map = ((1, "CARRIED", "carried"), (2, "CARRIED_ARRAY", "*carried"), (3, "NEXT", "uint32"))
        carried = cls

    return carrier


@functools.cache
def marshals(cls: type[nlmsg_base]) -> tuple[Any, Any]:
    theirs = type("marshal", (Marshal,), {"msg_map": {KIND: message_class(cls)}})
    return marshal_class(theirs)(), theirs()


def check(cls: type[nlmsg_base], data: bytes) -> None:
    ours, theirs = marshals(cls)
    error = None
    finite = Finite(data)
    try:
        expected = [look(msg) for msg in theirs.parse(finite)]
    except Exception as failure:
        error = failure
    try:
        seen = [look(msg) for msg in ours.parse(data)]
    except Exception as failure:
        assert error is not None, f"raises {failure!r}"
        assert isinstance(failure, (NetlinkDecodeError, type(error)))
        return
    if error is not None or finite.endless:
        # pyroute2 gives up on the whole datagram; keeping what can be read of it is no worse
        return
    same(seen, expected)
    for index, msg in enumerate(theirs.parse(Finite(data))):
        lazily(ours, data, index, msg)


def lazily(ours: Any, data: bytes, index: int, theirs: Any) -> None:
    """Reading one thing of an unread message, a different one each time, gives what is there when all is read."""
    own = random.Random(data)
    key = own.choice([*theirs, "no_such_key"])
    if key != "attrs":
        msg = list(ours.parse(data))[index]
        same(look(msg.get(key)), look(theirs.get(key)), f"get({key!r})")
        msg = list(ours.parse(data))[index]
        assert (key in msg) is (key in theirs)
        if key in theirs and key != "header":
            msg = list(ours.parse(data))[index]
            same(look(msg[key]), look(theirs[key]), repr(key))
    if theirs.get("attrs"):
        name = own.choice(theirs["attrs"])[0]
        msg = list(ours.parse(data))[index]
        same(look(msg.get_attr(name)), look(theirs.get_attr(name)), name)


@pytest.mark.parametrize("cls", CLASSES, ids=[f"{c.__module__[9:]}.{c.__qualname__}" for c in CLASSES])
def test_generated(cls, rng):
    for _ in range(EXAMPLES):
        seed = rng.getrandbits(64)
        own = random.Random(seed)
        carrier = message_class(cls)
        if carrier is cls:
            data = wire.message(own, cls, KIND)
        else:
            body = wire.fields(own, carrier)
            for _ in range(own.randrange(1, 3)):
                # without a header pyroute2 never gets to an array's end
                array = own.random() < 0.25 and cls.header is not None
                body += wire.attribute(own, 2 if array else 1, wire.payload(own, cls, 1, array)[:40000])
            body += wire.attribute(own, 3, own.randbytes(4))
            data = (16 + len(body)).to_bytes(4, "little") + KIND.to_bytes(2, "little") + bytes(10) + body
        try:
            check(cls, data)
        except AssertionError:
            print(f"seed {seed}, {data.hex()}")
            raise


@pytest.mark.parametrize("cls", message_classes(), ids=lambda cls: f"{cls.__module__[17:]}-{cls.__qualname__}")
def test_encoded_by_pyroute2(cls):
    @settings(suppress_health_check=[HealthCheck.filter_too_much])
    @given(contents(cls))
    def run(content):
        msg = fill(cls(), content)
        try:
            msg.encode()
        except Exception:
            reject()
        data = bytearray(msg.data)
        data[4:6] = KIND.to_bytes(2, "little")
        check(cls, bytes(data))

    run()


def test_most_classes_are_native():
    """A new function of pyroute2's that is not recognised makes nothing wrong, only slow: notice it here."""
    native = [cls for cls in CLASSES if schema(cls).decode != "python"]
    assert len(native) > 0.7 * len(CLASSES)
    assert lazy_class(nla) is not None
