"""The lines about links that `fastns load` reads: ip-link(8)."""

from __future__ import annotations

from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP
from pyroute2.protocols import ETH_P_8021AD, ETH_P_8021Q

from fastns.cli.vocabulary import LINK_FLAGS, TABLES
from fastns.cli.words import INET, Words, address, number

VLAN_PROTOCOLS = {"802.1q": ETH_P_8021Q, "802.1ad": ETH_P_8021AD}
IPVLAN_MODES = ["l2", "l3", "l3s"]
BOND_MODES = "balance-rr active-backup balance-xor broadcast 802.3ad balance-tlb balance-alb".split()
BRIDGE = (
    "forward_delay hello_time max_age ageing_time stp_state priority group_fwd_mask vlan_filtering "
    "vlan_default_pvid mcast_snooping mcast_querier"
).split()


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
            change |= IFF_UP
            flags = flags | IFF_UP if word == "up" else flags & ~IFF_UP
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


def bare_name(words: Words, word: str, found: dict[str, Any], what: str) -> None:
    """The name of a new link may stand without `name` before it, once."""
    if "ifname" in found:
        words.unknown(word, what)
    found["ifname"] = word


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
            found["flags"] = found["change"] = IFF_UP
        elif word == "master":
            found["master"] = words.device("master")
        elif not common(words, word, found):
            bare_name(words, word, found, "link add")
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
            found["vlan_protocol"] = VLAN_PROTOCOLS[words.one_of(word, list(VLAN_PROTOCOLS)).lower()]
        elif kind == "vxlan" and vxlan(words, word, found):
            pass
        elif kind in ("macvlan", "macvtap") and word == "mode":
            found[f"{kind}_mode"] = words.one_of("mode", "private vepa bridge passthru source".split())
        elif kind == "ipvlan" and word == "mode":
            found["ipvlan_mode"] = IPVLAN_MODES.index(words.one_of("mode", IPVLAN_MODES))
        elif kind == "bond" and word == "mode":
            mode = words.take("mode")
            found["bond_mode"] = BOND_MODES.index(mode) if mode in BOND_MODES else number(mode, "mode", 7)
        elif kind == "bond" and word == "miimon":
            found["bond_miimon"] = words.number("miimon")
        elif kind == "vrf" and word == "table":
            found["vrf_table"] = words.named("table", TABLES, "RtTablesFile", 1 << 32)
        else:
            words.unknown(word, f"link add … type {kind}")


def veth_peer(words: Words) -> dict[str, Any]:
    peer: dict[str, Any] = {}
    while words.more():
        word = words.take("")
        if word == "name":
            peer["ifname"] = words.take("name")
        elif not common(words, word, peer):
            bare_name(words, word, peer, "peer")
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
