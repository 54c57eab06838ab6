"""Dumps as columns: filled in C from the datagrams, without a Python object for each message."""

from __future__ import annotations

import errno
import struct
from socket import AF_UNSPEC
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from pyroute2 import config
from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, rtnl
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fastns import _codec
from fastns._codec import DUMP_ENDED, DUMP_FAILED, DUMP_INTERRUPTED
from fastns.engine.request import DUMP_ATTEMPTS
from fastns.errors import NLMSGHDR
from fastns.schema import attribute_number, constant, header_fields, header_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Table"]


class Source(NamedTuple):
    """Where a column is filled from, by pyroute2's names of header fields and the kernel's of attributes."""

    name: str
    kind: str  # "": what the field is
    width: int  # 0: that of the field, or none
    field: str = ""
    attr: str = ""
    at: int = 0
    level: int = 0


class Kind(NamedTuple):
    """What is dumped: the requests and answers, and what of these becomes columns."""

    request: str
    answer: str
    message: Any  # pyroute2's class, or a name in schema.ADDITIONS
    columns: tuple[Source, ...]
    family: int = AF_UNSPEC
    nested: tuple[str, Any] | None = None  # the attribute whose own attributes are level 1, and its class
    # What the kernel can filter by under strict checking, and where the request says so. In the kernel:
    # ip_valid_fib_dump_req, inet_valid_dump_ifaddr_req, neigh_valid_dump_req, rtnl_valid_dump_ifinfo_req,
    # nh_valid_dump_req.
    filters: Mapping[str, tuple[str, str]] = {}


class Layout(NamedTuple):
    """A kind with its names looked up."""

    plan: _codec.ColumnPlan
    request: int
    size: int  # of the message's own header
    filters: dict[str, tuple[str, int, str]]  # name -> "field", offset, format or "attr", number, format


def field(name: str, *, as_width: int = 0, attr: str = "") -> Source:
    """A field of the message's header; where the attribute `attr` is there, that one instead."""
    return Source(name, "", as_width, field=name, attr=attr)


def attr(name: str, attribute: str, kind: str, width: int = 0, *, at: int = 0, level: int = 0) -> Source:
    """An attribute, or the value at byte `at` of its payload; on level 1 it is inside another one."""
    if kind in ("uint", "int", "be") and not width:
        width = 4
    return Source(name, kind, 1 if kind == "flag" else width, attr=attribute, at=at, level=level)


def rest(name: str = "attrs") -> Source:
    """What has no column."""
    return Source(name, "nested", 0)


NEIGHBOUR = (
    field("family"),
    field("ifindex"),
    field("state"),
    field("flags"),
    field("ndm_type"),
    attr("dst", "NDA_DST", "ip"),
    attr("lladdr", "NDA_LLADDR", "hw"),
    attr("confirmed", "NDA_CACHEINFO", "uint", at=0),
    attr("used", "NDA_CACHEINFO", "uint", at=4),
    attr("updated", "NDA_CACHEINFO", "uint", at=8),
    attr("refcnt", "NDA_CACHEINFO", "uint", at=12),
    attr("probes", "NDA_PROBES", "uint"),
    attr("vlan", "NDA_VLAN", "uint", 2),
    attr("port", "NDA_PORT", "be", 2),
    attr("vni", "NDA_VNI", "uint"),
    attr("via_ifindex", "NDA_IFINDEX", "uint"),
    attr("master", "NDA_MASTER", "uint"),
    attr("link_netnsid", "NDA_LINK_NETNSID", "int"),
    attr("src_vni", "NDA_SRC_VNI", "uint"),
    attr("protocol", "NDA_PROTOCOL", "uint", 1),
    attr("nh_id", "NDA_NH_ID", "uint"),
    attr("flags_ext", "NDA_FLAGS_EXT", "uint"),
    rest(),
)

STATS64 = (
    "rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped multicast collisions"
)

# Sources: linux/if_link.h, if_addr.h, rtnetlink.h, fib_rules.h, neighbour.h, nexthop.h; rtnetlink(7)
KINDS: dict[str, Kind] = {
    "link": Kind(
        "RTM_GETLINK",
        "RTM_NEWLINK",
        ifinfmsg,
        (
            field("index"),
            attr("ifname", "IFLA_IFNAME", "str"),
            field("ifi_type"),
            field("flags"),
            attr("mtu", "IFLA_MTU", "uint"),
            attr("address", "IFLA_ADDRESS", "hw"),
            attr("broadcast", "IFLA_BROADCAST", "hw"),
            attr("perm_address", "IFLA_PERM_ADDRESS", "hw"),
            attr("operstate", "IFLA_OPERSTATE", "uint", 1),
            attr("carrier", "IFLA_CARRIER", "uint", 1),
            attr("link", "IFLA_LINK", "uint"),
            attr("link_netnsid", "IFLA_LINK_NETNSID", "int"),
            attr("master", "IFLA_MASTER", "uint"),
            attr("kind", "IFLA_INFO_KIND", "str", level=1),
            attr("slave_kind", "IFLA_INFO_SLAVE_KIND", "str", level=1),
            attr("qdisc", "IFLA_QDISC", "str"),
            attr("txqlen", "IFLA_TXQLEN", "uint"),
            attr("group", "IFLA_GROUP", "uint"),
            attr("ifalias", "IFLA_IFALIAS", "str"),
            attr("linkmode", "IFLA_LINKMODE", "uint", 1),
            attr("promiscuity", "IFLA_PROMISCUITY", "uint"),
            attr("allmulti", "IFLA_ALLMULTI", "uint"),
            attr("num_tx_queues", "IFLA_NUM_TX_QUEUES", "uint"),
            attr("num_rx_queues", "IFLA_NUM_RX_QUEUES", "uint"),
            attr("carrier_changes", "IFLA_CARRIER_CHANGES", "uint"),
            attr("carrier_up_count", "IFLA_CARRIER_UP_COUNT", "uint"),
            attr("carrier_down_count", "IFLA_CARRIER_DOWN_COUNT", "uint"),
            attr("proto_down", "IFLA_PROTO_DOWN", "uint", 1),
            attr("min_mtu", "IFLA_MIN_MTU", "uint"),
            attr("max_mtu", "IFLA_MAX_MTU", "uint"),
            attr("gso_max_size", "IFLA_GSO_MAX_SIZE", "uint"),
            attr("gso_max_segs", "IFLA_GSO_MAX_SEGS", "uint"),
            attr("gro_max_size", "IFLA_GRO_MAX_SIZE", "uint"),
            attr("tso_max_size", "IFLA_TSO_MAX_SIZE", "uint"),
            attr("tso_max_segs", "IFLA_TSO_MAX_SEGS", "uint"),
            attr("parent_dev_name", "IFLA_PARENT_DEV_NAME", "str"),
            attr("parent_dev_bus_name", "IFLA_PARENT_DEV_BUS_NAME", "str"),
            field("family"),
            field("change"),
            *(attr(name, "IFLA_STATS64", "uint", 8, at=8 * n) for n, name in enumerate(STATS64.split())),
            attr("stats64", "IFLA_STATS64", "bytes"),
            attr("info_data", "IFLA_INFO_DATA", "nested", level=1),
            attr("info_slave_data", "IFLA_INFO_SLAVE_DATA", "nested", level=1),
            attr("af_spec", "IFLA_AF_SPEC", "nested"),
            attr("prop_list", "IFLA_PROP_LIST", "nested"),
            rest(),
        ),
        nested=("IFLA_LINKINFO", ifinfmsg.ifinfo),
        filters={"master": ("attr", "IFLA_MASTER")},
    ),
    "addr": Kind(
        "RTM_GETADDR",
        "RTM_NEWADDR",
        ifaddrmsg,
        (
            field("family"),
            field("prefixlen"),
            field("flags", as_width=4, attr="IFA_FLAGS"),
            field("scope"),
            field("index"),
            attr("address", "IFA_ADDRESS", "ip"),
            attr("local", "IFA_LOCAL", "ip"),
            attr("label", "IFA_LABEL", "str"),
            attr("broadcast", "IFA_BROADCAST", "ip"),
            attr("anycast", "IFA_ANYCAST", "ip"),
            attr("multicast", "IFA_MULTICAST", "ip"),
            attr("preferred", "IFA_CACHEINFO", "uint", at=0),
            attr("valid", "IFA_CACHEINFO", "uint", at=4),
            attr("cstamp", "IFA_CACHEINFO", "uint", at=8),
            attr("tstamp", "IFA_CACHEINFO", "uint", at=12),
            attr("rt_priority", "IFA_RT_PRIORITY", "uint"),
            attr("target_netnsid", "IFA_TARGET_NETNSID", "int"),
            attr("proto", "IFA_PROTO", "uint", 1),
            rest(),
        ),
        filters={"index": ("field", "index")},
    ),
    "route": Kind(
        "RTM_GETROUTE",
        "RTM_NEWROUTE",
        rtmsg,
        (
            field("family"),
            attr("dst", "RTA_DST", "ip"),
            field("dst_len"),
            attr("src", "RTA_SRC", "ip"),
            field("src_len"),
            field("tos"),
            field("table", as_width=4, attr="RTA_TABLE"),
            field("proto"),
            field("scope"),
            field("type"),
            field("flags"),
            attr("gateway", "RTA_GATEWAY", "ip"),
            attr("oif", "RTA_OIF", "uint"),
            attr("priority", "RTA_PRIORITY", "uint"),
            attr("prefsrc", "RTA_PREFSRC", "ip"),
            attr("iif", "RTA_IIF", "uint"),
            attr("via_family", "RTA_VIA", "uint", 2),
            attr("via", "RTA_VIA", "ip", at=2),
            attr("nh_id", "RTA_NH_ID", "uint"),
            attr("pref", "RTA_PREF", "uint", 1),
            attr("flow", "RTA_FLOW", "uint"),
            attr("mark", "RTA_MARK", "uint"),
            attr("uid", "RTA_UID", "uint"),
            attr("ttl_propagate", "RTA_TTL_PROPAGATE", "uint", 1),
            attr("newdst", "RTA_NEWDST", "bytes"),
            attr("encap_type", "RTA_ENCAP_TYPE", "uint", 2),
            attr("lastuse", "RTA_CACHEINFO", "uint", at=4),
            attr("expires", "RTA_CACHEINFO", "int", at=8),
            attr("error", "RTA_CACHEINFO", "uint", at=12),
            attr("cacheinfo", "RTA_CACHEINFO", "bytes"),
            attr("encap", "RTA_ENCAP", "nested"),
            attr("metrics", "RTA_METRICS", "nested"),
            attr("multipath", "RTA_MULTIPATH", "hops"),
            rest(),
        ),
        filters={
            "table": ("attr", "RTA_TABLE"),
            "oif": ("attr", "RTA_OIF"),
            "proto": ("field", "proto"),
            "type": ("field", "type"),
        },
    ),
    "rule": Kind(
        "RTM_GETRULE",
        "RTM_NEWRULE",
        fibmsg,
        (
            field("family"),
            attr("priority", "FRA_PRIORITY", "uint"),
            attr("src", "FRA_SRC", "ip"),
            field("src_len"),
            attr("dst", "FRA_DST", "ip"),
            field("dst_len"),
            field("tos"),
            field("table", as_width=4, attr="FRA_TABLE"),
            field("action"),
            field("flags"),
            attr("iifname", "FRA_IIFNAME", "str"),
            attr("oifname", "FRA_OIFNAME", "str"),
            attr("goto", "FRA_GOTO", "uint"),
            attr("fwmark", "FRA_FWMARK", "uint"),
            attr("fwmask", "FRA_FWMASK", "uint"),
            attr("flow", "FRA_FLOW", "uint"),
            attr("tun_id", "FRA_TUN_ID", "be", 8),
            attr("suppress_ifgroup", "FRA_SUPPRESS_IFGROUP", "uint"),
            attr("suppress_prefixlen", "FRA_SUPPRESS_PREFIXLEN", "uint"),
            attr("l3mdev", "FRA_L3MDEV", "uint", 1),
            attr("uid_start", "FRA_UID_RANGE", "uint", at=0),
            attr("uid_end", "FRA_UID_RANGE", "uint", at=4),
            attr("protocol", "FRA_PROTOCOL", "uint", 1),
            attr("ip_proto", "FRA_IP_PROTO", "uint", 1),
            attr("sport_start", "FRA_SPORT_RANGE", "uint", 2, at=0),
            attr("sport_end", "FRA_SPORT_RANGE", "uint", 2, at=2),
            attr("dport_start", "FRA_DPORT_RANGE", "uint", 2, at=0),
            attr("dport_end", "FRA_DPORT_RANGE", "uint", 2, at=2),
            rest(),
        ),
    ),
    "neigh": Kind(
        "RTM_GETNEIGH",
        "RTM_NEWNEIGH",
        ndmsg,
        NEIGHBOUR,
        filters={"ifindex": ("attr", "NDA_IFINDEX"), "master": ("attr", "NDA_MASTER")},
    ),
    "fdb": Kind("RTM_GETNEIGH", "RTM_NEWNEIGH", ndmsg, NEIGHBOUR, family=config.AF_BRIDGE),
    "nexthop": Kind(
        "RTM_GETNEXTHOP",
        "RTM_NEWNEXTHOP",
        "nhmsg",
        (
            attr("id", "NHA_ID", "uint"),
            field("family"),
            field("scope"),
            field("protocol"),
            field("flags"),
            attr("oif", "NHA_OIF", "uint"),
            attr("gateway", "NHA_GATEWAY", "ip"),
            attr("blackhole", "NHA_BLACKHOLE", "flag"),
            attr("fdb", "NHA_FDB", "flag"),
            attr("master", "NHA_MASTER", "uint"),
            attr("group_type", "NHA_GROUP_TYPE", "uint", 2),
            attr("encap_type", "NHA_ENCAP_TYPE", "uint", 2),
            attr("group", "NHA_GROUP", "group"),
            attr("encap", "NHA_ENCAP", "nested"),
            attr("res_group", "NHA_RES_GROUP", "nested"),
            rest(),
        ),
        filters={"oif": ("attr", "NHA_OIF"), "master": ("attr", "NHA_MASTER")},
    ),
}

_layouts: dict[str, Layout] = {}


def plan(kind: str) -> _codec.ColumnPlan:
    """The column plan of a kind, compiled at first use."""
    return layout(kind).plan


def layout(kind: str) -> Layout:
    if kind not in _layouts:
        if kind not in KINDS:
            raise ValueError(f"table {kind!r} is none of {', '.join(KINDS)}")
        _layouts[kind] = compiled(kind, KINDS[kind])
    return _layouts[kind]


def compiled(name: str, kind: Kind) -> Layout:
    fields = {field.name: field for field in header_fields(kind.message)}
    size = header_size(kind.message)
    attribute, inside = kind.nested or ("", None)
    levels: tuple[Any, Any] = (kind.message, inside)
    columns = []
    for source in kind.columns:
        number = attribute_number(levels[source.level], source.attr) if source.attr else -1
        offset, length, column_type = -1, 0, source.kind
        if source.field:
            found = fields[source.field]
            offset, length, column_type = found.offset, found.size, "int" if found.code.islower() else "uint"
        width = source.width or length
        columns.append((source.name, column_type, width, source.level, offset, length, number, source.at))
    filters = {
        column: (place, fields[where].offset, f"={fields[where].code}")
        if place == "field"
        else (place, attribute_number(kind.message, where), "=I")
        for column, (place, where) in kind.filters.items()
    }
    nested = attribute_number(kind.message, attribute) if attribute else -1
    made = _codec.ColumnPlan(name, size, constant(rtnl, kind.answer), nested, columns)
    return Layout(made, constant(rtnl, kind.request), size, filters)


class Table(_codec.Columns):
    """A dump in columns. Made by `NetNS.table` and `IPRoute.table`; see there.

    `len(t)`, `t["dst"]` a column, `t[7]` a row as a dictionary, `t[10:20]` a table of these rows, iteration gives
    rows. It does not change after it was made, and is usable from any thread.

    Arrow consumers read it without a copy of the numbers (`pyarrow.table(t)`, `polars.DataFrame(t)`,
    `duckdb.sql("select ... from t")`, `pandas.DataFrame.from_arrow(t)`); addresses arrive as text,
    `t.arrow(addresses="bytes")` gives them as the kernel has them. Nested attributes are lists of the structures
    `{type, data}`, next hops of `{oif, hops, flags, gateway, attrs}`; `attrs` has every attribute no column is for.
    """

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: str) -> _codec.Column: ...
    @overload
    def __getitem__(self, key: slice) -> Table: ...

    def __getitem__(self, key: int | str | slice) -> Any:
        if isinstance(key, str):
            return self.column(key)
        if isinstance(key, slice):
            return self._take(range(*key.indices(len(self))))
        return self._row(key + len(self) if key < 0 else key)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self._row(row) for row in range(len(self)))

    def to_pylist(self) -> list[dict[str, Any]]:
        """Every row as a dictionary, None where there is nothing."""
        return list(self)

    def to_pydict(self) -> dict[str, list[Any]]:
        """Every column as a list."""
        return {name: self.column(name).to_list() for name in self.column_names}

    def arrow(self, addresses: str = "text") -> ArrowView:
        """The table for an Arrow consumer, with addresses as "text" or as "bytes"."""
        if addresses not in ("text", "bytes"):
            raise ValueError(f"addresses {addresses!r} is neither 'text' nor 'bytes'")
        return ArrowView(self, addresses == "text")

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The Arrow PyCapsule interface. `requested_schema` is not taken into account, which it allows."""
        return self._stream(True)

    def __arrow_c_schema__(self) -> Any:
        return self._schema(True)

    def __repr__(self) -> str:
        return f"<Table {self.kind!r}: {len(self)} rows, {len(self.column_names)} columns>"


class ArrowView:
    """A table as it is given to an Arrow consumer."""

    def __init__(self, table: Table, text: bool) -> None:
        self.table = table
        self.text = text

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table._stream(self.text)

    def __arrow_c_schema__(self) -> Any:
        return self.table._schema(self.text)


def dump_request(number: int, body: bytes | bytearray, seq: int) -> bytes:
    return NLMSGHDR.pack(NLMSGHDR.size + len(body), number, NLM_F_REQUEST | NLM_F_DUMP, seq, 0) + body


def request(kind: str, family: int, filters: dict[str, Any], seq: int) -> tuple[bytes, bool]:
    """The dump request, and whether the kernel has to apply filters."""
    _, number, size, known = layout(kind)
    body = bytearray((size + 3) & ~3)
    body[0] = family
    narrowed = False
    for name, (place, where, form) in known.items():
        value = filters.get(name)
        if type(value) is not int or not 0 < value < 1 << 8 * struct.calcsize(form):
            continue
        if place == "field":
            struct.pack_into(form, body, where, value)
        else:
            body += struct.pack("=HHI", 8, where, value)
        narrowed = True
    return dump_request(number, body, seq), narrowed


def dump(engine: Any, kind: str, filters: dict[str, Any]) -> Table:
    """Dump one kind of object into a table, repeated while the kernel says that it changed meanwhile."""
    columns = plan(kind)
    for name in filters:
        if name not in columns.numbers:
            raise ValueError(f"{name!r} is no column of {kind!r}: {', '.join(columns.names)}")
    functions = {name: value for name, value in filters.items() if callable(value)}
    equal = [(name, value) for name, value in filters.items() if name not in functions]
    family = filters.get("family", KINDS[kind].family)
    if not isinstance(family, int) or not 0 <= family < 256:
        family = KINDS[kind].family
    seq = engine.addr_pool.alloc()
    data, narrowed = request(kind, family, filters, seq)
    interrupted = False
    for _ in range(DUMP_ATTEMPTS):
        table = Table(columns, equal)
        interrupted = receive(engine, table, data, seq, narrowed)
        if not interrupted or engine.dump_intr != "retry":
            break
    if interrupted:
        engine.interrupted()
    table._finish()
    for name, function in functions.items():
        table = table._take([row for row, value in enumerate(table.column(name)) if function(value)])
    return table


def receive(engine: Any, table: Table, data: bytes, seq: int, narrowed: bool) -> bool:
    """One dump into the table; whether it was interrupted."""
    seen = 0
    engine.expect(seq)
    try:
        engine.submit(data, seq, True, narrowed)
        while not seen & DUMP_ENDED:
            part = engine.receive(seq)
            seen |= table._feed(part, seq)
    finally:
        engine.forget(seq)
    if seen & DUMP_FAILED:
        messages: list[Any] = []
        _codec.parse_dump(engine.marshal, part, messages, seq)
        error = engine.failure(messages[-1])
        # A filter that names something absent is an empty result, as it is when the filter is applied here.
        if not (narrowed and getattr(error, "code", 0) in (errno.ENODEV, errno.ENOENT)):
            raise error
    return bool(seen & DUMP_INTERRUPTED)
