"""Requests of a proxy with a list of namespaces: nothing outside it is named, changed or told."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import time
from contextlib import closing
from itertools import product

import pytest
from handwritten import (
    ACK,
    CREATE,
    DUMP,
    EXCL,
    GETADDR,
    GETLINK,
    GETROUTE,
    NEWADDR,
    NEWLINK,
    NEWNSID,
    NEWROUTE,
    REQUEST,
    SETLINK,
    STRICT,
    WAIT,
    attribute,
    dump,
    error_of,
    get_link,
    link_body,
    link_up,
    message,
    messages,
)

from fastns import NetNS, ProxyError, _core
from fastns import netns as netns_module
from fastns.proxy import Proxy

pytestmark = pytest.mark.root
GETMULTICAST, GETANYCAST = 58, 62
NSID = 7
NUMBER = b"\xff\xff\xff\x7f"
NAME = attribute(3, b"fnsx0\0")
SIZES = dict.fromkeys(("rcvbuf", "sndbuf", "groups", "portid", "ring_size"), 0)
SWITCHES = dict.fromkeys(("ext_ack", "strict_check", "all_ns", "cap_ack"), False)
FOREIGN_V4, FOREIGN_V6 = bytes([10, 222, 173, 190]), bytes.fromhex("20010db8dead00000000000000adbeef")
MARKS = [b"fnsmark", FOREIGN_V4, FOREIGN_V6[:6], b"\xff\xad\xbe\xef"]
# Bytes in front of the attributes, by the first type of the group.
HEADERS = {16: 16, 20: 8, 24: 12, 28: 12, 32: 12, 36: 20, 40: 20, 44: 20, 56: 8, 60: 8, 72: 12, 84: 8, 92: 12}
HEADERS |= {100: 20, 104: 8, 108: 16, 112: 8, 116: 8, 120: 8}
KNOWN = {
    *(16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 28, 29, 30, 32, 33, 34, 36, 37, 38, 40, 41, 42, 44, 45, 46, 48, 49, 50),
    *(58, 62, 66, 67, 72, 73, 74, 82, 84, 85, 86, 88, 90, 94, 95, 100, 101, 102, 104, 105, 106, 108, 109),
    *(112, 113, 114, 118, 120, 121, 122),
}


def path_of(name):
    return f"{netns_module.NETNS_RUN_DIR}/{name}"


def direct(name):
    with open(path_of(name)) as file:
        return closing(_core.NetlinkSocket(file.fileno()))


def told(transport, request, **options):
    """All bytes of the answer, up to the acknowledgement or the end of the dump; EACCES where it was refused."""
    transport.send(request, **options)
    parts = []
    while True:
        try:
            data = transport.recv(WAIT)
        except OSError as error:
            return error.errno
        parts.append(data)
        if any(kind in (2, 3) for kind, _, _, _ in messages(data)):
            return b"".join(parts)


def attributes(data):
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[(length + 3) & ~3 :]


def state(transport):
    """Links by number, name, address and size, addresses, IPv4 routes: without what comes with time."""
    links = [
        (rest[4:8], {number: value for number, value in attributes(rest[16:]) if number in (1, 3, 4, 10)})
        for _, rest in dump(transport, GETLINK, link_body())
    ]
    addresses = [
        (rest[:2], rest[4:8], dict(attributes(rest[8:]))[1]) for _, rest in dump(transport, GETADDR, b"\0" * 8)
    ]
    routes = [(rest[:8], rest[12:]) for _, rest in dump(transport, GETROUTE, b"\2" + b"\0" * 11)]
    return links, [found for found in addresses if found[2][:2] != b"\xfe\x80"], routes


@pytest.fixture
def foreign(netns_pair):
    """Two namespaces; the second has what the marks are found in, and an id in the first."""
    inside, outside = netns_pair
    netns_module.run_in(outside, forward)
    with direct(outside) as there, direct(inside) as here, open(path_of(outside)) as file:
        peer = attribute(1, link_body() + attribute(3, b"fnsmark1\0"))
        kind = attribute(18, attribute(1, b"veth\0") + attribute(2, peer))
        there.send(message(NEWLINK, REQUEST | ACK | CREATE, link_body() + attribute(3, b"fnsmark0\0") + kind))
        assert error_of(there.recv(WAIT)) == 0
        link_up(there, socket_index(there, b"fnsmark0"))
        link_up(there, socket_index(there, b"fnsmark1"))
        index = socket_index(there, b"fnsmark0")
        for family, prefix, address in ((2, 24, FOREIGN_V4), (10, 64, FOREIGN_V6)):
            body = struct.pack("=BBBBI", family, prefix, 2, 0, index) + attribute(2, address) + attribute(1, address)
            there.send(message(NEWADDR, REQUEST | ACK | CREATE, body))
            assert error_of(there.recv(WAIT)) == 0
        named = attribute(3, struct.pack("=i", file.fileno())) + attribute(1, struct.pack("=i", NSID))
        here.send(message(NEWNSID, REQUEST | ACK, b"\0\0\0\0" + named))
        assert error_of(here.recv(WAIT)) == 0
        link_up(here)
    return inside, outside


def forward():
    with open("/proc/sys/net/ipv6/conf/all/forwarding", "w") as file:
        file.write("1")


def socket_index(transport, name):
    for _, rest in dump(transport, GETLINK, link_body()):
        if attribute(3, name + b"\0") in rest:
            return struct.unpack_from("=i", rest, 4)[0]
    raise AssertionError(name)


# -- every type, every attribute


@pytest.mark.parametrize(("kind", "mark"), [(GETMULTICAST, MARKS[3]), (GETANYCAST, MARKS[2]), (GETADDR, MARKS[1])])
def test_addresses_of_another_namespace_are_not_told(foreign, kind, mark):
    inside, _ = foreign
    family = 2 if kind == GETADDR else 10
    body = struct.pack("=BBBBI", family, 0, 0, 0, 0) + attribute(10, struct.pack("=i", NSID))
    request = message(kind, REQUEST | DUMP, body)
    with direct(inside) as here:
        here.setsockopt(270, STRICT, 1)
        end = time.monotonic() + WAIT
        while mark not in told(here, request):  # the kernel would, once it has joined them
            assert time.monotonic() < end
    with Proxy(netns=[inside]) as proxy:
        channel = proxy.open(inside)
        assert told(channel, request, strict=True) == errno.EACCES
        plain = message(kind, REQUEST | DUMP, struct.pack("=BBBBI", family, 0, 0, 0, 0))
        assert isinstance(told(channel, plain, strict=True), bytes)
        channel.close()


def test_no_type_and_attribute_reaches_another_namespace(foreign):
    inside, outside = foreign
    value = struct.pack("=i", NSID)
    with direct(outside) as there, Proxy(netns=[inside]) as proxy:
        before = state(there)
        channel = proxy.open(inside)
        for kind in range(16, 131):
            header = HEADERS.get(kind & ~3, 4)
            reads = kind & 3 == 2 and kind in KNOWN
            for strict, flags, family in product((False, True), (0, DUMP), (0, 10)) if reads else [(False, 0, 0)]:
                body = bytes([family]) + b"\0" * (header - 1)
                for number in range(1, 128):
                    request = message(kind, REQUEST | ACK | flags, body + attribute(number, value))
                    answer = told(channel, request, strict=strict)
                    if kind not in KNOWN:
                        assert answer == errno.EACCES, (kind, number)
                    elif isinstance(answer, bytes):
                        assert not any(mark in answer for mark in MARKS), (kind, number, strict, flags, family)
        channel.close()
        assert state(there) == before


# -- descriptors put into a request


def send_raw(channel, data, patches, descriptors):
    """As send(), without its questions."""
    offsets = b"".join(struct.pack("=I", offset) for offset in patches)
    head = struct.pack("=IIII", 1, len(data), len(patches), 0)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    with socket.socket(fileno=os.dup(channel.fileno())) as sock:
        sock.sendmsg([head, offsets, data], rights)


def veth_into(extra=b""):
    peer = attribute(1, link_body() + attribute(3, b"fnsx1\0") + attribute(28, NUMBER) + extra)
    info = attribute(18, attribute(1, b"veth\0") + attribute(2, peer))
    return message(NEWLINK, REQUEST | ACK | CREATE | EXCL, link_body() + NAME + info)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(("first", "second"), [(0, -1), (0, 0), (0, 1), (0, 3), (0, -3), (0, -8)])
def test_patches_that_overlap_or_descend_end_the_channel(netns, listed, first, second):
    request = veth_into(attribute(13, b"\1\0\0\0"))
    at = request.index(NUMBER)
    patches = [at + first, at + second]
    with Proxy(netns=[netns] if listed else None) as proxy, open(path_of(netns)) as file:
        channel = proxy.open(netns)
        with pytest.raises(ValueError, match=rf"offset {patches[1]} .*offset {patches[0]}\b"):
            channel.send(request, [(offset, file.fileno()) for offset in patches])
        send_raw(channel, request, patches, [file.fileno()] * 2)
        with pytest.raises(ProxyError):
            channel.recv(WAIT)
        channel.close()
        again = proxy.open(netns)
        assert not any(b"fnsx" in rest for _, rest in dump(again, GETLINK, link_body()))
        again.close()


@pytest.mark.parametrize("which", ["second", "first"])
def test_numbers_shifted_into_one_that_the_proxy_holds(foreign, which):
    """A number is read a byte late: with so many descriptors open it would be that of one of the first, where the
    proxy keeps its own."""
    inside, outside = foreign
    with (
        closing(_core.NetlinkSocket(-1)) as home,
        direct(outside) as there,
        Proxy(netns=[inside], max_channels=1000) as proxy,
        open(path_of(inside)) as file,
    ):
        before = state(home), state(there)
        held = [proxy.open(inside, ring_size=1 << 16) for _ in range(700)]
        for repeated in (0, 150, 200, 250):
            padding = b"".join(attribute(13, NUMBER) for _ in range(repeated))
            request = veth_into(padding)
            at = request.index(NUMBER)
            places = [at + 4 + 8 * number for number in range(1, repeated + 1)]
            patches = [at, *places, at - 1] if which == "second" else [at - 1, *places, at]
            channel = held.pop()
            send_raw(channel, request, patches, [file.fileno()] * len(patches))
            with pytest.raises((ProxyError, PermissionError)):
                channel.recv(WAIT)
            channel.close()
            held.append(proxy.open(inside, ring_size=1 << 16))
        assert not any(b"fnsx" in rest for _, rest in dump(held[0], GETLINK, link_body()))
        assert (state(home), state(there)) == before
        for channel in held:
            channel.close()


@pytest.mark.parametrize("place", [-16, -12, -8, -4, 4])
def test_patch_beside_an_attribute_that_takes_one(netns, place):
    request = veth_into(attribute(13, b"\1\0\0\0"))
    at = request.index(NUMBER)
    patches = sorted([at, at + place])
    with Proxy(netns=[netns]) as proxy, open(path_of(netns)) as file:
        channel = proxy.open(netns)
        channel.send(request, [(offset, file.fileno()) for offset in patches])
        with pytest.raises(PermissionError):
            channel.recv(WAIT)
        channel.close()


def test_each_of_two_equal_attributes_is_a_patch(netns_pair):
    """The kernel takes the last one."""
    here, there = netns_pair
    twice = attribute(28, NUMBER)
    kind = attribute(18, attribute(1, b"dummy\0"))
    request = message(NEWLINK, REQUEST | ACK | CREATE | EXCL, link_body() + NAME + kind + twice + twice)
    ends = [len(request) - 12, len(request) - 4]
    with Proxy(netns=netns_pair) as proxy, open(path_of(there)) as file:
        channel = proxy.open(here)
        for patches in (ends[:1], ends[1:]):
            channel.send(request, [(offset, file.fileno()) for offset in patches])
            with pytest.raises(PermissionError):
                channel.recv(WAIT)
        channel.send(request, [(offset, file.fileno()) for offset in ends])
        assert error_of(channel.recv(WAIT)) in (0, errno.EOPNOTSUPP)  # the latter: without this kind of link
        for short in (b"", b"\1", b"\1\0\0"):
            channel.send(message(SETLINK, REQUEST | ACK, link_body() + NAME + attribute(28, short)))
            with pytest.raises(PermissionError):
                channel.recv(WAIT)
        channel.close()


@pytest.mark.parametrize("options", [{}, {"allowed": []}])
def test_descriptor_of_another_file_is_no_namespace(options):
    client = _core.RelayClient(b"/run/netns", **options)
    reading, writing = os.pipe()
    try:
        with open("/proc/self/ns/mnt") as mount, open("/dev/null") as null, socket.socket() as sock:
            for other in (mount.fileno(), null.fileno(), sock.fileno(), reading, writing):
                with pytest.raises(OSError) as caught:
                    client.open(None, other, other, family=0, **SIZES, **SWITCHES)
                assert caught.value.errno == (errno.EACCES if options else errno.EINVAL)
    finally:
        os.close(reading)
        os.close(writing)
        client.close()


# -- closed lists


def new_link(info, more=b"", flags=CREATE):
    return message(NEWLINK, REQUEST | ACK | flags, link_body() + NAME + more + attribute(18, info))


def kind_of(name, data=b"\0\0\0\0"):
    return attribute(1, name) + attribute(2, attribute(1, data))


ROUTE = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 3, 0, 1, 0)
FILTER = b"\0" * 20
BPF_ENCAP = attribute(21, b"\6\0") + attribute(22, attribute(1, attribute(1, NUMBER)))
LOCAL_ENCAP = attribute(21, b"\7\0") + attribute(22, attribute(8, attribute(1, NUMBER)))
ABOVE = (b"gre", b"ip6gretap", b"ip6tnl", b"sit", b"vti6", b"vxlan", b"geneve", b"xfrm", b"macvlan", b"macsec")
ACTIONS = b"\0" * 4
ACTION_LISTS = {b"basic": 3, b"cgroup": 1, b"flow": 9, b"flower": 3, b"fw": 4, b"matchall": 2, b"route": 6, b"rsvp": 6}
ACTION_LISTS |= {b"rsvp6": 6, b"tcindex": 7, b"u32": 7}


def filter_of(kind, *options):
    return message(44, REQUEST | ACK | CREATE, FILTER + attribute(1, kind + b"\0") + attribute(2, b"".join(options)))


def actions(*kinds):
    """The inside of a list of them."""
    return b"".join(attribute(1 + at, attribute(1, kind) + attribute(2, b"")) for at, kind in enumerate(kinds))


def matches(*kinds):
    """The inside of a tree of them."""
    each = [attribute(1 + at, struct.pack("=HHHH", 0, kind, 0, 0)) for at, kind in enumerate(kinds)]
    return attribute(1, struct.pack("=HH", len(kinds), 0)) + attribute(2, b"".join(each))


BEYOND = {
    "socket of a gtp": new_link(kind_of(b"gtp\0")),
    "file of a ppp": new_link(kind_of(b"ppp\0")),
    "modem of the machine": new_link(kind_of(b"wwan\0"), attribute(56, b"wwan0\0")),
    "sockets of all machines": new_link(attribute(1, b"vsockmon\0")),
    "kind nobody knows": new_link(kind_of(b"fnsnew\0")),
    "kind nobody knows, without data": new_link(attribute(1, b"fnsnew\0")),
    "data without a kind": new_link(attribute(2, attribute(1, b"\0\0\0\0"))),
    "two kinds": new_link(attribute(1, b"gtp\0") + kind_of(b"veth\0")),
    "two data": new_link(kind_of(b"gtp\0") + attribute(2, b"")),
    "part of a kind nobody knows": new_link(attribute(6, b"\0\0\0\0")),
    "peer of a netkit": new_link(kind_of(b"netkit\0", link_body() + attribute(19, struct.pack("=I", 1)))),
    "program of a link": new_link(attribute(1, b"dummy\0"), attribute(43, attribute(1, b"\3\0\0\0"))),
    "program expected": new_link(attribute(1, b"dummy\0"), attribute(43, attribute(8, b"\3\0\0\0"))),
    "attribute of a link nobody knows": new_link(attribute(1, b"dummy\0"), attribute(70, b"\0\0\0\0")),
    "link of a link's names": message(108, REQUEST | ACK, link_body(1) + attribute(46, struct.pack("=i", NSID))),
    "attribute of an address nobody knows": message(NEWADDR, REQUEST | ACK, b"\0" * 8 + attribute(12, NUMBER)),
    "current id": message(90, REQUEST | ACK, b"\0\0\0\0" + attribute(5, struct.pack("=i", NSID))),
    "program of a route": message(NEWROUTE, REQUEST | ACK, ROUTE + BPF_ENCAP),
    "program of a segment": message(NEWROUTE, REQUEST | ACK, ROUTE + LOCAL_ENCAP),
    "program of one hop": message(
        NEWROUTE, REQUEST | ACK, ROUTE + attribute(9, struct.pack("=HBBi", 8 + len(BPF_ENCAP), 0, 0, 1) + BPF_ENCAP)
    ),
    "tunnel whose kind the kernel reads beyond its end": message(
        NEWROUTE, REQUEST | ACK, ROUTE + attribute(9, struct.pack("=HBBi", 12, 0, 0, 1) + attribute(21, b""))
    ),
    "program of a next hop": message(
        104, REQUEST | ACK, b"\0" * 8 + attribute(7, b"\6\0") + attribute(8, attribute(1, attribute(1, NUMBER)))
    ),
    "tunnel nobody knows": message(NEWROUTE, REQUEST | ACK, ROUTE + attribute(21, b"\x0b\0") + attribute(22, b"")),
    "part of a segment nobody knows": message(
        NEWROUTE, REQUEST | ACK, ROUTE + attribute(21, b"\7\0") + attribute(22, attribute(12, NUMBER))
    ),
    "radio of the first namespace": new_link(attribute(1, b"virt_wifi\0"), attribute(5, struct.pack("=I", 1))),
    "device shared with another namespace": new_link(attribute(1, b"ipvlan\0")),
    "device shared with another namespace, tap": new_link(attribute(1, b"ipvtap\0")),
    "device a VXLAN sends through": message(28, REQUEST | ACK | CREATE, b"\7" + b"\0" * 11 + attribute(8, NUMBER)),
    "device a VXLAN sends a group through": message(
        84, REQUEST | ACK | CREATE, b"\7" + b"\0" * 7 + attribute(0x8002, attribute(8, NUMBER))
    ),
    "ring whose failures are told elsewhere": new_link(kind_of(b"hsr\0")),
    "part of a gtp nobody knows": new_link(attribute(1, b"gtp\0") + attribute(2, attribute(9, NUMBER))),
    "part of a veth nobody knows": new_link(attribute(1, b"veth\0") + attribute(2, attribute(2, NUMBER))),
    "part of a netkit nobody knows": new_link(attribute(1, b"netkit\0") + attribute(2, attribute(10, NUMBER))),
    "priorities by number of link": message(78, REQUEST, b"\0\x14\0\0" + attribute(1, b"lo\0")),
    "priorities set by number of link": message(79, REQUEST | ACK, b"\0\x15\0\0" + attribute(1, b"lo\0")),
    "slave of a link elsewhere": message(36, REQUEST | ACK | CREATE, FILTER + attribute(1, b"teql0\0")),
    "slave of another": message(36, REQUEST | ACK | CREATE, FILTER + attribute(1, b"teql15")),
    "qdisc nobody knows": message(36, REQUEST | ACK | CREATE, FILTER + attribute(1, b"fnsnew\0")),
    "qdisc whose name goes on": message(36, REQUEST | ACK | CREATE, FILTER + attribute(1, b"prioritized\0")),
    "qdisc without a name": message(36, REQUEST | ACK | CREATE, FILTER + attribute(1, b"\0")),
    "second qdisc": message(36, REQUEST | ACK | CREATE, FILTER + attribute(1, b"prio\0") + attribute(1, b"atm\0")),
    "options of a qdisc that is there": message(36, REQUEST | ACK, FILTER + attribute(2, attribute(1, NUMBER))),
    "class of a qdisc nobody knows": message(40, REQUEST | ACK | CREATE, FILTER + attribute(1, b"atm\0")),
    "filter nobody knows": filter_of(b"fnsnew"),
    "filter nobody knows, asked for": message(46, REQUEST, FILTER + attribute(1, b"fnsnew\0")),
    "filter nobody knows, of a chain": message(100, REQUEST | ACK | CREATE, FILTER + attribute(1, b"fnsnew\0")),
    "program as a filter": filter_of(b"bpf", attribute(6, NUMBER)),
    "options of a filter that is there": message(44, REQUEST | ACK, FILTER + attribute(2, attribute(6, NUMBER))),
    "two filters": message(44, REQUEST | ACK, FILTER + attribute(1, b"u32\0") * 2),
    "two filters, the first unknown": message(44, REQUEST | ACK, FILTER + attribute(1, b"bpf") + attribute(1, b"u32")),
    "match nobody knows": filter_of(b"basic", attribute(2, matches(10))),
    "match nobody knows, nested": filter_of(b"flow", attribute(0x8000 | 11, matches(1, 4, 0xFFFF))),
    "match without a kind": filter_of(b"cgroup", attribute(3, attribute(2, attribute(1, b"\0\0")))),
}
BEYOND |= {f"link below a {kind.decode()} that is there": new_link(kind_of(kind + b"\0")) for kind in ABOVE}
BEYOND |= {
    f"{kind.decode()} as action {at} of {name.decode()}": filter_of(name, attribute(number, actions(*[b"gact"] * at, kind)))
    for name, number in ACTION_LISTS.items()
    for at, kind in enumerate((b"bpf", b"ipt\0", b"xt", b"simple\0", b"fnsnew"))
}
BEYOND |= {
    f"{kind.decode()} as an action, type {number}": message(number, flags, ACTIONS + attribute(1, actions(b"gact", kind)))
    for number, flags in ((48, REQUEST | ACK | CREATE), (49, REQUEST | ACK), (50, REQUEST | DUMP))
    for kind in (b"bpf", b"ipt", b"xt", b"simple", b"fnsnew")
}


@pytest.mark.parametrize("what", sorted(BEYOND))
def test_descriptors_and_what_nobody_knows_are_refused(netns, what):
    with Proxy(netns=[netns]) as proxy:
        channel = proxy.open(netns)
        assert told(channel, BEYOND[what]) == errno.EACCES
        assert told(channel, get_link() + BEYOND[what]) == errno.EACCES
        channel.close()


@pytest.mark.parametrize(
    "request_",
    [
        new_link(kind_of(b"vlan\0")),
        new_link(attribute(1, b"vcan\0")),
        message(SETLINK, REQUEST | ACK, link_body(1) + attribute(43, attribute(1, b"\xff\xff\xff\xff"))),
        message(NEWROUTE, REQUEST | ACK, ROUTE + attribute(21, b"\1\0") + attribute(22, attribute(8, NUMBER))),
        message(44, REQUEST | ACK, FILTER + attribute(1, b"u32\0") + attribute(2, b"bpf\0")),
        message(44, REQUEST | ACK, FILTER + attribute(2, b"bpf\0") + attribute(1, b"u32")),
        filter_of(b"u32", attribute(8, b"bpf\0"), attribute(7, actions(b"mirred\0", b"gact", b"tunnel_key"))),
        filter_of(b"basic", attribute(2, matches(*range(10))), attribute(3, actions(b"pedit"))),
        message(45, REQUEST | ACK, FILTER),
        message(36, REQUEST | ACK, FILTER + attribute(1, b"pfifo_head_drop\0") + attribute(2, b"")),
        message(40, REQUEST | ACK, FILTER + attribute(1, b"htb") + attribute(2, b"")),
        message(48, REQUEST | ACK | CREATE, ACTIONS + attribute(1, actions(b"mirred", b"police\0"))),
        message(50, REQUEST | DUMP, ACTIONS + attribute(1, attribute(1, attribute(1, b"mirred\0")))),
        new_link(attribute(1, b"gtp\0") + attribute(2, attribute(8, NUMBER)), flags=CREATE | EXCL),
        *(new_link(kind_of(kind + b"\0"), flags=CREATE | EXCL) for kind in ABOVE),
        new_link(attribute(1, b"vxlan\0")),
        message(30, REQUEST | DUMP, b"\0" * 12 + attribute(8, NUMBER)),
        message(29, REQUEST | ACK, b"\7" + b"\0" * 11 + attribute(8, NUMBER)),
        message(84, REQUEST | ACK | CREATE, b"\7" + b"\0" * 7 + attribute(0x8002, attribute(5, NUMBER))),
        message(88, REQUEST | ACK, b"\0\0\0\0" + attribute(1, struct.pack("=i", 3))),
    ],
    ids=[
        *("vlan", "no data", "program off", "tunnel", "filter", "kind behind", "action", "match", "filter away"),
        *("qdisc", "class", "actions", "actions told", "gtp"),
        *(f"new {kind.decode()}" for kind in ABOVE),
        *("vxlan without options", "neighbours told", "neighbour away", "group", "id"),
    ],
)
def test_what_names_nothing_is_the_kernels_to_judge(netns, request_):
    with Proxy(netns=[netns]) as proxy:
        channel = proxy.open(netns)
        assert isinstance(told(channel, request_), bytes)
        channel.close()


def test_traffic_of_known_kinds_is_set_up(netns):
    """As pyroute2 asks for it."""
    with Proxy(netns=[netns]) as proxy, NetNS(netns, proxy=proxy, flags=0) as ns:
        try:
            ns.tc("add", "htb", 1, handle="1:", default=0x10)
            ns.tc("add-class", "htb", 1, handle="1:10", parent="1:", rate="256kbit", burst=6144)
            mirror = {"kind": "mirred", "direction": "egress", "action": "mirror", "ifindex": 1}
            ns.tc("add-filter", "u32", 1, parent="1:", prio=10, protocol=3, target="1:10", keys=["0/0+0"], action=mirror)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
                raise
            pytest.skip("kernel: without htb, u32 or mirred")
        options = ns.get_filters(index=1, parent=0x10000)[-1].get_attr("TCA_OPTIONS")
        assert options.get_attr("TCA_U32_ACT").get_attr("TCA_ACT_PRIO_1").get_attr("TCA_ACT_KIND") == "mirred"
        ns.tc("del", index=1, handle="1:", parent=0xFFFFFFFF)
        assert "htb" not in [qdisc.get_attr("TCA_KIND") for qdisc in ns.get_qdiscs(1)]


# -- families

DIAG, XFRM, NETFILTER = 4, 6, 12
INET = struct.pack("=BBBBI", 2, 6, 0, 0, 0xFFFFFFFF) + b"\0" * 48


def nftables(kind, body):
    return message(0xA00 | kind, REQUEST | ACK, b"\0" * 4 + body)


def expression(kind, data):
    return attribute(1, kind) + attribute(2, data)


def expressions(number, *kinds_and_data):
    """An attribute that is a list of them."""
    pairs = zip(kinds_and_data[::2], kinds_and_data[1::2])
    return attribute(number, b"".join(attribute(1, expression(*pair)) for pair in pairs))


def dynset(inside):
    return attribute(1, b"match\0") + inside


OTHERS = {
    "map of sockets": (DIAG, message(20, REQUEST | DUMP, INET + attribute(2, attribute(1, NUMBER)))),
    "sockets of the machine": (DIAG, message(20, REQUEST | DUMP, b"\x28" + b"\0" * 23)),
    "older sockets": (DIAG, message(18, REQUEST | DUMP, INET)),
    "migration": (XFRM, message(0x21, REQUEST | ACK, b"\0" * 64)),
    "xfrm nobody knows": (XFRM, message(0x29, REQUEST | ACK, b"\0" * 8)),
    "fingerprints": (NETFILTER, message(0x500, REQUEST | ACK | CREATE, b"\0\0\0\0")),
    "helpers": (NETFILTER, message(0x901, REQUEST | DUMP, b"\0\0\0\0")),
    "subsystem nobody knows": (NETFILTER, message(0xD00, REQUEST | ACK, b"\0\0\0\0")),
    "type of a subsystem nobody knows": (NETFILTER, message(0x108, REQUEST | ACK, b"\0\0\0\0")),
    "type of nftables nobody knows": (NETFILTER, message(0xA22, REQUEST | ACK, b"\0\0\0\0")),
    "object nobody knows": (NETFILTER, nftables(18, attribute(3, b"\0\0\0\x0b"))),
    "object with a short number": (NETFILTER, nftables(18, attribute(3, b"\1"))),
    "dynset in a dynset": (NETFILTER, nftables(6, expressions(4, b"dynset", dynset(expressions(10, b"dynset", b""))))),
}
OTHERS |= {
    f"{kind.decode()} {where}": (NETFILTER, request)
    for kind in (b"match\0", b"target", b"fnsnew\0", b"bitwise2", b"")
    for where, request in {
        "in a rule": nftables(6, expressions(4, b"counter", b"", kind, NUMBER)),
        "in a set": nftables(9, attribute(17, expression(kind, NUMBER))),
        "in a set's list": nftables(9, expressions(18, kind, NUMBER)),
        "in an element": nftables(12, attribute(3, attribute(1, attribute(7, expression(kind, NUMBER))))),
        "in an element's list": nftables(12, attribute(3, b"\4\0\1\0" + attribute(1, expressions(11, kind, NUMBER)))),
        "in a dynset": nftables(6, expressions(4, b"dynset", dynset(attribute(7, expression(kind, NUMBER))))),
        "in a dynset's list": nftables(6, expressions(4, b"dynset\0", dynset(expressions(10, kind, NUMBER)))),
    }.items()
}


@pytest.mark.parametrize("what", sorted(OTHERS))
def test_requests_of_other_families(netns, what):
    family, request = OTHERS[what]
    with Proxy(netns=[netns], families=[family]) as proxy:
        channel = proxy.open(netns, family=family)
        assert told(channel, request) == errno.EACCES
        channel.close()


@pytest.mark.parametrize(
    ("family", "request_"),
    [
        (DIAG, message(20, REQUEST | DUMP, INET)),
        (XFRM, message(0x15, REQUEST | DUMP, b"\0" * 64)),
        (NETFILTER, message(0xA0A, REQUEST | ACK | DUMP, b"\0\0\0\0")),
        (NETFILTER, nftables(0, attribute(1, b"match\0"))),
        (NETFILTER, nftables(3, attribute(1, b"target\0") + attribute(3, b"match\0"))),
        (NETFILTER, nftables(6, expressions(4, b"immediate", b"", b"dynset", dynset(expressions(10, b"limit", b""))))),
        (NETFILTER, nftables(18, attribute(3, b"\0\0\0\x0a"))),
    ],
)
def test_other_families_within_the_list(netns, family, request_):
    with Proxy(netns=[netns], families=[family]) as proxy:
        channel = proxy.open(netns, family=family)
        assert isinstance(told(channel, request_), bytes)
        channel.close()


def test_a_table_of_any_name_is_made(netns):
    batch = struct.pack("=BB", 0, 0) + struct.pack(">H", 10)
    within = attribute(1, b"match\0") + attribute(2, b"target\0")
    requests = [
        (0, REQUEST | ACK | CREATE, attribute(1, b"match\0")),
        (3, REQUEST | ACK | CREATE, attribute(1, b"match\0") + attribute(3, b"target\0")),
        (6, REQUEST | ACK | CREATE, within + expressions(4, b"counter", b"")),
        (9, REQUEST | ACK | CREATE, within + attribute(4, b"\0" * 4) + attribute(5, b"\0\0\0\4") + attribute(10, b"\0\0\0\1")),
    ]
    sent = [message(0xA00 | kind, flags, b"\1\0\0\0" + body) for kind, flags, body in requests]
    with Proxy(netns=[netns], families=[NETFILTER]) as proxy:
        channel = proxy.open(netns, family=NETFILTER)
        channel.send(message(0x10, REQUEST, batch) + b"".join(sent) + message(0x11, REQUEST, batch))
        answers = []
        while len(answers) < len(sent) and not any(answers):
            answers += [struct.unpack_from("=i", rest)[0] for *_, rest in messages(channel.recv(WAIT))]
        if -errno.EOPNOTSUPP in answers:
            pytest.skip("kernel: without nftables")
        assert answers == [0] * len(sent)
        channel.close()


@pytest.mark.parametrize("options", [{"read_only": True}, {"netns": []}, {"netns": [], "read_only": True}])
def test_families_that_could_do_more(options):
    for family in set(range(32)) - {0, DIAG, XFRM, NETFILTER}:
        with pytest.raises(ValueError, match=f"family {family} "):
            Proxy(families=[0, family], **options)


@pytest.mark.parametrize("options", [{"read_only": True}, {"allowed": []}])
def test_families_are_the_proxys_to_refuse(options):
    client = _core.RelayClient(b"/run/netns", families=0xFFFFFFFF, **options)
    with open("/proc/self/ns/net") as file:
        for family in range(32):
            try:
                client.open(None, file.fileno(), None, family=family, **SIZES, **SWITCHES).close()
            except OSError as error:
                if error.errno == errno.EACCES:
                    continue
            assert "read_only" in options and family in (0, DIAG, XFRM, NETFILTER)
    client.close()


def test_reading_only_means_the_family_of_routes(netns):
    with Proxy(read_only=True) as proxy:
        proxy.open(netns).close()
        for family in (DIAG, XFRM, NETFILTER, 15, 16):
            with pytest.raises(PermissionError):
                proxy.open(netns, family=family)
    destroy = message(21, REQUEST | ACK, INET)
    flush, change = message(0x1D, REQUEST | ACK, b"\0" * 8), message(0x601, REQUEST | ACK, b"\0" * 4)
    writes = {DIAG: destroy, XFRM: flush, NETFILTER: change}
    with Proxy(read_only=True, families=writes) as proxy:
        for family, request in writes.items():
            try:
                channel = proxy.open(netns, family=family)
            except OSError as error:
                assert error.errno == errno.EPROTONOSUPPORT
                continue
            answer = told(channel, request)
            assert error_of(answer) in ((errno.EPERM, errno.ENOENT) if family == DIAG else (errno.EPERM,))
            channel.close()
