"""What `get` gives where a message has a field and an attribute of one name: the attribute, which may be another thing."""

from __future__ import annotations

import ast
import struct

import pytest
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from test_source import SOURCES, TREE

from fastns.cli.messages import WIDENED, plain
from fastns.schema import MESSAGES, marshal_class, schema

PLACES = ("event", "header", "attrs", "state")  # of a message, beside the fields of its header

# Class and name. Of these the attributes in WIDENED say the same as the field, which has not the bits for all of it.
CLASHES = {
    ("ifaddrmsg", "flags"),  # IFA_FLAGS
    ("rtmsg", "table"),  # RTA_TABLE
    ("fibmsg", "table"),  # FRA_TABLE
    ("ndmsg", "ifindex"),  # NDA_IFINDEX: where a tunnel sends to, and not the device the entry is of
    ("ifinfmsg", "event"),  # IFLA_EVENT: the number of a notification inside the kernel, and not the message's type
}
OTHERS = {name for _, name in CLASHES} - WIDENED


def test_these_are_all() -> None:
    found = set()
    for cls in {*MarshalRtnl.msg_map.values(), *MESSAGES.values()}:
        known = schema(cls)
        fields = {*PLACES, *(field.name for field in known.fields or ())}
        attributes = {name.removeprefix(known.prefix or "").lower() for name in known.names}
        found |= {(cls.__name__, name) for name in fields & attributes}
    assert found == CLASHES


@pytest.mark.parametrize("path", [p for p in SOURCES if p.suffix == ".py"], ids=lambda p: str(p.relative_to(TREE)))
def test_nothing_asks_for_the_other_one(path) -> None:
    """`get` of such a name; and of a message's own place, which has no attribute today."""
    calls = [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("get", "get_nested")
        and any(isinstance(arg, ast.Constant) and arg.value in OTHERS for arg in node.args)
    ]
    assert calls == []


def neighbour(ifindex: int, via: int) -> object:
    body = struct.pack("=BxxxiHBB", 7, ifindex, 0x80, 2, 0) + struct.pack("=HHI", 8, 8, via)
    (msg,) = marshal_class(MarshalRtnl)().parse(struct.pack("=IHHII", 16 + len(body), 28, 0, 0, 0) + body)
    assert isinstance(msg, ndmsg)
    return msg


def test_json_has_both() -> None:
    data = plain(neighbour(3, 9))
    assert (data["ifindex"], data["nda_ifindex"]) == (3, 9)
