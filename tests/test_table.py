"""Dumps as columns: the same as the messages say, nothing lost, whatever comes; and readable as Arrow."""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import socket
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import rtnl

from fastns import NetNS
from fastns import table as fastns_table
from fastns.errors import NetlinkError
from fastns.schema import attribute_number, constant
from fastns.table import KINDS, Table, layout, plan, request

# ---- crafted messages ------------------------------------------------------------------------------------------


def attribute(number, payload):
    return struct.pack("=HH", 4 + len(payload), number) + payload + b"\0" * (-len(payload) % 4)


def message(kind, body, *attrs, seq=1, flags=2):
    data = body.ljust((layout(kind).size + 3) & ~3, b"\0") + b"".join(attrs)
    return struct.pack("=IHHII", 16 + len(data), constant(rtnl, KINDS[kind].answer), flags, seq, 0) + data


def table(kind, *messages, conditions=()):
    made = Table(plan(kind), conditions)
    made._feed(b"".join(messages), 1)
    made._finish()
    return made


def route(*attrs, family=2, dst_len=24, number=3):
    return message("route", struct.pack("=8BI", family, dst_len, 0, 0, number, 4, 0, 1, 0), *attrs)


def test_values_of_a_route():
    made = table(
        "route",
        route(
            attribute(1, b"\x0a\x01\x02\x00"),
            attribute(4, struct.pack("=I", 7)),
            attribute(15, struct.pack("=I", 70000)),
            attribute(8, attribute(2, struct.pack("=I", 1300))),
            attribute(
                9,
                struct.pack("=HBBi", 16, 1, 4, 5)
                + attribute(5, b"\x0a\0\0\1")
                + struct.pack("=HBBi", 8, 0, 0, -6)
                + struct.pack("=HBBi", 32, 0, 2, 9)
                + attribute(18, struct.pack("=H", 10) + socket.inet_pton(socket.AF_INET6, "fe80::1"))[:24],
            ),
            attribute(99, b"xyz"),
            attribute(0x8000 | 18, struct.pack("=H", 10) + socket.inet_pton(socket.AF_INET6, "fe80::2")),
        ),
        route(family=10, dst_len=0),
    )
    assert len(made) == 2
    row = {name: value for name, value in made[0].items() if value is not None}
    assert row == {
        "family": 2,
        "dst": "10.1.2.0",
        "dst_len": 24,
        "src_len": 0,
        "tos": 0,
        "table": 70000,
        "proto": 4,
        "scope": 0,
        "type": 1,
        "flags": 0,
        "oif": 7,
        "via_family": 10,
        "via": "fe80::2",
        "metrics": [{"type": 2, "data": struct.pack("=I", 1300)}],
        "multipath": [
            {
                "oif": 5,
                "hops": 4,
                "flags": 1,
                "gateway": "10.0.0.1",
                "attrs": [{"type": 5, "data": b"\x0a\0\0\1"}],
            },
            {"oif": -6, "hops": 0, "flags": 0, "gateway": None, "attrs": []},
            {
                "oif": 9,
                "hops": 2,
                "flags": 0,
                "gateway": "fe80::1",
                "attrs": [
                    {
                        "type": 18,
                        "data": struct.pack("=H", 10) + socket.inet_pton(socket.AF_INET6, "fe80::1"),
                    }
                ],
            },
        ],
        "attrs": [{"type": 99, "data": b"xyz"}],
    }
    assert made[1]["table"] == 3
    assert made[-1] == made[1]
    assert made["dst"].to_bytes() == [b"\x0a\x01\x02\x00", None]
    assert made["dst"].null_count == 1
    assert made["table"].null_count == 0


def test_values_of_a_link():
    made = table(
        "link",
        message(
            "link",
            struct.pack("=BxHiII", 0, 1, -5, 0x1003, 0),
            attribute(3, b"eth0\0"),
            attribute(1, bytes(range(6))),
            attribute(2, b"\x0a\0\0\1"),
            attribute(54, bytes(range(20))),
            attribute(37, struct.pack("=i", -1)),
            attribute(23, struct.pack("=12Q", *range(12))),
            attribute(18, attribute(1, b"veth\0") + attribute(2, attribute(1, b"abcd"))),
            attribute(20, b"caf\xc3\xa9\0"),
        ),
        message("link", struct.pack("=BxHiII", 0, 1, 9, 0, 0), attribute(3, b"bad\xff\0")),
    )
    row = made[0]
    assert (row["index"], row["ifname"], row["address"]) == (-5, "eth0", "00:01:02:03:04:05")
    assert row["broadcast"] == "10.0.0.1"
    assert row["perm_address"] == ":".join(f"{n:02x}" for n in range(20))
    assert (row["link_netnsid"], row["rx_packets"], row["collisions"]) == (-1, 0, 9)
    assert (row["kind"], row["info_data"], row["ifalias"]) == (
        "veth",
        [{"type": 1, "data": b"abcd"}],
        "caf\xe9",
    )
    assert row["attrs"] is None
    assert made[1]["ifname"] == "bad?"
    assert made[1]["attrs"] == [{"type": 3, "data": b"bad\xff\0"}]


def test_values_of_a_nexthop_group():
    group = struct.pack("=IBBH", 7, 0, 0, 0) + struct.pack("=IBBH", 8, 2, 1, 0)
    made = table("nexthop", message("nexthop", b"", attribute(1, struct.pack("=I", 3)), attribute(2, group)))
    assert made[0]["group"] == [{"id": 7, "weight": 1}, {"id": 8, "weight": 259}]
    made = table("nexthop", message("nexthop", b"", attribute(4, b"")))
    assert (made[0]["blackhole"], made[0]["fdb"]) == (True, None)


def test_bytes_in_network_order():
    made = table("fdb", message("fdb", b"\x07", attribute(6, b"\x12\xb5")))
    assert made[0]["port"] == 4789


def test_other_messages_are_no_rows():
    made = Table(plan("route"))
    assert made._feed(message("link", b"") + message("route", b"", seq=2), 1) == 0
    assert made._feed(message("route", b"", flags=0x12), 1) == 2
    assert made._feed(message("route", b"", flags=0), 1) == 8
    assert made._feed(struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0), 1) == 1
    assert made._feed(struct.pack("=IHHIIi", 20, 3, 0x12, 1, 0, 0), 1) == 3
    assert made._feed(struct.pack("=IHHIIi", 20, 3, 2, 1, 0, -5), 1) == 4
    assert made._feed(struct.pack("=IHHIIi", 36, 2, 0, 1, 0, -5) + b"\0" * 16, 1) == 4
    made._finish()
    assert len(made) == 2
    with pytest.raises(ValueError):
        made._feed(b"", 1)


def test_an_attribute_that_is_cut_or_there_twice_stays_reachable():
    made = table("route", route(attribute(4, b"\1\2"), attribute(1, b"\1\1\1\1"), attribute(1, b"\2\2\2\2")))
    assert made[0]["oif"] is None
    assert made[0]["dst"] == "1.1.1.1"
    assert made[0]["attrs"] == [{"type": 4, "data": b"\1\2"}, {"type": 1, "data": b"\2\2\2\2"}]


def test_of_a_repeated_attribute_the_first_counts():
    number = struct.Struct("=I").pack
    made = table("route", route(attribute(15, number(7)), attribute(15, number(8)), attribute(1, b""), attribute(1, b"\1" * 4)))
    assert (made[0]["table"], made["dst"].to_bytes()) == (7, [b""])
    assert made[0]["attrs"] == [{"type": 15, "data": number(8)}, {"type": 1, "data": b"\1" * 4}]
    made = table("link", message("link", b"", attribute(3, b"\0"), attribute(3, b"eth0\0")), message("link", b"", attribute(3, b"b\0")))
    assert made["ifname"].to_list() == ["", "b"]


payloads = st.one_of(
    st.binary(max_size=40), st.builds(attribute, st.integers(0, 140), st.binary(max_size=12))
)
attributes = st.lists(st.tuples(st.integers(0, 0x3FFF) | st.integers(0, 70), payloads), max_size=12)


@given(st.sampled_from(sorted(KINDS)), attributes, st.binary(max_size=16))
def test_nothing_is_lost(kind, attrs, body):
    """Every attribute is in its columns or in `attrs`, whatever they are; of equal ones the first is in the columns."""
    made = table(kind, message(kind, body[: layout(kind).size], *(attribute(n, p) for n, p in attrs)))
    kept = [(item["type"], item["data"]) for item in made[0]["attrs"] or ()]
    columns = {}
    nested = attribute_number(KINDS[kind].message, KINDS[kind].nested[0]) if KINDS[kind].nested else -1
    for source in KINDS[kind].columns:
        if source.level == 0 and source.attr:
            columns.setdefault(attribute_number(KINDS[kind].message, source.attr), []).append(source)
    for number, payload in attrs:
        if (number, payload) in kept or number == nested:  # inside it: test_nothing_is_lost_inside
            continue
        for name, type_name, width, *_, at, _ in columns[number]:
            if not width:
                raw = made[name].to_bytes()[0]
                expected = payload[at:]
                assert raw == (expected.split(b"\0")[0] if type_name == "str" else expected)
            elif type_name not in ("be", "flag"):
                assert bytes(memoryview(made[name])) == payload[at : at + width]
            assert made[name][0] is not None


@given(attributes)
def test_nothing_is_lost_inside(attrs):
    inner = b"".join(attribute(n, p) for n, p in attrs)
    made = table("link", message("link", b"", attribute(18, inner)))
    if any(n not in (1, 2, 4, 5) for n, _ in attrs) or len({n for n, _ in attrs}) != len(attrs):
        assert made[0]["attrs"] == [{"type": 18, "data": inner}]


@given(st.data())
def test_malformed_input(data):
    """Cut or damaged anywhere: nothing is read outside, nothing raised."""
    whole = route(
        attribute(1, b"\x0a\x01\x02\x00"),
        attribute(9, struct.pack("=HBBi", 8, 0, 0, 1)),
        attribute(8, b"1234"),
    )
    whole += message("route", b"", attribute(9, data.draw(st.binary(max_size=40))))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    made = table("route", bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    made.to_pylist()
    consume(made)


# ---- reading a table -------------------------------------------------------------------------------------------


@pytest.fixture
def numbers():
    return table(
        "route",
        *(
            route(
                attribute(1, struct.pack(">I", n)), *([attribute(4, struct.pack("=I", n))] if n % 3 else [])
            )
            for n in range(100)
        ),
    )


def test_rows_and_slices(numbers):
    assert [row["dst"] for row in numbers] == [f"0.0.0.{n}" for n in range(100)]
    part = numbers[10:90:7]
    assert isinstance(part, Table)
    assert part["dst"].to_list() == numbers["dst"][10:90:7]
    assert part["oif"].null_count == sum(n % 3 == 0 for n in range(10, 90, 7))
    assert numbers[::-1].to_pylist() == numbers.to_pylist()[::-1]
    assert len(numbers[5:5]) == 0
    assert numbers[-1]["dst"] == "0.0.0.99"
    for wrong in (100, -101):
        with pytest.raises(IndexError):
            numbers[wrong]
        with pytest.raises(IndexError):
            numbers["oif"][wrong]
    with pytest.raises(KeyError):
        numbers["nosuch"]
    assert "100 rows" in repr(numbers)
    assert numbers.column_names[:3] == ["family", "dst", "dst_len"]
    assert numbers.to_pydict()["oif"] == [n if n % 3 else None for n in range(100)]


def test_columns_are_buffers(numbers):
    view = memoryview(numbers["oif"])
    assert (view.format, view.itemsize, view.shape, view.readonly) == ("I", 4, (100,), True)
    assert list(view) == [n if n % 3 else 0 for n in range(100)]
    column = numbers["oif"]
    del numbers
    gc.collect()
    assert column[1] == 1
    assert list(column)[:3] == [None, 1, 2]
    with pytest.raises(TypeError):
        column.to_bytes()


def test_text_is_no_buffer(numbers):
    with pytest.raises(BufferError):
        memoryview(numbers["dst"])


def test_conditions():
    messages = [
        route(attribute(1, bytes([10, 0, 0, n])), *([attribute(4, struct.pack("=I", n))] if n % 2 else []))
        for n in range(40)
    ]

    def found(**conditions):
        return [row["dst"] for row in table("route", *messages, conditions=list(conditions.items()))]

    assert found(oif=3) == ["10.0.0.3"]
    assert found(oif=4) == []
    assert len(found(oif=None)) == 20
    assert found(dst="10.0.0.7") == ["10.0.0.7"]
    assert found(dst=bytes([10, 0, 0, 7])) == ["10.0.0.7"]
    assert found(dst="10.0.0.7", oif=None) == []
    made = table("route", *messages, conditions=[("oif", 3)])
    assert made["oif"].null_count == 0
    assert made["gateway"].null_count == 1


@pytest.mark.parametrize(
    ("kind", "name", "value", "error"),
    [
        ("route", "oif", "eth0", TypeError),
        ("route", "oif", -1, ValueError),
        ("route", "family", 256, ValueError),
        ("route", "dst", "10.0.0", ValueError),
        ("route", "dst", 7, TypeError),
        ("route", "multipath", "x", TypeError),
        ("link", "address", "zz:11", ValueError),
        ("link", "ifname", "x" * 65, ValueError),
    ],
)
def test_wrong_conditions(kind, name, value, error):
    with pytest.raises(error):
        Table(plan(kind), [(name, value)])


def test_unknown_kind():
    with pytest.raises(ValueError, match="link, addr, route"):
        plan("nosuch")


def test_requests():
    assert request("route", 2, {"table": 254, "oif": None, "dst": "10.0.0.0"}, 5) == (
        struct.pack("=IHHII", 36, 26, 0x301, 5, 0) + b"\2" + b"\0" * 11 + struct.pack("=HHI", 8, 15, 254),
        True,
    )
    assert request("link", 0, {"ifname": "lo"}, 5) == (
        struct.pack("=IHHII", 32, 18, 0x301, 5, 0) + b"\0" * 16,
        False,
    )
    assert not request("route", 0, {"type": 300}, 5)[1]


# ---- Arrow, read without any library ---------------------------------------------------------------------------


class Schema(ctypes.Structure):
    pass


class Array(ctypes.Structure):
    pass


class Stream(ctypes.Structure):
    pass


Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_char_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(Schema))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(Schema))),
    ("private_data", ctypes.c_void_p),
]
Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(Array))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(Array))),
    ("private_data", ctypes.c_void_p),
]
Stream._fields_ = [
    ("get_schema", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Stream), ctypes.POINTER(Schema))),
    ("get_next", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Stream), ctypes.POINTER(Array))),
    ("get_last_error", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.POINTER(Stream))),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(Stream))),
    ("private_data", ctypes.c_void_p),
]

INTEGERS = dict(zip("cCsSiIlL", "bBhHiIqQ"))


def pointer(capsule, name):
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return get(capsule, name)


def values(schema, array):
    """An Arrow array as Python values, by the rules of the format and nothing else."""
    form = schema.format.decode()
    assert array.offset == 0
    present = [True] * array.length
    if array.null_count and array.buffers[0]:
        bits = ctypes.string_at(array.buffers[0], (array.length + 7) // 8)
        present = [bool(bits[n >> 3] >> (n & 7) & 1) for n in range(array.length)]
    assert present.count(False) == array.null_count
    if array.null_count:
        assert schema.flags & 2
    if form in INTEGERS:
        assert array.n_buffers == 2
        form = "=" + str(array.length) + INTEGERS[form]
        found = (
            list(struct.unpack(form, ctypes.string_at(array.buffers[1] or 0, struct.calcsize(form))))
            if array.length
            else []
        )
    elif form in ("u", "z", "+l"):
        offsets = struct.unpack(
            f"={array.length + 1}i", ctypes.string_at(array.buffers[1], 4 * array.length + 4)
        )
        assert offsets[0] == 0
        assert list(offsets) == sorted(offsets)
        if form == "+l":
            items = values(schema.children[0][0], array.children[0][0])
            assert offsets[-1] == len(items)
            found = [items[a:b] for a, b in zip(offsets, offsets[1:])]
        else:
            data = ctypes.string_at(array.buffers[2], offsets[-1])
            found = [data[a:b] for a, b in zip(offsets, offsets[1:])]
            if form == "u":
                found = [text.decode() for text in found]
    else:
        assert form == "+s"
        assert schema.n_children == array.n_children
        columns = {
            schema.children[n][0].name.decode(): values(schema.children[n][0], array.children[n][0])
            for n in range(array.n_children)
        }
        assert all(len(column) == array.length for column in columns.values())
        found = [{name: column[n] for name, column in columns.items()} for n in range(array.length)]
    return [value if there else None for value, there in zip(found, present)]


def consume(source):
    capsule = source.__arrow_c_stream__()
    stream = Stream.from_address(pointer(capsule, b"arrow_array_stream"))
    schema, array, end = Schema(), Array(), Array()
    assert stream.get_schema(stream, schema) == 0
    assert stream.get_next(stream, array) == 0
    assert stream.get_next(stream, end) == 0
    assert not end.release
    stream.release(stream)
    assert not stream.release
    try:
        return values(schema, array)
    finally:
        schema.release(schema)
        array.release(array)
        assert not array.release


def plain(rows):
    """Rows as Arrow has them: a flag is a number there."""
    return [
        {name: int(value) if isinstance(value, bool) else value for name, value in row.items()}
        for row in rows
    ]


def test_arrow(numbers):
    assert consume(numbers) == numbers.to_pylist()
    assert consume(numbers[3:7]) == numbers[3:7].to_pylist()
    assert consume(numbers[0:0]) == []
    raw = consume(numbers.arrow(addresses="bytes"))
    assert [row["dst"] for row in raw] == numbers["dst"].to_bytes()
    with pytest.raises(ValueError):
        numbers.arrow(addresses="nosuch")
    for source in (numbers, numbers.arrow()):
        capsule = source.__arrow_c_schema__()
        schema = Schema.from_address(pointer(capsule, b"arrow_schema"))
        assert schema.format == b"+s"
        assert [schema.children[n][0].name.decode() for n in range(schema.n_children)] == numbers.column_names


def test_arrow_keeps_the_memory(numbers):
    capsule = numbers.__arrow_c_stream__()
    expected = numbers.to_pylist()
    del numbers
    gc.collect()

    class Held:
        def __arrow_c_stream__(self):
            return capsule

    assert consume(Held()) == expected


def test_arrow_nobody_reads(numbers):
    for _ in range(20):
        numbers.__arrow_c_stream__()
        numbers.__arrow_c_schema__()


@given(st.lists(attributes, max_size=5), st.sampled_from(sorted(KINDS)))
def test_arrow_of_anything(rows, kind):
    made = table(kind, *(message(kind, b"", *(attribute(n, p) for n, p in attrs)) for attrs in rows))
    assert consume(made) == plain(made.to_pylist())
    consume(made.arrow(addresses="bytes"))


# ---- the libraries ---------------------------------------------------------------------------------------------


def library(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"python: {name} is not installed")


class TestLibraries:
    @pytest.fixture(autouse=True)
    def leak_guard(self):
        """They keep thread pools of their own."""

    def test_pyarrow(self, numbers):
        pyarrow = library("pyarrow")
        read = pyarrow.table(numbers)
        read.validate(full=True)
        assert read.to_pylist() == numbers.to_pylist()
        assert pyarrow.schema(numbers) == read.schema
        numpy = library("numpy")
        assert (
            read["oif"].chunks[0].buffers()[1].address == numpy.asarray(numbers["oif"]).ctypes.data
        )  # no copy
        raw = pyarrow.table(numbers.arrow(addresses="bytes"))
        assert raw["dst"].to_pylist() == numbers["dst"].to_bytes()

    def test_pyarrow_lists(self):
        pyarrow = library("pyarrow")
        made = table(
            "route",
            route(
                attribute(9, struct.pack("=HBBi", 16, 1, 4, 5) + attribute(5, b"\x0a\0\0\1")),
                attribute(99, b"x"),
            ),
            route(),
        )
        read = pyarrow.table(made)
        read.validate(full=True)
        assert read.to_pylist() == made.to_pylist()

    def test_polars(self, numbers):
        polars = library("polars")
        frame = polars.DataFrame(numbers)
        assert frame["dst"].to_list() == numbers["dst"].to_list()
        assert frame["oif"].to_list() == numbers["oif"].to_list()
        assert frame.filter(polars.col("oif") == 7)["dst"].to_list() == ["0.0.0.7"]

    def test_pandas(self, numbers):
        pandas = library("pandas")
        library("pyarrow")
        if not hasattr(pandas.DataFrame, "from_arrow"):
            frame = library("pyarrow").table(numbers).to_pandas()
        else:
            frame = pandas.DataFrame.from_arrow(numbers)
        assert frame["dst"].tolist() == numbers["dst"].to_list()
        assert frame["oif"].isna().sum() == numbers["oif"].null_count

    def test_duckdb(self, numbers):
        duckdb = library("duckdb")
        connection = duckdb.connect()
        try:
            connection.register("routes", library("pyarrow").table(numbers))
            found = connection.sql("select dst from routes where oif > 95 order by oif").fetchall()
            assert found == [("0.0.0.97",), ("0.0.0.98",)]
        finally:
            connection.close()

    def test_numpy(self, numbers):
        numpy = library("numpy")
        column = numbers["oif"]
        array = numpy.asarray(column)
        assert array.dtype == numpy.uint32
        assert array.sum() == sum(n for n in range(100) if n % 3)


# ---- on real namespaces ----------------------------------------------------------------------------------------


@pytest.fixture(params=["direct", "relay"])
def ns(request, netns):
    commands = """
        link set lo up
        link add v0 type veth peer name v1
        link add br0 type bridge
        link set v1 master br0
        link set v0 up
        link set v1 up
        link set br0 up
        addr add 10.0.0.1/24 dev v0 brd +
        addr add 2001:db8::1/64 dev v0
        route add 10.7.0.0/16 via 10.0.0.9 mtu 1300
        route add 10.8.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.0.3 weight 5
        route add unreachable 10.9.0.0/16 table 1000
        route add 2001:db8:1::/48 via 2001:db8::9 metric 77
        rule add from 10.1.0.0/16 iif v0 fwmark 0x1/0xff lookup 1000 priority 500
        rule add ipproto tcp dport 80-90 lookup 1000 priority 501
        neigh add 10.0.0.5 lladdr 00:11:22:33:44:55 dev v0
        nexthop add id 7 via 10.0.0.4 dev v0
        nexthop add id 8 via 10.0.0.5 dev v0
        nexthop add id 9 group 7/8,3
    """
    lines = "".join(line.strip() + "\n" for line in commands.strip().splitlines())
    subprocess.run(["ip", "-n", netns, "-batch", "-"], input=lines, text=True, check=True)
    subprocess.run(
        ["bridge", "-n", netns, "fdb", "add", "00:aa:bb:cc:dd:ee", "dev", "v1", "master"], check=True
    )
    with NetNS(netns, flags=0, transport=request.param) as handle:
        yield handle


def dumps(ns, kind):
    if kind == "fdb":
        return ns.fdb("dump")
    if kind == "addr":
        return ns.addr("dump")
    return getattr(ns, kind)("dump")


CHANGING = ("confirmed", "used", "updated", "refcnt", "probes", "expires", "lastuse", "error")


@pytest.mark.root
@pytest.mark.parametrize("kind", ["link", "addr", "route", "rule", "neigh", "fdb"])
def test_the_same_as_the_messages(ns, kind):
    while True:  # the kernel learns addresses meanwhile
        messages = dumps(ns, kind)
        made = ns.table(kind)
        if len(dumps(ns, kind)) == len(messages):
            break
    assert len(made) == len(messages)
    headers = {source.name for source in KINDS[kind].columns if source.field}
    compared = 0
    for row, msg in zip(made, messages):
        for name, value in row.items():
            if (
                name in CHANGING
                or isinstance(value, (list, bytes))
                or name in ("ndm_type", "via", "attrs", "operstate")
            ):
                continue
            theirs = msg.get(name)
            if name in headers and name in msg:
                theirs = msg.get_attr(type(msg).name2nla(name)) or msg[name]
            if theirs is None or isinstance(theirs, dict):
                continue
            assert value == theirs, name
            compared += 1
    assert compared > len(made) * 4


@pytest.mark.root
def test_what_was_configured(ns):
    index = ns.link_lookup(ifname="v0")[0]
    links = {row["ifname"]: row for row in ns.table("link")}
    assert links["br0"]["kind"] == "bridge"
    assert links["v1"]["slave_kind"] == "bridge"
    assert links["v1"]["master"] == links["br0"]["index"]
    assert links["v0"]["link"] == links["v1"]["index"]
    routes = {(row["dst"], row["table"]): row for row in ns.table("route")}
    assert routes["10.7.0.0", 254]["gateway"] == "10.0.0.9"
    assert routes["10.7.0.0", 254]["metrics"] == [{"type": 2, "data": struct.pack("=I", 1300)}]
    assert [(hop["gateway"], hop["hops"]) for hop in routes["10.8.0.0", 254]["multipath"]] == [
        ("10.0.0.2", 0),
        ("10.0.0.3", 4),
    ]
    assert routes["10.9.0.0", 1000]["type"] == 7
    assert routes["2001:db8:1::", 254]["priority"] == 77
    rules = {row["priority"]: row for row in ns.table("rule", family=socket.AF_INET)}
    assert (rules[500]["src"], rules[500]["src_len"], rules[500]["iifname"]) == ("10.1.0.0", 16, "v0")
    assert (rules[500]["fwmark"], rules[500]["fwmask"], rules[500]["table"]) == (1, 255, 1000)
    assert (rules[501]["ip_proto"], rules[501]["dport_start"], rules[501]["dport_end"]) == (6, 80, 90)
    assert ns.table("neigh", dst="10.0.0.5")[0]["lladdr"] == "00:11:22:33:44:55"
    assert "00:aa:bb:cc:dd:ee" in ns.table("fdb")["lladdr"].to_list()
    hops = {row["id"]: row for row in ns.table("nexthop")}
    assert hops[9]["group"] == [{"id": 7, "weight": 1}, {"id": 8, "weight": 3}]
    assert (hops[7]["gateway"], hops[7]["oif"]) == ("10.0.0.4", index)


@pytest.mark.root
def test_filters(ns):
    index = ns.link_lookup(ifname="v0")[0]
    everything = ns.table("route").to_pylist()
    for filters in (
        {"table": 1000},
        {"table": 254, "oif": index},
        {"type": 7},
        {"proto": 2},
        {"family": socket.AF_INET6},
        {"dst": "10.7.0.0", "table": 254},
        {"dst": "10.7.0.0", "table": 1000},
        {"gateway": None, "family": socket.AF_INET},
    ):
        found = ns.table("route", **filters).to_pylist()
        wanted = [row for row in everything if all(row[name] == value for name, value in filters.items())]
        assert sorted(map(repr, found)) == sorted(map(repr, wanted)), filters
    assert len(ns.table("route", table=4711)) == 0
    assert len(ns.table("addr", index=4711)) == 0
    assert {row["index"] for row in ns.table("addr", index=index)} == {index}
    assert len(ns.table("neigh", ifindex=4711)) == 0
    assert [row["ifname"] for row in ns.table("link", master=ns.link_lookup(ifname="br0")[0])] == ["v1"]
    assert [row["ifname"] for row in ns.table("link", ifname=lambda name: name.startswith("v"))] == [
        "v1",
        "v0",
    ]
    assert [row["ifname"] for row in ns.table("link", kind="bridge", mtu=1500)] == ["br0"]
    with pytest.raises(ValueError, match="nosuch"):
        ns.table("link", nosuch=1)


@pytest.mark.root
def test_many_rows(ns):
    index = ns.link_lookup(ifname="v0")[0]
    with ns.batch() as batch:
        for n in range(20000):
            batch.route("add", dst=f"11.0.{n >> 8}.{n & 255}/32", oif=index)
    made = ns.table("route", table=254, family=socket.AF_INET, dst_len=32)
    assert len(made) == 20000
    assert made["dst"][12345] == f"11.0.{12345 >> 8}.{12345 & 255}"
    assert set(made["oif"]) == {index}


@pytest.mark.root
def test_between_other_requests(ns):
    """A table waits for the dump before it, and a generator that is half read goes on afterwards."""
    from pyroute2 import config

    config.nlm_generator = True
    try:
        half = ns.link("dump")
        next(half)
        assert len(ns.table("link")) == 4
        assert len(list(half)) == 3
    finally:
        config.nlm_generator = False


@pytest.mark.root
def test_errors_of_the_kernel(ns, monkeypatch):
    monkeypatch.setitem(fastns_table._layouts, "link", layout("link")._replace(request=0xF2))
    with pytest.raises(NetlinkError) as caught:
        ns.table("link")
    assert caught.value.code in (errno.EOPNOTSUPP, errno.EINVAL)
