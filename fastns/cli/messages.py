"""What `fastns monitor` writes of a netlink message: one line of text, or plain data for JSON."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from pyroute2.netlink.rtnl import TC_H_ROOT
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOWER_UP, IFF_UP

from fastns.cli.vocabulary import (
    NEIGHBOUR_FLAGS,
    NEIGHBOUR_STATES,
    PROTOCOLS,
    ROUTE_TYPES,
    RULE_ACTIONS,
    SCOPES,
    TABLES,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Device = Callable[[int], str]
    Segments = list[tuple[str, str]]  # text and its style

STATE_NAMES = {number: name.upper() for name, number in NEIGHBOUR_STATES.items() if number}
TABLE_NAMES = {number: name for name, number in TABLES.items()}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
SCOPE_NAMES = {number: name for name, number in reversed(SCOPES.items())}
TYPE_NAMES = {number: name for name, number in ROUTE_TYPES.items()}
ACTION_NAMES = {number: name for name, number in RULE_ACTIONS.items()}


def segments(msg: Any, device: Device) -> Segments:
    """What the message is about, in the words of `ip`. `device` names an index."""
    event = msg["event"]
    kind = event.partition("_")[2].lower().removeprefix("new").removeprefix("del").removeprefix("get")
    describe = DESCRIBED.get(kind)
    if describe is None:
        return [(event, "bold")]
    return [(f"{kind:<7} ", "bold"), *describe(msg, device)]


def words(*pairs: tuple[str, Any]) -> str:
    """" name value" of each pair that has a value."""
    return "".join(f" {name} {value}" if name else f" {value}" for name, value in pairs if value not in (None, ""))


def link(msg: Any, device: Device) -> Segments:
    flags = msg["flags"]
    up = flags & IFF_UP
    state = "UP" if up and flags & IFF_LOWER_UP else "UP, no carrier" if up else "DOWN"
    info = msg.get("linkinfo")
    kind = info.get_attr("IFLA_INFO_KIND") if info is not None else None
    master = msg.get("master")
    rest = words(
        ("", kind),
        ("mtu", msg.get("mtu")),
        ("master", device(master) if master else None),
        ("", msg.get("address")),
        ("alias", msg.get("ifalias")),
    )
    name = msg.get("ifname") or f"if{msg['index']}"
    return [(name, "bold cyan"), (f" #{msg['index']} ", ""), (state, "green" if up else "red"), (rest, "")]


def addr(msg: Any, device: Device) -> Segments:
    local, address = msg.get("local"), msg.get("address")
    peer = address if local and address != local else None
    rest = words(
        ("peer", peer),
        ("dev", device(msg["index"])),
        ("scope", SCOPE_NAMES.get(msg["scope"], msg["scope"])),
        ("label", msg.get("label")),
    )
    return [(f"{local or address}/{msg['prefixlen']}", "bold cyan"), (rest, "")]


def hop(msg: Any, device: Device) -> str:
    via = msg.get("via")
    oif = msg.get("oif")
    return words(
        ("via", msg.get("gateway") or (via.get("addr") if isinstance(via, dict) else None)),
        ("dev", device(oif) if oif else None),
    )


def route(msg: Any, device: Device) -> Segments:
    dst = msg.get("dst")
    target = f"{dst}/{msg['dst_len']}" if dst else "default"
    kind = TYPE_NAMES.get(msg["type"], str(msg["type"]))
    table = msg.get("table") or msg["table"]
    hops = msg.get("multipath") or ()
    several = "".join(
        f" nexthop{words(('via', h.get_attr('RTA_GATEWAY')), ('dev', device(h['oif'])), ('weight', h['hops'] + 1))}"
        for h in hops
    )
    rest = words(
        ("nhid", msg.get("nh_id")),
        ("table", None if table == TABLES["main"] else TABLE_NAMES.get(table, table)),
        ("proto", PROTOCOL_NAMES.get(msg["proto"], msg["proto"])),
        ("src", msg.get("prefsrc")),
        ("metric", msg.get("priority")),
    )
    kinds = [] if kind == "unicast" else [(f"{kind} ", "yellow")]
    return [*kinds, (target, "bold cyan"), (hop(msg, device) + several + rest, "")]


def neigh(msg: Any, device: Device) -> Segments:
    state = STATE_NAMES.get(msg["state"], "")
    rest = words(("dev", device(msg["ifindex"])), ("lladdr", msg.get("lladdr")), ("", state))
    proxy = " proxy" if msg["flags"] & NEIGHBOUR_FLAGS["proxy"] else ""
    return [(msg.get("dst") or msg.get("lladdr") or "", "bold cyan"), (rest + proxy, "")]


def rule(msg: Any, device: Device) -> Segments:
    table = msg.get("table") or msg["table"]
    src, dst = msg.get("src"), msg.get("dst")
    rest = words(
        ("", "inet6" if msg["family"] == socket.AF_INET6 else None),
        ("from", f"{src}/{msg['src_len']}" if src else "all"),
        ("to", f"{dst}/{msg['dst_len']}" if dst else None),
        ("iif", msg.get("iifname")),
        ("oif", msg.get("oifname")),
        ("fwmark", msg.get("fwmark")),
        ("lookup", TABLE_NAMES.get(table, table) if msg["action"] == FR_ACT_TO_TBL else None),
        ("", ACTION_NAMES.get(msg["action"])),
    )
    return [(f"{msg.get('priority') or 0}:", "bold cyan"), (rest, "")]


def nexthop(msg: Any, device: Device) -> Segments:
    members = [f"{m['id']},{m['weight']}" if m["weight"] > 1 else str(m["id"]) for m in msg.get("group") or ()]
    bucket = msg.get("res_bucket")
    owner = bucket.get("nh_id") if bucket is not None else None
    rest = words(
        ("group", "/".join(members)),
        ("bucket", bucket.get("index") if bucket is not None else None),
        ("nhid", owner),
        ("", "blackhole" if msg.get("blackhole") else None),
        ("proto", PROTOCOL_NAMES.get(msg["protocol"], msg["protocol"]) if msg["protocol"] else None),
        ("", "fdb" if msg.get("fdb") else None),
    )
    return [(f"id {msg.get('id')}", "bold cyan"), (hop(msg, device) + rest, "")]


def handle(number: int) -> str:
    return "root" if number == TC_H_ROOT else f"{number >> 16:x}:" + (f"{number & 0xFFFF:x}" if number & 0xFFFF else "")


def traffic(msg: Any, device: Device) -> Segments:
    rest = words(
        ("dev", device(msg["index"])), ("handle", handle(msg["handle"])), ("parent", handle(msg["parent"]))
    )
    return [(str(msg.get("kind") or ""), "bold cyan"), (rest, "")]


def chain(msg: Any, device: Device) -> Segments:
    rest = words(("dev", device(msg["index"])), ("parent", handle(msg["parent"])), ("", msg.get("kind")))
    return [(str(msg.get("chain")), "bold cyan"), (rest, "")]


def nsid(msg: Any, device: Device) -> Segments:
    return [(str(msg.get("nsid")), "bold cyan")]


DESCRIBED: dict[str, Callable[[Any, Device], Segments]] = {
    "link": link,
    "addr": addr,
    "route": route,
    "neigh": neigh,
    "rule": rule,
    "nexthop": nexthop,
    "nexthopbucket": nexthop,
    "qdisc": traffic,
    "tclass": traffic,
    "tfilter": traffic,
    "chain": chain,
    "nsid": nsid,
}

LEFT_OUT = ("attrs", "header", "value", "event", "__align")
WIDENED = {"table", "flags"}  # attributes that are there because the field of that name is too narrow


def plain(value: Any) -> Any:
    """The message for JSON: fields and attributes beside each other, names as `msg.get` knows them, bytes as hex.

    An attribute named as a field (NDA_IFINDEX) has its full name. Attributes that are not known are left out.
    """
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, dict):
        found = {key: plain(value[key]) for key in value if key not in LEFT_OUT}
        fields = found.keys() - WIDENED
        for slot in value.get("attrs") or ():
            name, data = slot[0], slot[1]
            if name == "UNKNOWN":
                continue
            prefix = getattr(value, "prefix", None) or ""
            key = (name[len(prefix) :] if prefix and name.startswith(prefix) else name).lower()
            found[name.lower() if key in fields else key] = plain(data)
        return found
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
