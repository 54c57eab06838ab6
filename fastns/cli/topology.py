"""What `fastns map` shows: the links of many namespaces, and which of them are two ends of the same thing.

A link's other end is a pair of numbers: IFLA_LINK, an index, and IFLA_LINK_NETNSID, an id that means something only
inside the link's own namespace (none: the same namespace). What an id means there is asked of the kernel, with
RTM_GETNSID inside that namespace for a descriptor of each that may be meant: `namespace_of_nsid`. Equal indexes in
several namespaces are the rule, so an index alone says nothing. rtnetlink(7), linux/net_namespace.h.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK, IFF_LOWER_UP, IFF_UP

from fastns import netns
from fastns.cli.base import explain, reference
from fastns.iproute import IPRoute, NetNS
from fastns.netns.discovery import process_namespaces
from fastns.pool import raise_descriptor_limit

SYMMETRIC = ("veth", "netkit")  # each end names the other; elsewhere the link is what the device sits on
DESCRIPTORS = 2  # of one namespace: the handle's socket, and the namespace itself


@dataclass(eq=False)
class Link:
    namespace: Namespace
    index: int
    name: str
    kind: str | None
    flags: int
    mtu: int | None
    address: str | None
    alias: str | None
    master: int | None
    link: int | None
    nsid: int | None
    addresses: list[str] = field(default_factory=list)
    peer: tuple[Namespace, Link] | None = None
    unknown_nsid: int | None = None

    @property
    def loopback(self) -> bool:
        return bool(self.flags & IFF_LOOPBACK)

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        return bool(self.flags & IFF_LOWER_UP)

    @property
    def has_outside_address(self) -> bool:
        return any(not address.startswith(("127.", "::1/")) for address in self.addresses)


@dataclass(eq=False)
class Namespace:
    number: int
    name: str
    identity: tuple[int, int] | None = None
    processes: int = 0
    error: str = ""
    links: list[Link] = field(default_factory=list)
    by_index: dict[int, Link] = field(default_factory=dict)
    handle: Any = None
    fd: int = -1
    by_nsid: dict[int, Namespace] = field(default_factory=dict)  # what ids mean in it, as far as it was asked
    asked: set[int] = field(default_factory=set)  # numbers of the namespaces whose id in it is known, or that have none


class World:
    def __init__(self, namespaces: list[Namespace]) -> None:
        self.namespaces = namespaces

    def plain(self) -> list[dict[str, Any]]:
        """For JSON."""
        return [
            {
                "name": namespace.name,
                "inode": namespace.identity[1] if namespace.identity else None,
                "processes": namespace.processes,
                "error": namespace.error or None,
                "links": [plain_link(link) for link in namespace.links],
            }
            for namespace in self.namespaces
        ]


def plain_link(link: Link) -> dict[str, Any]:
    master = link.namespace.by_index.get(link.master) if link.master is not None else None
    return {
        "index": link.index,
        "name": link.name,
        "kind": link.kind,
        "up": link.up,
        "carrier": link.carrier,
        "mtu": link.mtu,
        "address": link.address,
        "alias": link.alias,
        "addresses": link.addresses,
        "master": master.name if master is not None else None,
        "peer": {"netns": link.peer[0].name, "name": link.peer[1].name} if link.peer else None,
        "unknown_nsid": link.unknown_nsid,
    }


def look(names: tuple[str, ...]) -> World:
    """Everything of these namespaces; without names of all in the run directory and of the present one.

    A namespace that is removed meanwhile, or may not be entered, has its error instead of links.
    """
    listed = list(dict.fromkeys(names)) or [".", *sorted(netns.listnetns())]
    raise_descriptor_limit(DESCRIPTORS * len(listed) + 256)
    pids = Counter(key for _, key in process_namespaces())
    found: list[Namespace] = []
    try:
        for name in listed:
            namespace = Namespace(len(found), name)
            try:
                namespace.fd = netns.open_ref(reference(name))[0]
                stat = os.fstat(namespace.fd)
                namespace.identity = (stat.st_dev, stat.st_ino)
                namespace.processes = pids[namespace.identity]
                namespace.handle = open_handle(namespace)
                read_links(namespace)
            except FileNotFoundError:
                if name in names:
                    raise
                continue  # removed meanwhile
            except OSError as error:
                if name in names:
                    raise
                namespace.error = explain(OSError(error.errno, error.strerror))
            finally:
                found.append(namespace)
        known = unique(found)
        for namespace in known:
            connect(namespace, known)
        return World(known)
    finally:
        for namespace in found:
            if namespace.handle is not None:
                namespace.handle.close()
            if namespace.fd >= 0:
                os.close(namespace.fd)


def open_handle(namespace: Namespace) -> Any:
    """By the descriptor: the name may mean another namespace by now."""
    if namespace.name == ".":
        return IPRoute(transport="direct")
    return NetNS(namespace.fd, flags=0, transport="direct")


def unique(found: list[Namespace]) -> list[Namespace]:
    """One of each: the present namespace may have a name as well, which is then the one that is shown."""
    kept: dict[Any, Namespace] = {}
    for namespace in found:
        if namespace.fd < 0 and not namespace.error:
            continue
        key = namespace.identity or namespace.name
        if key not in kept or kept[key].name == ".":
            kept[key] = namespace
    return list(kept.values())


def read_links(namespace: Namespace) -> None:
    handle = namespace.handle
    for row in handle.table("link"):
        link = Link(
            namespace,
            row["index"],
            row["ifname"] or f"if{row['index']}",
            row["kind"],
            row["flags"],
            row["mtu"],
            str(row["address"]) if row["address"] is not None else None,
            row["ifalias"],
            row["master"] or None,
            row["link"] or None,
            row["link_netnsid"],
        )
        namespace.links.append(link)
        namespace.by_index[link.index] = link
    for row in handle.table("addr"):
        owner = namespace.by_index.get(row["index"])
        if owner is not None:
            owner.addresses.append(f"{row['local'] or row['address']}/{row['prefixlen']}")


def connect(namespace: Namespace, known: list[Namespace]) -> None:
    """Find the other end of each link of a namespace."""
    for link in namespace.links:
        if link.link is None or link.peer is not None:
            continue
        if link.nsid is None:
            other = namespace.by_index.get(link.link)
            if other is not None and other is not link:
                join(link, other)
            continue
        there = namespace.by_nsid.get(link.nsid) or namespace_of_nsid(namespace, link, known)
        end = there.by_index.get(link.link) if there is not None else None
        if end is None:
            link.unknown_nsid = link.nsid
        else:
            join(link, end)


def join(link: Link, other: Link) -> None:
    link.peer = other.namespace, other
    if link.kind in SYMMETRIC and other.kind == link.kind and other.link == link.index:
        other.peer = link.namespace, link


def namespace_of_nsid(namespace: Namespace, link: Link, known: list[Namespace]) -> Namespace | None:
    """Which namespace the id of a link means: those that could be it are asked for until one has that id."""
    candidates = []
    for other in known:
        end = other.by_index.get(link.link or 0)
        if end is None or other.fd < 0 or other.number in namespace.asked:
            continue
        if link.kind not in SYMMETRIC or (end.kind == link.kind and end.link == link.index):
            candidates.append((other, end))
    if len(candidates) > 1:
        address = address_there(namespace, link)
        candidates.sort(key=lambda candidate: candidate[1].address != address)
    for other, _ in candidates:
        namespace.asked.add(other.number)
        answer = namespace.handle.get_netnsid(fd=other.fd)["nsid"]
        if answer is not None and 0 <= answer < 1 << 31:
            namespace.by_nsid[answer] = other
        if answer == link.nsid:
            return other
    return None


def address_there(namespace: Namespace, link: Link) -> str | None:
    """The hardware address of the other end, which says who is asked for first. None where one may not look."""
    try:
        (end,) = namespace.handle.link("get", index=link.link, if_netnsid=link.nsid)
    except OSError:
        return None
    address: str | None = end.get("address")
    return address
