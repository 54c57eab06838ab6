"""What answers a request, handed over datagram by datagram: no handle, no kernel."""

from __future__ import annotations

import errno
import types

import pytest
from fakekernel import done, route
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from fastns.engine.request import Conversation, Dump
from fastns.errors import NetlinkDumpInterrupted, NetlinkError
from fastns.schema import marshal_class

SEQ = 7
REFUSED = b"\x24\0\0\0\x02\0\0\0\x07\0\0\0\0\0\0\0" + (-errno.ENODEV).to_bytes(4, "little", signed=True) + bytes(16)


@pytest.fixture
def carrier():
    def interrupted():
        raise NetlinkDumpInterrupted()

    def failure(msg, factory):
        return NetlinkError(abs(msg["header"]["error"].code), "refused")

    marshal = marshal_class(MarshalRtnl)()
    return types.SimpleNamespace(marshal=marshal, target="here", interrupted=interrupted, failure=failure)


def fed(answer, datagrams):
    """What is submitted, and the messages, until it is over."""
    submitted, messages, source = [], [], iter(datagrams)
    for arguments in answer.rounds():
        submitted.append(arguments)
        while not answer.over:
            messages.extend(answer.take(next(source)))
    assert next(source, None) is None
    return submitted, [msg.get("dst") for msg in messages]


def test_a_dump_of_two_rounds(carrier):
    dump = Dump(carrier, [b"first", b"second"], SEQ, True, sent=True)
    parts = [route(SEQ, 2), done(SEQ), route(SEQ, 2, "11.0.0.0"), route(SEQ, 2, "12.0.0.0"), done(SEQ)]
    again = (b"second", SEQ, True, True)
    assert fed(dump, parts) == ([(), again], ["10.0.0.0", "11.0.0.0", "12.0.0.0"])
    dump.finish()
    assert fed(dump, [done(SEQ), done(SEQ)]) == ([(b"first", SEQ, True, True), again], [])


def test_a_dump_remembers_in_every_round_that_it_was_interrupted(carrier):
    dump = Dump(carrier, [b"first", b"second"], SEQ)
    fed(dump, [route(SEQ, 0x12), done(SEQ), done(SEQ)])
    with pytest.raises(NetlinkDumpInterrupted):
        dump.finish()
    fed(dump, [done(SEQ), done(SEQ)])
    dump.finish()


def test_what_a_filter_names_may_be_absent(carrier):
    assert fed(Dump(carrier, [b"request"], SEQ, True), [REFUSED])[1] == []
    with pytest.raises(NetlinkError):
        fed(Dump(carrier, [b"request"], SEQ), [REFUSED])


def test_a_conversation_is_over_when_its_answer_is_complete(carrier):
    assert fed(Conversation(carrier, SEQ), [route(SEQ, 0)]) == ([()], ["10.0.0.0"])
    assert fed(Conversation(carrier, SEQ), [route(SEQ, 2), done(SEQ)])[1] == ["10.0.0.0"]
    enough = Conversation(carrier, SEQ, lambda msg: msg.get("dst") == "11.0.0.0")
    assert fed(enough, [route(SEQ, 2), route(SEQ, 2, "11.0.0.0")])[1] == ["10.0.0.0", "11.0.0.0"]
    assert fed(Conversation(carrier, 0), [route(0, 2)])[1] == ["10.0.0.0"]


@pytest.mark.parametrize("noraise", [False, True])
def test_a_conversation_that_ends_in_an_error(carrier, noraise):
    conversation = Conversation(carrier, SEQ, noraise=noraise)
    assert fed(conversation, [route(SEQ, 2), REFUSED])[1] == ["10.0.0.0"]
    if noraise:
        conversation.finish()
    else:
        with pytest.raises(NetlinkError):
            conversation.finish()
