"""The relay: the proxy process, its channels and its ring, on the real kernel."""

from __future__ import annotations

import errno
import os
import re
import struct
import threading
import time

import pytest
from handwritten import (
    ACK,
    CREATE,
    EXCL,
    GETLINK,
    LINK_GROUP,
    NEWLINK,
    NEWROUTE,
    REQUEST,
    ROUTE_GROUP,
    SETLINK,
    WAIT,
    add_route,
    arrived,
    attribute,
    dump,
    error_of,
    forced_buffers,
    get_link,
    link_body,
    link_up,
    load_routes,
    message,
    messages,
    open_fds,
    routes,
    settle,
)

from fastns import _core
from fastns import netns as netns_module
from fastns.errors import ProxyError

# -- requests and answers


def test_one_link_equals_direct(channel):
    direct = _core.NetlinkSocket(ext_ack=True)
    direct.send(get_link())
    channel.send(get_link())
    ours, theirs = next(messages(channel.recv(WAIT))), next(messages(direct.recv(WAIT)))
    assert ours[0] == theirs[0] == NEWLINK
    assert ours[3][:16] == theirs[3][:16]
    direct.close()


@pytest.mark.root
def test_dump_equals_direct(proxy, netns):
    nsfd, _ = netns_module.open_ref(netns)
    direct = _core.NetlinkSocket(nsfd)
    os.close(nsfd)
    relayed = proxy.open(netns)
    link_up(relayed)
    load_routes(relayed, 100_000)
    ours, theirs = routes(relayed), routes(direct)
    assert len(ours) > 100_000
    assert ours == theirs
    relayed.close()
    direct.close()


def test_answers_keep_their_order(channel):
    for seq in range(1, 200):
        channel.send(get_link(seq=seq))
    for seq in range(1, 200):
        assert next(messages(channel.recv(WAIT)))[2] == seq


def test_kernel_error_with_text(channel):
    channel.send(message(GETLINK, REQUEST, link_body(0x7FFFFFF0)))
    assert error_of(channel.recv(WAIT)) == errno.ENODEV


@pytest.mark.root
def test_request_of_megabytes(proxy, netns):
    channel = proxy.open(netns, sndbuf=32 << 20)
    link_up(channel)
    data = b"".join(add_route(number) for number in range(80_000)) + add_route(
        80_000, flags=REQUEST | CREATE | ACK
    )
    assert len(data) > 3 << 20
    assert channel.send(data) == len(data)
    assert error_of(channel.recv(WAIT)) == 0
    assert len(routes(channel)) >= 80_001
    channel.close()


@pytest.mark.parametrize("size", [128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, 1 << 20])
def test_request_around_the_inline_limit(proxy, size):
    """The kernel reads the whole datagram: the request at its end is answered."""
    channel = proxy.open(sndbuf=8 << 20)
    filler = message(3, REQUEST, b"\0" * (size - 16 - len(get_link()) - (size % 4)))
    data = filler + get_link(seq=9)
    channel.send(data)
    assert next(messages(channel.recv(WAIT)))[2] == 9
    channel.close()


def test_send_error_of_the_kernel_reaches_the_caller(proxy):
    channel = proxy.open(sndbuf=8192)
    channel.send(b"\0" * (1 << 20))
    channel.send(get_link(seq=4))
    with pytest.raises(OSError, match="in the proxy, sendto") as caught:
        channel.recv(WAIT)
    assert caught.value.errno == errno.EMSGSIZE
    assert next(messages(channel.recv(WAIT)))[2] == 4
    channel.close()


def test_many_send_errors_do_not_stop_the_channel(proxy):
    channel = proxy.open(sndbuf=8192, ring_size=65536)
    for _ in range(40):
        channel.send(b"\0" * (1 << 18))
    failures = 0
    while failures < 40:
        with pytest.raises(OSError) as caught:
            channel.recv(WAIT)
        assert caught.value.errno == errno.EMSGSIZE
        failures += 1
    channel.send(get_link(seq=5))
    assert next(messages(channel.recv(WAIT)))[2] == 5
    channel.close()


def test_more_send_errors_than_the_ring_holds(proxy):
    """A few wait outside it, the last of them for all that find no room; then the channel goes on."""
    channel = proxy.open(ring_size=65536, sndbuf=1)
    for _ in range(5000):
        channel.send(b"\0" * 16384)
    channel.getsockname()
    failures = arrived(proxy, channel)
    assert {error.errno for error in failures} == {errno.EMSGSIZE}
    assert 65536 // 16 <= len(failures) < 5000
    channel.send(get_link(seq=5))
    assert next(messages(channel.recv(WAIT)))[2] == 5
    channel.close()


@pytest.mark.parametrize("data", [b"", bytearray()])
def test_empty_request_is_refused(channel, data):
    with pytest.raises(OSError) as caught:
        channel.send(data)
    assert caught.value.errno == errno.EMSGSIZE


def test_buffers_of_other_types(channel):
    channel.send(bytearray(get_link(seq=3)))
    channel.send(memoryview(b"xx" + get_link(seq=4))[2:])
    assert [next(messages(channel.recv(WAIT)))[2] for _ in range(2)] == [3, 4]
    with pytest.raises(TypeError):
        channel.send("text")


def test_answer_larger_than_the_ring_is_an_error_not_a_cut(proxy):
    """Without CAP_ACK a refused request comes back whole in the error."""
    channel = proxy.open(ring_size=65536, sndbuf=1 << 20, ext_ack=False)
    bad = struct.pack("=IHHII", 100_000, 0x7FF, REQUEST | ACK, 1, 0) + b"\0" * (100_000 - 16)
    channel.send(bad)
    channel.send(get_link(seq=2))
    with pytest.raises(OSError, match="does not fit the ring") as caught:
        channel.recv(WAIT)
    assert caught.value.errno == errno.EMSGSIZE
    assert next(messages(channel.recv(WAIT)))[2] == 2
    channel.close()


# -- descriptors inside requests


@pytest.mark.root
def test_descriptor_in_a_request_is_translated(proxy, netns_pair, ifname):
    here, there = (proxy.open(name) for name in netns_pair)
    kind = attribute(18, attribute(1, b"veth\0"))
    here.send(
        message(
            NEWLINK, REQUEST | ACK | CREATE | EXCL, link_body() + attribute(3, ifname.encode() + b"\0") + kind
        )
    )
    assert error_of(here.recv(WAIT)) == 0
    nsfd, _ = netns_module.open_ref(netns_pair[1])
    request = message(
        SETLINK,
        REQUEST | ACK,
        link_body() + attribute(3, ifname.encode() + b"\0") + attribute(28, b"\xff\xff\xff\x7f"),
    )
    # our number means nothing to the proxy
    before = open_fds()
    here.send(request, [(len(request) - 4, nsfd)])
    assert error_of(here.recv(WAIT)) == 0
    assert open_fds() == before
    os.close(nsfd)
    assert any(ifname.encode() in rest for _, rest in dump(there, GETLINK, link_body()))
    assert not any(ifname.encode() in rest for _, rest in dump(here, GETLINK, link_body()))
    here.close()
    there.close()


def test_descriptors_are_closed_after_the_request(proxy, channel):
    channel.getsockname()  # by now the proxy has let go of what it sent
    before = len(os.listdir(f"/proc/{proxy.pid}/fd"))
    request = get_link() + b"\0" * 400
    nsfd = os.open("/proc/self/ns/net", os.O_RDONLY)
    for _ in range(50):
        channel.send(request, [(48 + 4 * i, nsfd) for i in range(90)])
        channel.recv(WAIT)
    os.close(nsfd)
    channel.getsockname()  # by now the last request is done with
    assert len(os.listdir(f"/proc/{proxy.pid}/fd")) == before


@pytest.mark.parametrize("offset", [-1, 29, 32, 1 << 40])
def test_descriptor_outside_the_request(channel, offset):
    with pytest.raises((ValueError, OverflowError)):
        channel.send(get_link(), [(offset, 0)])


def test_descriptor_that_is_closed(channel):
    with pytest.raises(OSError) as caught:
        channel.send(get_link(), [(20, 987654)])
    assert caught.value.errno == errno.EBADF


def test_too_many_descriptors(channel):
    with pytest.raises(OSError) as caught:
        channel.send(b"\0" * 4096, [(i, 0) for i in range(400)])
    assert caught.value.errno == errno.E2BIG


# -- events, backpressure, loss


@pytest.mark.root
def test_events_wait_while_nobody_reads(proxy, netns):
    """First in the ring, then in the socket: 100,000 at once in a large buffer, or a few at a time in the usual one."""
    writer = proxy.open(netns)
    link_up(writer)
    events = proxy.open(netns, groups=ROUTE_GROUP, rcvbuf=64 << 20, ring_size=1 << 20)
    chunk = 100_000 if forced_buffers() else 50
    written = 0
    while not proxy.stats()["stalls"]:
        load_routes(writer, chunk, first=written)
        written += chunk
        settle(proxy)
    assert proxy.stats()["overruns"] == 0
    seen = 0
    while seen < written:
        for kind, _, _, rest in messages(events.recv(WAIT)):
            assert kind == NEWROUTE
            assert struct.pack(">I", (10 << 24) + seen) in rest
            seen += 1
    assert arrived(proxy, events) == []
    events.close()
    writer.close()


def stalled(proxy):
    """Wait until it has found a ring full."""
    end = time.monotonic() + WAIT
    while not proxy.stats()["stalls"] and time.monotonic() < end:
        time.sleep(0.002)
    assert proxy.stats()["stalls"]


@pytest.mark.root
def test_dump_through_a_tiny_ring_loses_nothing(proxy, netns):
    channel = proxy.open(netns, ring_size=65536)
    link_up(channel)
    load_routes(channel, 20_000)
    assert len(routes(channel, begin=lambda: stalled(proxy))) >= 20_000
    channel.close()


@pytest.mark.root
def test_loss_is_reported_where_it_happened(proxy, netns):
    events = proxy.open(netns, groups=ROUTE_GROUP, ring_size=65536, rcvbuf=65536)
    writer = proxy.open(netns)
    link_up(writer)
    load_routes(writer, 20_000)
    numbers, losses = [], set()
    for item in arrived(proxy, events):
        if isinstance(item, OSError):
            assert item.errno == errno.ENOBUFS
            losses.add(len(numbers))
            continue
        for kind, _, _, rest in messages(item):
            found = re.search(rb"\x08\x00\x01\x00\x0a(...)", rest, re.DOTALL)
            if kind == NEWROUTE and found:
                numbers.append(int.from_bytes(found[1], "big"))
    assert numbers == sorted(numbers)
    assert len(numbers) < 20_000
    gaps = {place for place, (a, b) in enumerate(zip([-1, *numbers], [*numbers, 20_000])) if b != a + 1}
    assert gaps <= losses
    load_routes(writer, 10, first=30_000)  # and it goes on
    seen = [kind for _ in range(10) for kind, *_ in messages(events.recv(WAIT))]
    assert seen == [NEWROUTE] * 10
    assert proxy.stats()["overruns"] >= 1
    events.close()
    writer.close()


@pytest.mark.root
@pytest.mark.parametrize(
    "rcvbuf",
    [65536, 212992, 1 << 20],  # the second holds four times what the proxy takes at once
    ids=["lost before it is full", "lost after, whole turns", "lost after"],
)
def test_full_ring_with_loss_leaves_the_proxy_idle(proxy, netns, rcvbuf):
    events = proxy.open(netns, groups=ROUTE_GROUP, ring_size=65536, rcvbuf=rcvbuf)
    writer = proxy.open(netns)
    link_up(writer)
    load_routes(writer, 20_000)

    def ticks():
        with open(f"/proc/{proxy.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(0.5)
    assert ticks() - before < 25  # a hundredth of a second each: half of the time would be 25
    losses = [item.errno for item in arrived(proxy, events) if isinstance(item, OSError)]
    assert set(losses) == {errno.ENOBUFS}
    events.close()
    writer.close()


def test_idle_ring_costs_few_pages(proxy):
    channels = [proxy.open() for _ in range(50)]
    for channel in channels:
        for _ in range(100):  # more than a ring's first pages in all
            channel.send(get_link())
            channel.recv(WAIT)
    with open(f"/proc/{proxy.pid}/smaps") as file:
        text = file.read()
    resident = [int(size) for size in re.findall(r"fastns-ring.*?\nRss:\s+(\d+) kB", text, re.DOTALL)]
    assert len(resident) == 50
    assert max(resident) <= 40
    for channel in channels:
        channel.close()


def rings(pid):
    with open(f"/proc/{pid}/maps") as file:
        return {line.split()[0] for line in file if "fastns-ring" in line}


@pytest.mark.root
def test_ring_of_a_closed_channel_is_used_again(proxy, netns_pair):
    """By the next channel, from its beginning, wherever that is; what the closed one had sent is done all the same."""
    first, second = netns_pair
    channel = proxy.open(first)
    for number in range(50):
        channel.send(get_link(seq=number))
    before = rings(proxy.pid), rings(os.getpid())
    channel.send(message(SETLINK, REQUEST, link_body(1, 1, 1)))
    channel.close()
    for name in (second, first, second, first):
        channel = proxy.open(name)
        assert (rings(proxy.pid), rings(os.getpid())) == before
        with pytest.raises(TimeoutError):
            channel.recv(0)
        (answer,) = dump(channel, GETLINK, link_body())
        assert struct.unpack_from("=I", answer[1], 8)[0] & 1 == (name == first)  # IFF_UP
        channel.close()
    channel = proxy.open(first, ring_size=65536)  # another size: another ring
    assert rings(proxy.pid) > before[0]
    assert len(dump(channel, GETLINK, link_body())) == 1
    channel.close()


def test_rings_kept_for_later_are_few(proxy):
    before = rings(os.getpid())
    for count in (1, 20, 50):
        channels = [proxy.open() for _ in range(count)]
        for channel in channels:
            channel.send(get_link())
            channel.recv(WAIT)
            channel.close()
        proxy.open().close()
        end = time.monotonic() + WAIT
        while len(rings(proxy.pid)) > 4 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(rings(proxy.pid)) <= 4
        assert len(rings(os.getpid()) - before) <= 1
    proxy.close()
    assert rings(os.getpid()) == before


@pytest.mark.root
def test_pages_of_a_burst_are_given_back(proxy, netns):
    events = proxy.open(netns, groups=ROUTE_GROUP)
    writer = proxy.open(netns)
    link_up(writer)

    def blocks():
        with open(f"/proc/{proxy.pid}/smaps") as file:
            return max(
                int(size) for size in re.findall(r"fastns-ring.*?\nRss:\s+(\d+) kB", file.read(), re.DOTALL)
            )

    written = 0
    while blocks() <= 2000:  # what the kernel drops meanwhile is of no matter
        load_routes(writer, 5000, first=written)
        written += 5000
    arrived(proxy, events)
    held = blocks()
    assert held > 2000
    for number in range(3):  # until it is clear that no such burst follows
        load_routes(writer, 1, first=written + number)
        arrived(proxy, events)
    assert blocks() < held / 4
    events.close()
    writer.close()


# -- threads


def test_threads_with_channels_of_their_own(proxy):
    errors = []

    def work(number):
        try:
            channel = proxy.open()
            for seq in range(300):
                channel.send(get_link(seq=number * 1000 + seq))
                assert next(messages(channel.recv(WAIT)))[2] == number * 1000 + seq
                if seq % 50 == 0:
                    channel.getsockname()
            channel.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert errors == []


def test_one_channel_sent_by_one_thread_and_read_by_another(channel):
    seen = []

    def read():
        while len(seen) < 2000:
            seen.append(next(messages(channel.recv(WAIT)))[2])

    thread = threading.Thread(target=read)
    thread.start()
    for seq in range(2000):
        channel.send(get_link(seq=seq))
    thread.join(WAIT)
    assert seen == list(range(2000))


# -- a ring that lies


def ring_addresses(proxy):
    """Where the rings of this proxy are mapped here; other proxies' may be as well."""
    with open("/proc/self/maps") as here, open(f"/proc/{proxy.pid}/maps") as there:
        inodes = {line.split()[4] for line in there if "fastns-ring" in line}
        return [
            int(line.split("-")[0], 16)
            for line in here
            if "fastns-ring" in line and line.split()[4] in inodes
        ]


HEAD, BASE, TAIL = 64, 72, 128


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (HEAD, struct.pack("=Q", 1 << 40)),
        (HEAD, struct.pack("=Q", 12)),
        (HEAD, struct.pack("=Q", (1 << 64) - 8)),
        (BASE, struct.pack("=Q", 1 << 50)),
        (BASE, struct.pack("=Q", 4)),
        (4096, struct.pack("=II", 0xFFFFFFFF, 1)),
        (4096, struct.pack("=II", 0x7FFFFFF0, 1)),
        (4096, struct.pack("=II", 100_000, 2)),
        (4096, struct.pack("=II", 4, 4)),
        (4096, struct.pack("=II", 16, 99)),
    ],
)
def test_corrupted_ring_is_an_error(proxy, channel, offset, value):
    channel.send(get_link())
    channel.getsockname()  # which comes after the request
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(ring_addresses(proxy)[0] + offset)
        memory.write(value)
    with pytest.raises(ProxyError) as caught:
        channel.recv(WAIT)
    assert caught.value.errno == errno.EPROTO


def test_proxy_closes_a_channel_whose_ring_lies(proxy, channel):
    other = proxy.open()
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(ring_addresses(proxy)[0] + TAIL)
        memory.write(struct.pack("=Q", 1 << 33))
    answers = []
    for made in (channel, other):
        made.send(get_link())
        try:
            answers.append(made.recv(WAIT))
        except ProxyError as error:
            answers.append(None)
            assert error.status is None
    assert answers.count(None) == 1
    assert proxy.alive
    other.close()


@pytest.mark.root
def test_proxy_closes_a_channel_whose_ring_lies_when_an_event_comes(proxy, netns):
    writer = proxy.open(netns)
    events = proxy.open(netns, groups=LINK_GROUP)
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        for address in ring_addresses(proxy):
            memory.seek(address + TAIL)
            if memory.read(8) == b"\0" * 8:  # nothing read yet from either: the writer's lies as well
                memory.seek(address + TAIL)
                memory.write(struct.pack("=Q", 1 << 33))
    writer.send(message(SETLINK, REQUEST, link_body(1, 1, 1)))
    for made in (writer, events):
        with pytest.raises(ProxyError) as caught:
            made.recv(WAIT)
        assert caught.value.status is None
    assert proxy.alive
    proxy.open(netns).close()
    writer.close()
    events.close()
