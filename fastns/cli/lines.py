"""What `fastns load` reads: lines as `ip -batch` takes them, and JSON lines, into the items of a batch.

The words and their meaning are those of ip-route(8), ip-address(8), ip-link(8), ip-neighbour(8) and ip-rule(8), with
the defaults of `ip` where pyroute2 has others. What is not known here is refused by name, never left out.
"""

from __future__ import annotations

import json
import shlex
import socket
from typing import TYPE_CHECKING, Any

from pyroute2.netlink.rtnl.rtmsg import RTNH_F_ONLINK

from fastns.cli.link_lines import link
from fastns.cli.vocabulary import (
    ADDRESS_FLAGS,
    FIB_RULE_INVERT,
    NEIGHBOUR_FLAGS,
    NEIGHBOUR_STATES,
    PROTOCOLS,
    ROUTE_TYPES,
    RULE_ACTIONS,
    SCOPES,
    TABLES,
)
from fastns.cli.words import BITS, INET, INET6, Prefix, Words, address, number, prefix

if TYPE_CHECKING:
    from fastns.cli.words import Lookup

Item = tuple[str, str, dict[str, Any]]

ROUTE_METRICS = (
    "mtu advmss window rtt rttvar ssthresh cwnd initcwnd initrwnd hoplimit reordering quickack".split()
)
FOREVER = 0xFFFFFFFF  # seconds: INFINITY_LIFE_TIME of the kernel's addresses

OBJECTS = "address route rule neighbor neighbour link".split()
COMMANDS = {
    "route": "add append change delete replace".split(),
    "address": "add delete replace".split(),
    "link": "add delete set".split(),
    "neighbor": "add change delete replace".split(),
    "rule": "add delete".split(),
}
METHODS = {"address": "addr", "neighbour": "neigh", "neighbor": "neigh"}
DEVICES = ("oif", "iif", "index", "ifindex", "link", "master", "vxlan_link")


# Lines


def parse(text: str, lookup: Lookup) -> Item | None:
    """The item a line asks for, None for an empty line or a comment. ValueError for what is not understood.

    `lookup` gives the index of a device, or raises ValueError.
    """
    text = text.strip()
    if not text or text[0] == "#":
        return None
    if text[0] in "[{":
        return parse_json(text, lookup)
    if any(c in text for c in "\"'\\#"):
        split = shlex.split(text, comments=True)
    else:
        split = text.split()
    words = Words(split, lookup)
    if words.peek() == "ip":
        words.at += 1
    family = 0
    while (words.peek() or "").startswith("-"):
        option = words.take("option")
        if option not in ("-4", "-6"):
            raise ValueError(f"option {option!r} is neither -4 nor -6")
        family = INET if option == "-4" else INET6
    what = words.command("object", OBJECTS)
    what = "neighbor" if what == "neighbour" else what
    command = words.command(what, COMMANDS[what])
    arguments = PARSERS[what](words, command, family)
    return METHODS.get(what, what), "del" if command == "delete" else command, arguments


def parse_json(text: str, lookup: Lookup) -> Item:
    """`["route", "add", {"dst": "10.0.0.0/8", "oif": "eth0"}]`: method, command and arguments as for a handle.

    Devices may stand by their name where pyroute2 wants an index.
    """
    try:
        item = json.loads(text)
    except RecursionError:
        raise ValueError("the line is nested too deep") from None
    if not (isinstance(item, list) and len(item) == 3 and isinstance(item[2], dict)):
        raise ValueError('a JSON line is ["method", "command", {arguments}]')
    method, command, arguments = item
    if method not in ("link", "addr", "route", "rule", "neigh", "fdb", "tc", "vlan_filter", "brport"):
        raise ValueError(f"{method!r} is no method of a batch")
    if not isinstance(command, str):
        raise ValueError(f"the command {command!r} is no text")
    hops = arguments.get("multipath")
    for hop in [arguments, *(h for h in hops if isinstance(h, dict))] if isinstance(hops, list) else [arguments]:
        for key in DEVICES:
            if isinstance(hop.get(key), str):
                hop[key] = lookup(hop[key])
    return method, command, arguments


def route(words: Words, command: str, family: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    metrics: dict[str, int] = {}
    hops: list[dict[str, Any]] = []
    kind = "unicast"
    target = words.take("route")
    if target in ROUTE_TYPES:
        kind = target
        target = words.take(kind)
    elif target == "to":
        target = words.take("to")
    dst = prefix(target, "route", family)
    family = dst.family
    while words.more():
        word = words.take("")
        if hop_word(words, word, found, family):
            pass
        elif word == "table":
            found["table"] = words.named("table", TABLES, "RtTablesFile", 1 << 32)
        elif word in ("metric", "priority", "preference"):
            found["priority"] = words.number(word)
        elif word in ("proto", "protocol"):
            found["proto"] = words.named(word, PROTOCOLS, "RtProtosFile")
        elif word == "scope":
            found["scope"] = words.named("scope", SCOPES, "RtScopesFile")
        elif word == "src":
            found["prefsrc"] = address(words.take("src"), "src", family)[1]
        elif word in ("tos", "dsfield"):
            found["tos"] = words.named(word, {}, "RtDsfieldFile")
        elif word == "nhid":
            found["nh_id"] = words.number("nhid")
        elif word in ROUTE_METRICS:
            metrics[word] = words.number(word)
        elif word == "nexthop":
            hops.append(next_hop(words, family))
        else:
            words.unknown(word, "route")
    gateways = [found.get("gateway"), *(hop.get("gateway") for hop in hops)]
    family = family or next((INET6 if ":" in g else INET for g in gateways if g), INET)
    if dst.address is not None:
        found["dst"] = dst.address
        found["dst_len"] = BITS[family] if dst.length is None else dst.length
    found["family"] = family
    if metrics:
        found["metrics"] = metrics
    if hops:
        found["multipath"] = hops
    indirect = "gateway" in found or "via" in found or "nh_id" in found or hops
    if command == "delete":
        defaults = {"proto": 0, "scope": SCOPES["nowhere"] if family == INET else 0}
        found["type"] = "unspec" if kind == "unicast" else kind
    else:
        defaults = {"proto": PROTOCOLS["boot"], "scope": 0}
        found["type"] = kind
        on_link = kind in ("broadcast", "multicast", "anycast") or (kind == "unicast" and not indirect)
        if family == INET and on_link:
            defaults["scope"] = SCOPES["link"]
    if family == INET and kind in ("local", "nat"):
        defaults["scope"] = SCOPES["host"]
    local = kind in ("local", "broadcast", "nat", "anycast")
    return {"table": TABLES["local" if local else "main"], **defaults, **found}


def hop_word(words: Words, word: str, found: dict[str, Any], family: int) -> bool:
    """What a route and each of its next hops may have."""
    if word == "via":
        gateway(words, found, family)
    elif word == "dev":
        found["oif"] = words.device("dev")
    elif word == "onlink":
        found["flags"] = RTNH_F_ONLINK
    else:
        return False
    return True


def gateway(words: Words, found: dict[str, Any], family: int) -> None:
    word = words.take("via")
    wanted = {"inet": INET, "inet6": INET6}.get(word, 0)
    if wanted:
        word = words.take(word)
    its_family, text = address(word, "via", wanted)
    if family and its_family != family:
        if not wanted:
            raise ValueError(f"via: {word!r} is an address of the other family")
        found["via"] = {"family": its_family, "addr": text}
    else:
        found["gateway"] = text


def next_hop(words: Words, family: int) -> dict[str, Any]:
    hop: dict[str, Any] = {}
    while words.peek() not in (None, "nexthop"):
        word = words.take("")
        if hop_word(words, word, hop, family):
            pass
        elif word == "weight":
            hop["hops"] = number(words.take("weight"), "weight", 257) - 1
            if hop["hops"] < 0:
                raise ValueError("weight: 0 is less than 1")
        else:
            words.unknown(word, "nexthop")
    return hop


def addr(words: Words, command: str, family: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    local: Prefix | None = None
    peer: Prefix | None = None
    broadcast = scope = None
    flags = 0
    while words.more():
        word = words.take("")
        if word in ("peer", "remote"):
            peer = prefix(words.take(word), word, family)
        elif word in ("brd", "broadcast"):
            broadcast = words.take(word)
        elif word == "anycast":
            found["anycast"] = address(words.take(word), word, family)[1]
        elif word == "label":
            found["label"] = words.take("label")
        elif word == "scope":
            scope = words.named("scope", SCOPES, "RtScopesFile")
        elif word == "dev":
            found["index"] = words.device("dev")
        elif word in ("valid_lft", "preferred_lft"):
            value = words.take(word)
            found[word] = FOREVER if value == "forever" else number(value, word)
        elif word in ("metric", "priority"):
            found["rt_priority"] = words.number(word)
        elif word in ADDRESS_FLAGS:
            flags |= ADDRESS_FLAGS[word]
        elif local is None:
            local = prefix(words.take(word) if word == "local" else word, "address", family)
        else:
            words.unknown(word, "address")
    if local is None or local.address is None:
        raise ValueError("address: which one?")
    if "index" not in found:
        raise ValueError("address: dev is missing")
    if peer is not None and peer.family != local.family:
        raise ValueError("peer: an address of the other family")
    bits = BITS[local.family]
    shown = peer if peer is not None else local
    found["prefixlen"] = bits if shown.length is None else shown.length
    found["address"] = shown.address
    if local.family == INET or peer is not None:
        found["local"] = local.address
    if broadcast is not None:
        found["broadcast"] = broadcast_address(broadcast, local.address, found["prefixlen"], local.family)
    if scope is None and command != "delete":
        loopback = local.family == INET and local.address.startswith("127.")
        scope = SCOPES["host"] if loopback else 0
    if scope is not None:
        found["scope"] = scope
    if flags:
        found["flags"] = flags
    found["family"] = local.family
    return found


def broadcast_address(word: str, local: str, length: int, family: int) -> str:
    if word not in ("+", "-"):
        return address(word, "broadcast", family)[1]
    if family != INET or length > 30:
        raise ValueError(f"broadcast: no {word} for a prefix of {length} bits")
    host = (1 << (32 - length)) - 1
    network = int.from_bytes(socket.inet_aton(local), "big") & ~host
    return socket.inet_ntoa((network | (host if word == "+" else 0)).to_bytes(4, "big"))


def neigh(words: Words, command: str, family: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    flags = 0
    while words.more():
        word = words.take("")
        if word == "lladdr":
            found["lladdr"] = words.take("lladdr")
        elif word == "dev":
            found["ifindex"] = words.device("dev")
        elif word in ("nud", "state"):
            found["state"] = NEIGHBOUR_STATES[words.one_of(word, list(NEIGHBOUR_STATES))]
        elif word in NEIGHBOUR_FLAGS:
            flags |= NEIGHBOUR_FLAGS[word]
            if word == "proxy" and words.peek() not in (None, "dev"):
                found["family"], found["dst"] = address(words.take("proxy"), "proxy", family)
        elif "dst" not in found:
            found["family"], found["dst"] = address(
                words.take("to") if word == "to" else word, "neighbour", family
            )
        else:
            words.unknown(word, "neighbour")
    for key, name in (("dst", "the address"), ("ifindex", "dev")):
        if key not in found:
            raise ValueError(f"neighbour: {name} is missing")
    if flags:
        found["flags"] = flags
    if command == "delete":
        found.setdefault("state", 0)
    return found


def rule(words: Words, command: str, family: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while words.more():
        word = words.take("")
        if word in ("from", "to"):
            key = "src" if word == "from" else "dst"
            given = prefix(words.take(word), word, family)
            family = given.family
            if given.address is not None:
                found[key] = given.address
                found[f"{key}_len"] = BITS[family] if given.length is None else given.length
        elif word in ("iif", "dev", "oif"):
            found["oifname" if word == "oif" else "iifname"] = words.take(word)
        elif word == "fwmark":
            mark, slash, mask = words.take("fwmark").partition("/")
            found["fwmark"] = number(mark, "fwmark")
            if slash:
                found["fwmask"] = number(mask, "fwmark")
        elif word in ("pref", "priority", "preference", "order"):
            found["priority"] = words.number(word)
        elif word in ("table", "lookup"):
            found["table"] = words.named(word, TABLES, "RtTablesFile", 1 << 32)
        elif word in ("tos", "dsfield"):
            found["tos"] = words.named(word, {}, "RtDsfieldFile")
        elif word == "not":
            found["flags"] = FIB_RULE_INVERT
        elif word in RULE_ACTIONS or (word == "type" and words.peek() in RULE_ACTIONS):
            found["action"] = RULE_ACTIONS[words.take("type") if word == "type" else word]
        elif word != "unicast":
            words.unknown(word, "rule")
    found["family"] = family or INET
    if command != "delete" and "action" not in found:
        found.setdefault("table", TABLES["main"])
    return found


PARSERS = {"route": route, "address": addr, "link": link, "neighbor": neigh, "rule": rule}
