"""Dumps as columns: filled in C from the datagrams, without a Python object for each message."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING, Any, overload

from fastns import _codec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Table"]

NLM_F_REQUEST, NLM_F_DUMP = 1, 0x300
DONE, INTERRUPTED, FAILED, SINGLE = 1, 2, 4, 8
ATTEMPTS = 10


def field(name: str, at: int, width: int, kind: str = "uint", *, as_width: int = 0, attr: int = -1) -> Any:
    """A field of the message's header; where an attribute of the number `attr` is there, that one instead."""
    return (name, kind, as_width or width, 0, at, width, attr, 0)


# A column is (name, type, width, level, field, field's width, attribute, offset): see ColumnPlan.


def attr(name: str, kind: str, number: int, width: int = 0, *, at: int = 0, level: int = 0) -> Any:
    """An attribute, or the value at byte `at` of its payload; on level 1 it is inside another one."""
    if kind in ("uint", "int", "be") and not width:
        width = 4
    return (name, kind, 1 if kind == "flag" else width, level, -1, 0, number, at)


def rest(name: str = "attrs") -> Any:
    """What has no column."""
    return (name, "nested", 0, 0, -1, 0, -1, 0)


NEIGHBOUR = (
    field("family", 0, 1),
    field("ifindex", 4, 4, "int"),
    field("state", 8, 2),
    field("flags", 10, 1),
    field("ndm_type", 11, 1),
    attr("dst", "ip", 1),
    attr("lladdr", "hw", 2),
    attr("confirmed", "uint", 3, at=0),
    attr("used", "uint", 3, at=4),
    attr("updated", "uint", 3, at=8),
    attr("refcnt", "uint", 3, at=12),
    attr("probes", "uint", 4),
    attr("vlan", "uint", 5, 2),
    attr("port", "be", 6, 2),
    attr("vni", "uint", 7),
    attr("via_ifindex", "uint", 8),
    attr("master", "uint", 9),
    attr("link_netnsid", "int", 10),
    attr("src_vni", "uint", 11),
    attr("protocol", "uint", 12, 1),
    attr("nh_id", "uint", 13),
    attr("flags_ext", "uint", 15),
    rest(),
)

STATS64 = (
    "rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped multicast collisions"
)

# kind: (request, size of the header, message number, family, nested attribute on level 1, columns)
# Sources: linux/if_link.h, if_addr.h, rtnetlink.h, fib_rules.h, neighbour.h, nexthop.h; rtnetlink(7)
KINDS: dict[str, tuple[int, int, int, int, int, tuple[Any, ...]]] = {
    "link": (
        18,
        16,
        16,
        0,
        18,
        (
            field("index", 4, 4, "int"),
            attr("ifname", "str", 3),
            field("ifi_type", 2, 2),
            field("flags", 8, 4),
            attr("mtu", "uint", 4),
            attr("address", "hw", 1),
            attr("broadcast", "hw", 2),
            attr("perm_address", "hw", 54),
            attr("operstate", "uint", 16, 1),
            attr("carrier", "uint", 33, 1),
            attr("link", "uint", 5),
            attr("link_netnsid", "int", 37),
            attr("master", "uint", 10),
            attr("kind", "str", 1, level=1),
            attr("slave_kind", "str", 4, level=1),
            attr("qdisc", "str", 6),
            attr("txqlen", "uint", 13),
            attr("group", "uint", 27),
            attr("ifalias", "str", 20),
            attr("linkmode", "uint", 17, 1),
            attr("promiscuity", "uint", 30),
            attr("allmulti", "uint", 61),
            attr("num_tx_queues", "uint", 31),
            attr("num_rx_queues", "uint", 32),
            attr("carrier_changes", "uint", 35),
            attr("carrier_up_count", "uint", 47),
            attr("carrier_down_count", "uint", 48),
            attr("proto_down", "uint", 39, 1),
            attr("min_mtu", "uint", 50),
            attr("max_mtu", "uint", 51),
            attr("gso_max_size", "uint", 41),
            attr("gso_max_segs", "uint", 40),
            attr("gro_max_size", "uint", 58),
            attr("tso_max_size", "uint", 59),
            attr("tso_max_segs", "uint", 60),
            attr("parent_dev_name", "str", 56),
            attr("parent_dev_bus_name", "str", 57),
            field("family", 0, 1),
            field("change", 12, 4),
            *(attr(name, "uint", 23, 8, at=8 * n) for n, name in enumerate(STATS64.split())),
            attr("stats64", "bytes", 23),
            attr("info_data", "nested", 2, level=1),
            attr("info_slave_data", "nested", 5, level=1),
            attr("af_spec", "nested", 26),
            attr("prop_list", "nested", 52),
            rest(),
        ),
    ),
    "addr": (
        22,
        8,
        20,
        0,
        -1,
        (
            field("family", 0, 1),
            field("prefixlen", 1, 1),
            field("flags", 2, 1, as_width=4, attr=8),
            field("scope", 3, 1),
            field("index", 4, 4),
            attr("address", "ip", 1),
            attr("local", "ip", 2),
            attr("label", "str", 3),
            attr("broadcast", "ip", 4),
            attr("anycast", "ip", 5),
            attr("multicast", "ip", 7),
            attr("preferred", "uint", 6, at=0),
            attr("valid", "uint", 6, at=4),
            attr("cstamp", "uint", 6, at=8),
            attr("tstamp", "uint", 6, at=12),
            attr("rt_priority", "uint", 9),
            attr("target_netnsid", "int", 10),
            attr("proto", "uint", 11, 1),
            rest(),
        ),
    ),
    "route": (
        26,
        12,
        24,
        0,
        -1,
        (
            field("family", 0, 1),
            attr("dst", "ip", 1),
            field("dst_len", 1, 1),
            attr("src", "ip", 2),
            field("src_len", 2, 1),
            field("tos", 3, 1),
            field("table", 4, 1, as_width=4, attr=15),
            field("proto", 5, 1),
            field("scope", 6, 1),
            field("type", 7, 1),
            field("flags", 8, 4),
            attr("gateway", "ip", 5),
            attr("oif", "uint", 4),
            attr("priority", "uint", 6),
            attr("prefsrc", "ip", 7),
            attr("iif", "uint", 3),
            attr("via_family", "uint", 18, 2),
            attr("via", "ip", 18, at=2),
            attr("nh_id", "uint", 30),
            attr("pref", "uint", 20, 1),
            attr("flow", "uint", 11),
            attr("mark", "uint", 16),
            attr("uid", "uint", 25),
            attr("ttl_propagate", "uint", 26, 1),
            attr("newdst", "bytes", 19),
            attr("encap_type", "uint", 21, 2),
            attr("lastuse", "uint", 12, at=4),
            attr("expires", "int", 12, at=8),
            attr("error", "uint", 12, at=12),
            attr("cacheinfo", "bytes", 12),
            attr("encap", "nested", 22),
            attr("metrics", "nested", 8),
            attr("multipath", "hops", 9),
            rest(),
        ),
    ),
    "rule": (
        34,
        12,
        32,
        0,
        -1,
        (
            field("family", 0, 1),
            attr("priority", "uint", 6),
            attr("src", "ip", 2),
            field("src_len", 2, 1),
            attr("dst", "ip", 1),
            field("dst_len", 1, 1),
            field("tos", 3, 1),
            field("table", 4, 1, as_width=4, attr=15),
            field("action", 7, 1),
            field("flags", 8, 4),
            attr("iifname", "str", 3),
            attr("oifname", "str", 17),
            attr("goto", "uint", 4),
            attr("fwmark", "uint", 10),
            attr("fwmask", "uint", 16),
            attr("flow", "uint", 11),
            attr("tun_id", "be", 12, 8),
            attr("suppress_ifgroup", "uint", 13),
            attr("suppress_prefixlen", "uint", 14),
            attr("l3mdev", "uint", 19, 1),
            attr("uid_start", "uint", 20, at=0),
            attr("uid_end", "uint", 20, at=4),
            attr("protocol", "uint", 21, 1),
            attr("ip_proto", "uint", 22, 1),
            attr("sport_start", "uint", 23, 2, at=0),
            attr("sport_end", "uint", 23, 2, at=2),
            attr("dport_start", "uint", 24, 2, at=0),
            attr("dport_end", "uint", 24, 2, at=2),
            rest(),
        ),
    ),
    "neigh": (30, 12, 28, 0, -1, NEIGHBOUR),
    "fdb": (30, 12, 28, socket.AF_BRIDGE if hasattr(socket, "AF_BRIDGE") else 7, -1, NEIGHBOUR),
    "nexthop": (
        106,
        8,
        104,
        0,
        -1,
        (
            attr("id", "uint", 1),
            field("family", 0, 1),
            field("scope", 1, 1),
            field("protocol", 2, 1),
            field("flags", 4, 4),
            attr("oif", "uint", 5),
            attr("gateway", "ip", 6),
            attr("blackhole", "flag", 4),
            attr("fdb", "flag", 11),
            attr("master", "uint", 10),
            attr("group_type", "uint", 3, 2),
            attr("encap_type", "uint", 7, 2),
            attr("group", "group", 2),
            attr("encap", "nested", 8),
            attr("res_group", "nested", 12),
            rest(),
        ),
    ),
}

# What the kernel can filter by under strict checking: name -> ("field", offset, width) or ("attr", number).
# ip_valid_fib_dump_req, inet_valid_dump_ifaddr_req, neigh_valid_dump_req, rtnl_valid_dump_ifinfo_req,
# nh_valid_dump_req in the kernel.
KERNEL: dict[str, dict[str, tuple[Any, ...]]] = {
    "link": {"master": ("attr", 10)},
    "addr": {"index": ("field", 4, "=I")},
    "route": {
        "table": ("attr", 15),
        "oif": ("attr", 4),
        "proto": ("field", 5, "=B"),
        "type": ("field", 7, "=B"),
    },
    "rule": {},
    "neigh": {"ifindex": ("attr", 8), "master": ("attr", 9)},
    "fdb": {},
    "nexthop": {"oif": ("attr", 5), "master": ("attr", 10)},
}

_plans: dict[str, Any] = {}


def plan(kind: str) -> Any:
    """The column plan of a kind, compiled at first use."""
    if kind not in _plans:
        if kind not in KINDS:
            raise ValueError(f"table {kind!r} is none of {', '.join(KINDS)}")
        _, header, message, _, inner, columns = KINDS[kind]
        _plans[kind] = _codec.ColumnPlan(kind, header, message, inner, columns)
    return _plans[kind]


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


def request(kind: str, family: int, filters: dict[str, Any], seq: int) -> tuple[bytes, bool]:
    """The dump request, and whether the kernel has to apply filters."""
    number, size = KINDS[kind][:2]
    body = bytearray((size + 3) & ~3)
    body[0] = family
    narrowed = False
    for name, (place, where, *form) in KERNEL[kind].items():
        value = filters.get(name)
        if type(value) is not int or not 0 < value < (256 if form == ["=B"] else 1 << 32):
            continue
        if place == "field":
            struct.pack_into(form[0], body, where, value)
        else:
            body += struct.pack("=HHI", 8, where, value)
        narrowed = True
    return struct.pack("=IHHII", 16 + len(body), number, NLM_F_REQUEST | NLM_F_DUMP, seq, 0) + bytes(
        body
    ), narrowed


def dump(engine: Any, kind: str, filters: dict[str, Any]) -> Table:
    """Dump one kind of object into a table, repeated while the kernel says that it changed meanwhile."""
    columns = plan(kind)
    for name in filters:
        if name not in columns.numbers:
            raise ValueError(f"{name!r} is no column of {kind!r}: {', '.join(columns.names)}")
    functions = {name: value for name, value in filters.items() if callable(value)}
    equal = [(name, value) for name, value in filters.items() if name not in functions]
    family = filters.get("family", KINDS[kind][3])
    if not isinstance(family, int) or not 0 <= family < 256:
        family = KINDS[kind][3]
    seq = engine.addr_pool.alloc()
    data, narrowed = request(kind, family, filters, seq)
    interrupted = False
    for _ in range(ATTEMPTS):
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
        while not seen & (DONE | FAILED | SINGLE):
            part = engine.receive(seq)
            seen |= table._feed(part, seq)
    finally:
        engine.forget(seq)
    if seen & FAILED:
        messages: list[Any] = []
        _codec.parse_dump(engine.marshal, part, messages, seq)
        error = engine.failure(messages[-1])
        # A filter that names something absent is an empty result, as it is when the filter is applied here.
        if not (narrowed and getattr(error, "code", 0) in (errno.ENODEV, errno.ENOENT)):
            raise error
    return bool(seen & INTERRUPTED)
