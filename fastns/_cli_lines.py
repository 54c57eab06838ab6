"""Lines as `ip -batch` takes them, and JSON lines, into the items of a batch.

The words and their meaning are those of ip-route(8), ip-address(8), ip-link(8), ip-neighbour(8) and ip-rule(8), with
the defaults of `ip` where pyroute2 has others. What is not known here is refused by name, never left out.
"""

from __future__ import annotations

import json
import shlex
import socket
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Lookup = Callable[[str], int]

Item = tuple[str, str, dict[str, Any]]

INET, INET6 = int(socket.AF_INET), int(socket.AF_INET6)
BITS = {INET: 32, INET6: 128}

# linux/rtnetlink.h
SCOPES = {"global": 0, "universe": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
PROTOCOLS = {"unspec": 0, "redirect": 1, "kernel": 2, "boot": 3, "static": 4, "ra": 9}
TABLES = {"unspec": 0, "default": 253, "main": 254, "local": 255}
TYPES = "unicast local broadcast anycast multicast blackhole unreachable prohibit throw nat".split()
ROUTE_METRICS = (
    "mtu advmss window rtt rttvar ssthresh cwnd initcwnd initrwnd hoplimit reordering quickack".split()
)
RULE_ACTIONS = {"blackhole": 6, "unreachable": 7, "prohibit": 8}  # linux/fib_rules.h
NUD = "incomplete reachable stale delay probe failed noarp permanent none".split()
NTF = {"use": 1, "proxy": 8, "extern_learn": 16, "router": 128}  # linux/neighbour.h
LINK_FLAGS = {"promisc": 0x100, "allmulticast": 0x200, "multicast": 0x1000, "arp": 0x80}  # net/if.h
IFA_FLAGS = {"nodad": 0x02, "home": 0x10, "mngtmpaddr": 0x100, "noprefixroute": 0x200}  # linux/if_addr.h
BOND_MODES = "balance-rr active-backup balance-xor broadcast 802.3ad balance-tlb balance-alb".split()

OBJECTS = "address route rule neighbor neighbour link".split()
COMMANDS = {
    "route": "add append change delete replace".split(),
    "address": "add delete replace".split(),
    "link": "add delete set".split(),
    "neighbor": "add change delete replace".split(),
    "rule": "add delete".split(),
}
SPOKEN = {"address": "addr", "neighbour": "neigh", "neighbor": "neigh"}
DEVICES = ("oif", "iif", "index", "ifindex", "link", "master", "vxlan_link")


class Words:
    """The words of a line, taken one after the other."""

    def __init__(self, words: list[str], lookup: Lookup) -> None:
        self.words = words
        self.at = 0
        self.lookup = lookup

    def more(self) -> bool:
        return self.at < len(self.words)

    def take(self, after: str) -> str:
        """The next word, which belongs to the one named."""
        if self.at == len(self.words):
            raise ValueError(f"{after}: the value is missing")
        self.at += 1
        return self.words[self.at - 1]

    def peek(self) -> str | None:
        return self.words[self.at] if self.more() else None

    def number(self, after: str, limit: int = 1 << 32) -> int:
        return number(self.take(after), after, limit)

    def device(self, after: str) -> int:
        return self.lookup(self.take(after))

    def named(self, after: str, names: dict[str, int], file: str = "", limit: int = 256) -> int:
        """A number by its name: one of those given, or of iproute2's file."""
        word = self.take(after)
        if word in names:
            return names[word]
        if word[:1].isdigit():
            return number(word, after, limit)
        found = rt_file(file).get(word) if file else None
        if found is None:
            raise ValueError(f"{after}: {word!r} is not known")
        return found

    def switch(self, after: str) -> bool:
        return {"on": True, "off": False}[self.one_of(after, ["on", "off"])]

    def one_of(self, after: str, names: list[str]) -> str:
        word = self.take(after)
        if word not in names:
            raise ValueError(f"{after}: {word!r} is none of {', '.join(names)}")
        return word

    def command(self, what: str, names: list[str]) -> str:
        """The command, or the beginning of it."""
        word = self.take(what)
        for name in names:
            if name.startswith(word):
                return name
        raise ValueError(f"{what}: {word!r} is none of {', '.join(names)}")

    def unknown(self, word: str, what: str) -> NoReturn:
        raise ValueError(f"{what}: {word!r} is not known here")


@cache
def rt_file(name: str) -> dict[str, int]:
    """The names of a file of iproute2, empty where there is none."""
    from pyroute2.netlink import rt_files

    try:
        return dict(getattr(rt_files, name)().name2id)
    except (OSError, ValueError):
        return {}


def number(word: str, what: str, limit: int = 1 << 32) -> int:
    try:
        value = int(word, 0)
    except ValueError:
        raise ValueError(f"{what}: {word!r} is no number") from None
    if not 0 <= value < limit:
        raise ValueError(f"{what}: {word} is not between 0 and {limit - 1}")
    return value


class Prefix(NamedTuple):
    family: int  # 0: any
    address: str | None  # None: the default
    length: int | None  # None: not given


def address(word: str, what: str, family: int = 0) -> tuple[int, str]:
    """Family and text of an address, "10.1" being 10.1.0.0 as for `ip`."""
    found = INET6 if ":" in word else INET
    if family and found != family:
        raise ValueError(f"{what}: {word!r} is an address of the other family")
    text = word + ".0" * (3 - word.count(".")) if found == INET else word
    try:
        socket.inet_pton(found, text)
    except (OSError, ValueError):
        raise ValueError(f"{what}: {word!r} is no address") from None
    return found, text


def prefix(word: str, what: str, family: int = 0) -> Prefix:
    if word in ("default", "any", "all"):
        return Prefix(family, None, 0)
    text, slash, length = word.partition("/")
    family, text = address(text, what, family)
    if not slash:
        return Prefix(family, text, None)
    if family == INET and "." in length:
        mask = int.from_bytes(socket.inet_pton(INET, address(length, what, INET)[1]), "big")
        bits = bin(mask).count("1")
        if mask != (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF:
            raise ValueError(f"{what}: {length!r} is no network mask")
        return Prefix(family, text, bits)
    return Prefix(family, text, number(length, what, BITS[family] + 1))


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
    return SPOKEN.get(what, what), "del" if command == "delete" else command, arguments


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
    for hop in [arguments, *(h for h in arguments.get("multipath") or () if isinstance(h, dict))]:
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
    if target in TYPES:
        kind = target
        target = words.take(kind)
    elif target == "to":
        target = words.take("to")
    dst = prefix(target, "route", family)
    family = dst.family
    while words.more():
        word = words.take("")
        if word == "via":
            gateway(words, found, family)
        elif word == "dev":
            found["oif"] = words.device("dev")
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
        elif word == "onlink":
            found["flags"] = 4  # RTNH_F_ONLINK
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
        if word == "via":
            gateway(words, hop, family)
        elif word == "dev":
            hop["oif"] = words.device("dev")
        elif word == "weight":
            hop["hops"] = number(words.take("weight"), "weight", 257) - 1
            if hop["hops"] < 0:
                raise ValueError("weight: 0 is less than 1")
        elif word == "onlink":
            hop["flags"] = 4
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
            found[word] = 0xFFFFFFFF if value == "forever" else number(value, word)
        elif word in ("metric", "priority"):
            found["rt_priority"] = words.number(word)
        elif word in IFA_FLAGS:
            flags |= IFA_FLAGS[word]
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


def link(words: Words, command: str, family: int) -> dict[str, Any]:
    if command == "add":
        return link_add(words)
    name = words.take("link")
    found: dict[str, Any] = {"index": words.lookup(words.take("dev") if name == "dev" else name)}
    change = flags = 0
    while words.more():
        word = words.take("")
        if command == "delete":
            if word != "type":
                words.unknown(word, "link delete")
            words.take("type")
        elif word in ("up", "down"):
            change |= 1
            flags = flags | 1 if word == "up" else flags & ~1
        elif word in LINK_FLAGS:
            bit = LINK_FLAGS[word]
            change |= bit
            flags |= bit if words.switch(word) == (word != "arp") else 0
        elif word == "name":
            found["ifname"] = words.take("name")
        elif word == "alias":
            found["ifalias"] = words.take("alias")
        elif word in ("master", "vrf"):
            found["master"] = words.device(word)
        elif word == "nomaster":
            found["master"] = 0
        elif not common(words, word, found):
            words.unknown(word, "link set")
    if change:
        found["flags"], found["change"] = flags, change
    return found


def common(words: Words, word: str, found: dict[str, Any]) -> bool:
    """What a link, its peer and a new one may all have."""
    if word == "mtu":
        found["mtu"] = words.number("mtu")
    elif word in ("address", "lladdr"):
        found["address"] = words.take(word)
    elif word in ("txqueuelen", "txqlen", "qlen"):
        found["txqlen"] = words.number(word)
    elif word == "group":
        found["group"] = words.named("group", {"default": 0}, "GroupFile", 1 << 32)
    elif word == "netns":
        place = words.take("netns")
        if place.isdecimal():
            found["net_ns_pid"] = number(place, "netns", 1 << 31)
        else:
            found["net_ns_fd"] = place
    else:
        return False
    return True


def link_add(words: Words) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while words.more():
        word = words.take("")
        if word == "type":
            found["kind"] = words.take("type")
            kind_options(words, found["kind"], found)
        elif word == "link":
            found["link"] = words.device("link")
        elif word in ("name", "dev"):
            found["ifname"] = words.take(word)
        elif word == "index":
            found["index"] = words.number("index", 1 << 31)
        elif word in ("numtxqueues", "numrxqueues"):
            found[f"num_{word[3:5]}_queues"] = words.number(word)
        elif word == "up":
            found["flags"] = found["change"] = 1
        elif word == "master":
            found["master"] = words.device("master")
        elif not common(words, word, found):
            if "ifname" in found:
                words.unknown(word, "link add")
            found["ifname"] = word
    if "kind" not in found:
        raise ValueError("link add: type is missing")
    return found


def kind_options(words: Words, kind: str, found: dict[str, Any]) -> None:
    """Everything behind `type KIND`."""
    while words.more():
        word = words.take("")
        if kind == "veth" and word == "peer":
            found["peer"] = veth_peer(words)
        elif kind == "bridge" and word in BRIDGE:
            found[f"br_{word}"] = words.number(word)
        elif kind == "vlan" and word == "id":
            found["vlan_id"] = words.number("id", 4095)
        elif kind == "vlan" and word in ("protocol", "proto"):
            protocols = {"802.1q": 0x8100, "802.1ad": 0x88A8}
            found["vlan_protocol"] = protocols[words.one_of(word, list(protocols)).lower()]
        elif kind == "vxlan" and vxlan(words, word, found):
            pass
        elif kind in ("macvlan", "macvtap") and word == "mode":
            found[f"{kind}_mode"] = words.one_of("mode", "private vepa bridge passthru source".split())
        elif kind == "ipvlan" and word == "mode":
            found["ipvlan_mode"] = ["l2", "l3", "l3s"].index(words.one_of("mode", ["l2", "l3", "l3s"]))
        elif kind == "bond" and word == "mode":
            mode = words.take("mode")
            found["bond_mode"] = BOND_MODES.index(mode) if mode in BOND_MODES else number(mode, "mode", 7)
        elif kind == "bond" and word == "miimon":
            found["bond_miimon"] = words.number("miimon")
        elif kind == "vrf" and word == "table":
            found["vrf_table"] = words.named("table", TABLES, "RtTablesFile", 1 << 32)
        else:
            words.unknown(word, f"link add … type {kind}")


BRIDGE = (
    "forward_delay hello_time max_age ageing_time stp_state priority group_fwd_mask vlan_filtering "
    "vlan_default_pvid mcast_snooping mcast_querier"
).split()


def veth_peer(words: Words) -> dict[str, Any]:
    peer: dict[str, Any] = {}
    while words.more():
        word = words.take("")
        if word == "name":
            peer["ifname"] = words.take("name")
        elif not common(words, word, peer):
            if "ifname" in peer:
                words.unknown(word, "peer")
            peer["ifname"] = word
    return peer


def vxlan(words: Words, word: str, found: dict[str, Any]) -> bool:
    if word in ("id", "vni"):
        found["vxlan_id"] = words.number(word, 1 << 24)
    elif word in ("remote", "group", "local"):
        family, text = address(words.take(word), word)
        key = "local" if word == "local" else "group"
        found[f"vxlan_{key}" if family == INET else f"vxlan_{key}6"] = text
    elif word == "dev":
        found["vxlan_link"] = words.device("dev")
    elif word == "dstport":
        found["vxlan_port"] = words.number("dstport", 1 << 16)
    elif word == "ttl":
        found["vxlan_ttl"] = words.number("ttl", 256)
    elif word in ("learning", "nolearning"):
        found["vxlan_learning"] = int(word == "learning")
    else:
        return False
    return True


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
            state = words.one_of(word, NUD)
            found["state"] = 0 if state == "none" else 1 << NUD.index(state)
        elif word in NTF:
            flags |= NTF[word]
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
            found["flags"] = 2  # FIB_RULE_INVERT
        elif word in RULE_ACTIONS or (word == "type" and words.peek() in RULE_ACTIONS):
            found["action"] = RULE_ACTIONS[words.take("type") if word == "type" else word]
        elif word != "unicast":
            words.unknown(word, "rule")
    found["family"] = family or INET
    if command != "delete" and "action" not in found:
        found.setdefault("table", TABLES["main"])
    return found


PARSERS = {"route": route, "address": addr, "link": link, "neighbor": neigh, "rule": rule}
