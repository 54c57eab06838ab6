"""The relay: the proxy process, its channels and its ring, on the real kernel."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings

import pytest
from relaywire import (
    ACK,
    CAP_ACK,
    CREATE,
    DUMP,
    EXCL,
    EXT_ACK,
    GETLINK,
    GETROUTE,
    LINK_GROUP,
    NEWLINK,
    NEWROUTE,
    REQUEST,
    ROUTE_GROUP,
    SETLINK,
    SOL_NETLINK,
    STRICT,
    WAIT,
    Storm,
    add_route,
    attribute,
    dump,
    ended,
    error_of,
    get_link,
    in_child,
    link_body,
    link_up,
    load_routes,
    message,
    messages,
    open_fds,
    routes,
)

from fastns import _core
from fastns import netns as netns_module
from fastns import proxy as proxy_module
from fastns.errors import ProxyError
from fastns.proxy import Proxy


@pytest.fixture
def proxy():
    with Proxy() as made:
        yield made


@pytest.fixture
def channel(proxy):
    made = proxy.open()
    yield made
    made.close()


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
    failures = 0
    with pytest.raises(TimeoutError):
        while True:
            try:
                channel.recv(0.5)
            except TimeoutError:
                raise
            except OSError as error:
                assert error.errno == errno.EMSGSIZE
                failures += 1
    assert 65536 // 16 <= failures < 5000
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
    events = proxy.open(netns, groups=ROUTE_GROUP, rcvbuf=64 << 20)
    writer = proxy.open(netns)
    link_up(writer)
    while True:
        try:
            events.recv(0.2)
        except TimeoutError:
            break
    load_routes(writer, 100_000)
    seen = 0
    while seen < 100_000:
        for kind, _, _, rest in messages(events.recv(WAIT)):
            assert kind == NEWROUTE
            assert struct.pack(">I", (10 << 24) + seen) in rest
            seen += 1
    with pytest.raises(TimeoutError):
        events.recv(0)
    events.close()
    writer.close()


@pytest.mark.root
def test_dump_through_a_tiny_ring_loses_nothing(proxy, netns):
    channel = proxy.open(netns, ring_size=65536)
    link_up(channel)
    load_routes(channel, 20_000)
    assert len(routes(channel, pause=0.002)) >= 20_000
    assert proxy.stats()["stalls"] > 0
    channel.close()


@pytest.mark.root
def test_loss_is_reported_where_it_happened(proxy, netns):
    events = proxy.open(netns, groups=ROUTE_GROUP, ring_size=65536, rcvbuf=65536)
    writer = proxy.open(netns)
    link_up(writer)
    load_routes(writer, 20_000)
    numbers, losses = [], []
    while True:
        try:
            for kind, _, _, rest in messages(events.recv(1)):
                found = re.search(rb"\x08\x00\x01\x00\x0a(...)", rest, re.DOTALL)
                if kind == NEWROUTE and found:
                    numbers.append(int.from_bytes(found[1], "big"))
        except TimeoutError:
            break
        except OSError as error:
            assert error.errno == errno.ENOBUFS
            losses.append(len(numbers))
    assert losses
    assert numbers == sorted(numbers)
    gaps = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1 and numbers[i] < 1 << 23]
    # every gap has its record, no earlier than the gap
    assert all(any(place >= gap for place in losses) for gap in gaps)
    load_routes(writer, 10, first=30_000)  # and it goes on
    seen = [kind for _ in range(10) for kind, *_ in messages(events.recv(WAIT))]
    assert seen == [NEWROUTE] * 10
    assert proxy.stats()["overruns"] >= 1
    events.close()
    writer.close()


@pytest.mark.root
@pytest.mark.parametrize("rcvbuf", [65536, 1 << 20], ids=["lost before it is full", "lost after"])
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
    losses = 0
    while True:
        try:
            events.recv(0.5)
        except TimeoutError:
            break
        except OSError as error:
            assert error.errno == errno.ENOBUFS
            losses += 1
    assert losses >= 1
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


@pytest.mark.root
def test_pages_of_a_burst_are_given_back(proxy, netns):
    events = proxy.open(netns, groups=ROUTE_GROUP)
    writer = proxy.open(netns)
    link_up(writer)
    load_routes(writer, 50_000)

    def blocks():
        with open(f"/proc/{proxy.pid}/smaps") as file:
            return max(
                int(size) for size in re.findall(r"fastns-ring.*?\nRss:\s+(\d+) kB", file.read(), re.DOTALL)
            )

    held = blocks()
    while True:
        try:
            events.recv(0.2)
        except TimeoutError:
            break
    assert held > 2000
    load_routes(writer, 1, first=60_000)
    events.recv(WAIT)
    load_routes(writer, 1, first=60_001)
    assert blocks() < held / 4
    events.close()
    writer.close()


# -- waiting


def ready(channel):
    return bool(select.select([channel.fileno()], [], [], 0)[0])


def wait_ready(channel):
    assert select.select([channel.fileno()], [], [], WAIT)[0]


def test_fileno_is_readable_while_there_is_something(channel):
    assert not ready(channel)
    for _ in range(200):
        for seq in (1, 2, 3):
            channel.send(get_link(seq=seq))
        for _ in range(3):
            wait_ready(channel)
            channel.recv(0)
        assert not ready(channel)
    with pytest.raises(TimeoutError):
        channel.recv(0)


def test_fileno_asked_for_with_something_waiting(channel):
    channel.send(get_link())
    channel.getsockname()  # which comes after the request
    wait_ready(channel)
    channel.recv(0)
    assert not ready(channel)


@pytest.mark.parametrize("kind", ["poll", "epoll", "epoll-edge"])
def test_pollers(channel, kind):
    poller = select.poll() if kind == "poll" else select.epoll()
    poller.register(channel.fileno(), select.EPOLLIN | (select.EPOLLET if kind == "epoll-edge" else 0))
    for _ in range(50):
        assert poller.poll(0) == []
        channel.send(get_link())
        assert [fd for fd, _ in poller.poll(WAIT * 1000 if kind == "poll" else WAIT)] == [channel.fileno()]
        channel.recv(0)
    if kind != "poll":
        poller.close()


def test_reading_until_empty_after_one_wakeup(channel):
    channel.fileno()
    for seq in range(100):
        channel.send(get_link(seq=seq))
    got = 0
    while got < 100:
        wait_ready(channel)
        try:
            while True:
                channel.recv(0)
                got += 1
        except TimeoutError:
            pass
    assert not ready(channel)


def test_timeout(channel):
    for timeout in (0, 0.0, 0.01, 1e-9):
        with pytest.raises(TimeoutError):
            channel.recv(timeout)
    with pytest.raises(ValueError):
        channel.recv(-1)
    channel.send(get_link())
    assert channel.recv(1e300)


def test_late_doorbell_does_not_confuse(channel):
    """Armed by a receive that timed out, rung later, read by one that did not sleep."""
    for _ in range(100):
        with pytest.raises(TimeoutError):
            channel.recv(0.0005)
        channel.send(get_link())
        channel.getsockname()
        channel.recv(0)
        with pytest.raises(TimeoutError):
            channel.recv(0)


def test_signal_handlers_run_and_waiting_goes_on(channel):
    hits = []
    with Storm(lambda *_: hits.append(1)):
        with pytest.raises(TimeoutError):
            channel.recv(0.2)
        for _ in range(300):
            channel.send(get_link())
            channel.recv(WAIT)
            channel.getsockname()
    assert hits


class StopWaiting(Exception):
    pass


def stop_waiting(*_):
    raise StopWaiting


def test_signal_handler_that_raises(proxy, channel):
    for call in (channel.recv, channel.getsockname, proxy.stats, lambda: proxy.open().close()):
        os.kill(proxy.pid, signal.SIGSTOP)
        with pytest.raises(StopWaiting), Storm(stop_waiting, 0.02, once=True):
            call()
        os.kill(proxy.pid, signal.SIGCONT)
        # late answers are thrown away, theirs is not taken for ours
        assert channel.getsockname()[0] != 0
        assert "channels" in proxy.stats()
    channel.send(get_link(seq=77))
    assert next(messages(channel.recv(WAIT)))[2] == 77
    deadline = time.monotonic() + WAIT
    while proxy.stats()["channels"] != 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert proxy.stats()["channels"] == 1


def test_signal_handler_with_requests_of_its_own(proxy, channel):
    """In the middle of a request, over the same control connection and for another handle."""
    hits = []
    inside = []

    def handler(*_):
        if inside:
            return
        inside.append(1)
        hits.append(proxy.stats()["channels"])
        made = proxy.open()
        made.send(get_link(seq=5))
        assert next(messages(made.recv(WAIT)))[2] == 5
        made.close()
        inside.clear()

    fds = open_fds()
    with Storm(handler, 0.002):
        for seq in range(500):
            other = proxy.open()
            assert other.getsockname()[0] != channel.getsockname()[0]
            other.close()
            channel.send(get_link(seq=seq))
            assert next(messages(channel.recv(WAIT)))[2] == seq
        os.kill(proxy.pid, signal.SIGSTOP)
        threading.Timer(0.05, os.kill, (proxy.pid, signal.SIGCONT)).start()
        assert "channels" in proxy.stats()
    assert hits
    assert open_fds() == fds


# -- options


def test_options(channel):
    portid, groups = channel.getsockname()
    assert portid != 0
    assert groups == 0
    channel.bind(0, LINK_GROUP)
    assert channel.getsockname() == (portid, LINK_GROUP)
    channel.add_membership(7)
    assert channel.getsockname() == (portid, LINK_GROUP | ROUTE_GROUP)
    channel.drop_membership(7)
    assert channel.getsockname() == (portid, LINK_GROUP)
    channel.setsockopt(SOL_NETLINK, CAP_ACK, 1)
    assert channel.getsockopt(SOL_NETLINK, CAP_ACK) == 1
    channel.setsockopt(SOL_NETLINK, CAP_ACK, struct.pack("=i", 0))
    assert channel.getsockopt(SOL_NETLINK, CAP_ACK, 4) == b"\0\0\0\0"
    with pytest.raises(OSError, match="setsockopt") as caught:
        channel.setsockopt(SOL_NETLINK, 12345, 1)
    assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(OSError, match="getsockopt"):
        channel.getsockopt(SOL_NETLINK, 12345)
    with pytest.raises(OSError):
        channel.setsockopt(SOL_NETLINK, CAP_ACK, b"x" * 5000)
    with pytest.raises(ValueError):
        channel.getsockopt(SOL_NETLINK, CAP_ACK, -1)
    with pytest.raises(OSError, match="bind"):
        channel.bind(portid + 1, 0)


def test_options_at_open(proxy):
    channel = proxy.open(
        ext_ack=True, strict_check=True, cap_ack=True, groups=LINK_GROUP, rcvbuf=1 << 20, sndbuf=1 << 20
    )
    for option in (CAP_ACK, EXT_ACK, STRICT):
        assert channel.getsockopt(SOL_NETLINK, option) == 1
    assert channel.getsockname()[1] == LINK_GROUP
    assert channel.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 212992
    channel.close()


def test_strict_for_one_request(channel):
    bad = message(GETROUTE, REQUEST | DUMP, struct.pack("=BBBBBBBBI", 2, 0, 0, 7, 0, 0, 0, 0, 0))
    channel.send(bad, strict=True)
    kind, _, _, rest = next(messages(channel.recv(WAIT)))
    assert kind in (2, 3)
    assert struct.unpack_from("=i", rest)[0] == -errno.EINVAL
    assert channel.getsockopt(SOL_NETLINK, STRICT) == 0
    assert isinstance(routes(channel), list)


def test_option_comes_after_earlier_requests(channel):
    """A request and an option travel over different sockets; the proxy keeps the order of the calls."""
    for seq in range(100):
        channel.send(message(GETLINK, REQUEST, link_body(0x7FFFFFF0) + attribute(3, b"x" * 10), seq))
        channel.setsockopt(SOL_NETLINK, CAP_ACK, seq % 2)
    sizes = [len(channel.recv(WAIT)) for _ in range(100)]
    whole, capped = set(sizes[1::2]), set(sizes[2::2])
    assert len(whole) == len(capped) == 1
    assert capped.pop() < whole.pop()


# -- opening


def test_where_there_is_nothing(proxy):
    with pytest.raises(FileNotFoundError) as caught:
        proxy.open("no-such-namespace-here")
    assert caught.value.filename == "no-such-namespace-here"


@pytest.mark.parametrize("ref", [".", "..", "", "a\0b", "x" * 256])
def test_names_that_cannot_be(proxy, ref):
    with pytest.raises(ValueError):
        proxy.open(ref)


def test_what_is_no_network_namespace(proxy, tmp_path):
    (tmp_path / "file").write_text("")
    for ref in (str(tmp_path / "file"), "/proc/self/ns/mnt"):
        with pytest.raises(OSError) as caught:
            proxy.open(ref)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        proxy.open(987654)
    assert caught.value.errno == errno.EBADF


def test_unknown_family(proxy):
    with pytest.raises(OSError, match="socket") as caught:
        proxy.open(family=31)
    assert caught.value.errno == errno.EPROTONOSUPPORT


@pytest.mark.root
def test_every_kind_of_reference(proxy, netns):
    link = proxy.open(netns)
    link_up(link)
    load_routes(link, 1)
    path = f"{netns_module.NETNS_RUN_DIR}/{netns}"
    with open(path) as file:
        for ref in (netns, netns.encode(), path, path.encode(), file, file.fileno()):
            channel = proxy.open(ref)
            assert routes(channel) == routes(link)
            channel.close()
    link.close()
    channel = proxy.open(pid=os.getpid())
    channel.send(get_link())
    channel.recv(WAIT)
    channel.close()


def test_a_thousand_channels(proxy):
    before = open_fds()
    channels = [proxy.open() for _ in range(1000)]
    assert open_fds() - before <= 1000
    assert len(os.listdir(f"/proc/{proxy.pid}/fd")) <= 2020
    for seq, channel in enumerate(channels):
        channel.send(get_link(seq=seq))
    for seq, channel in enumerate(channels):
        assert next(messages(channel.recv(WAIT)))[2] == seq
    assert proxy.stats()["channels"] == 1000
    for channel in channels:
        channel.close()
    proxy.open().close()


def test_limit_of_channels():
    with Proxy(max_channels=3) as proxy:
        channels = [proxy.open() for _ in range(3)]
        with pytest.raises(OSError, match="channel limit") as caught:
            proxy.open()
        assert caught.value.errno == errno.EMFILE
        for _ in range(50):  # a closed one makes room at once
            channels.pop().close()
            channels.append(proxy.open())
        for channel in channels:
            channel.close()


def test_ten_thousand_channels_one_after_the_other(proxy):
    def memory(pid):
        with open(f"/proc/{pid}/statm") as file:
            return [int(number) for number in file.read().split()]

    for _ in range(200):
        proxy.open().close()
    before, proxy_fds = memory(proxy.pid), len(os.listdir(f"/proc/{proxy.pid}/fd"))
    fds = open_fds()
    for _ in range(10_000):
        proxy.open().close()
    proxy.open().close()
    assert open_fds() == fds
    deadline = time.monotonic() + WAIT  # the proxy comes to the last ends of file when it comes to them
    while len(os.listdir(f"/proc/{proxy.pid}/fd")) > proxy_fds + 4 and time.monotonic() < deadline:
        proxy.stats()
    assert len(os.listdir(f"/proc/{proxy.pid}/fd")) <= proxy_fds + 4
    assert memory(proxy.pid)[1] <= before[1] + 16


def test_out_of_descriptors_here(proxy, channel):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_fds() + 8, limits[1]))
    channels = []
    try:
        with pytest.raises(OSError) as caught:
            while len(channels) < 30:
                channels.append(proxy.open())
        assert caught.value.errno in (errno.EMFILE, errno.EPROTO)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for made in channels:
            made.close()
    channel.send(get_link())
    channel.recv(WAIT)
    proxy.open().close()


def test_out_of_descriptors_there():
    script = """
import errno, resource, sys
from fastns.proxy import Proxy
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
proxy = Proxy()
channels = []
try:
    while True:
        channels.append(proxy.open())
except OSError as error:
    assert error.errno == errno.EMFILE, error
assert len(channels) > 10
for _ in range(50):
    channels.pop().close()
    channels.append(proxy.open())
proxy.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=WAIT)


# -- life of the process


def test_killed_while_waiting(proxy, channel):
    threading.Timer(0.05, os.kill, (proxy.pid, signal.SIGKILL)).start()
    with pytest.raises(ProxyError, match="killed by signal 9") as caught:
        channel.recv()
    assert os.WTERMSIG(caught.value.status) == signal.SIGKILL
    for call in (
        channel.recv,
        lambda: channel.send(get_link()),
        channel.getsockname,
        proxy.open,
        proxy.stats,
    ):
        with pytest.raises(ProxyError) as caught:
            call()
        assert caught.value.status == signal.SIGKILL
    assert not proxy.alive
    assert proxy.status == signal.SIGKILL
    proxy.close()  # which does not make it one that was closed
    for call in (channel.recv, channel.getsockname, proxy.open, proxy.stats):
        with pytest.raises(ProxyError) as caught:
            call()
        assert caught.value.status == signal.SIGKILL
    with Proxy() as other, pytest.raises(TimeoutError):
        made = other.open()
        try:
            made.recv(0)
        finally:
            made.close()


def test_what_arrived_before_the_death_is_still_read(proxy, channel):
    channel.send(get_link(seq=1))
    channel.send(get_link(seq=2))
    channel.getsockname()
    os.kill(proxy.pid, signal.SIGKILL)
    assert ended(proxy.pid)
    assert next(messages(channel.recv(WAIT)))[2] == 1
    wait_ready(channel)
    assert next(messages(channel.recv(0)))[2] == 2
    wait_ready(channel)
    with pytest.raises(ProxyError):
        channel.recv(0)


def test_killed_while_many_wait(proxy):
    channels = [proxy.open() for _ in range(20)]
    errors = []

    def wait(channel):
        try:
            channel.recv()
        except ProxyError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait, args=(channel,)) for channel in channels]
    for thread in threads:
        thread.start()
    os.kill(proxy.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(WAIT)
    assert [error.status for error in errors] == [signal.SIGKILL] * 20
    for channel in channels:
        channel.close()


def test_stopped_and_continued(proxy, channel):
    os.kill(proxy.pid, signal.SIGSTOP)
    channel.send(get_link())
    with pytest.raises(TimeoutError):
        channel.recv(0.05)
    with pytest.raises(TimeoutError):
        for _ in range(1000):
            channel.send(get_link(), timeout=0.05)
    os.kill(proxy.pid, signal.SIGCONT)
    assert channel.recv(WAIT)


def test_stopped_proxy_can_be_closed(proxy):
    os.kill(proxy.pid, signal.SIGSTOP)
    proxy.close()
    assert os.WTERMSIG(proxy.status) == signal.SIGKILL


def test_terminal_and_service_signals_are_ignored(proxy, channel):
    for signo in (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGTERM,
        signal.SIGTSTP,
        signal.SIGTTIN,
    ):
        os.kill(proxy.pid, signo)
    channel.send(get_link())
    assert channel.recv(WAIT)
    assert os.getsid(proxy.pid) == proxy.pid


def test_wait_of_the_program_does_not_meet_it(proxy, channel):
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    got = []
    before = signal.signal(signal.SIGCHLD, lambda *_: got.append(1))
    try:
        os.kill(proxy.pid, signal.SIGKILL)
        with pytest.raises(ProxyError) as caught:
            channel.recv()
        assert caught.value.status == signal.SIGKILL
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert got == []


def test_status_taken_by_somebody_else(proxy, channel):
    os.kill(proxy.pid, signal.SIGKILL)
    os.waitpid(proxy.pid, 0x40000000)  # __WALL
    with pytest.raises(ProxyError) as caught:
        channel.recv()
    assert caught.value.status is None


def test_closed_twice_and_used_after(proxy):
    channel = proxy.open()
    channel.close()
    channel.close()
    assert channel.closed
    assert channel.fileno() == -1
    for call in (channel.recv, lambda: channel.send(get_link()), channel.getsockname):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    proxy.close()
    proxy.close()
    assert not proxy.alive
    assert proxy.status == 0
    assert "closed" in repr(proxy)
    with pytest.raises(OSError) as caught:
        proxy.open()
    assert caught.value.errno == errno.EBADF


def test_channel_outlives_its_proxy(proxy):
    channel = proxy.open()
    proxy.close()
    with pytest.raises(ProxyError, match="exited with status 0"):
        channel.recv()
    channel.close()


def test_closed_while_another_thread_waits(proxy):
    channel = proxy.open()
    errors = []

    def wait():
        try:
            channel.recv()
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    channel.close()
    thread.join(WAIT)
    assert errors == [errno.EBADF]


def test_forgotten_objects():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        proxy = Proxy()
        pid = proxy.pid
        channel = proxy.open()
        del proxy, channel
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    assert not os.path.exists(f"/proc/{pid}")


def test_dropped_client_is_reaped_later():
    client = _core.RelayClient(b"/var/run/netns")
    pid = client.pid
    del client
    _core.reap_abandoned(WAIT * 1000)
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.skipif(
    _core.BUILD in ("sanitized", "coverage"), reason="python: a build that keeps what it reports with"
)
def test_process_sheds_what_it_inherited(proxy, channel):
    targets = {os.readlink(f"/proc/{proxy.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{proxy.pid}/fd")}
    kinds = {re.sub(r"\[.*|:.*", "", target) for target in targets}
    if _core.BUILD == "sanitized":  # its reports go to what was standard error
        kinds -= {re.sub(r"\[.*|:.*", "", os.readlink("/proc/self/fd/2"))}
    assert kinds <= {"/dev/null", "/memfd", "socket", "anon_inode", "net"}  # memfd: a request too long for a message
    with open(f"/proc/{proxy.pid}/comm") as file:
        assert file.read() == "fastns-proxy\n"
    assert os.readlink(f"/proc/{proxy.pid}/cwd") == "/"
    with open(f"/proc/{proxy.pid}/stat") as file:
        assert file.read().rpartition(")")[2].split()[4] == "0"  # no terminal


def private_kilobytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(size) for size in re.findall(r"Private_\w+:\s+(\d+) kB", file.read()))


@pytest.mark.skipif(_core.BUILD in ("sanitized", "coverage"), reason="python: a build with memory of its own")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_private_memory_whatever_the_parent_holds(where):
    held = mmap.mmap(-1, 200 << 20)
    heap = [bytearray(100) for _ in range(300_000)]
    held.write(b"x" * (200 << 20))
    made = []
    if where == "main":
        made.append(Proxy())
    else:
        thread = threading.Thread(target=lambda: made.append(Proxy()))
        thread.start()
        thread.join()
    with made[0] as proxy:
        channels = [proxy.open() for _ in range(20)]
        for _ in range(100):
            for channel in channels:
                channel.send(get_link())
                channel.recv(WAIT)
        held.seek(0)
        held.write(b"y" * (200 << 20))
        for item in heap:
            item[0] = 1
        assert private_kilobytes(proxy.pid) <= 4096
        for channel in channels:
            channel.close()
    held.close()


@pytest.mark.root
@pytest.mark.skipif(_core.BUILD in ("sanitized", "coverage"), reason="python: a build with memory of its own")
def test_memory_with_a_thousand_namespaces(nsname):
    """A handle in each of them at once, used; rings are shared memory, so they count as resident and not as private."""
    names = [f"{nsname}{number}" for number in range(1000)]
    netns_module.create_many(names)
    try:
        with Proxy() as proxy:
            channels = [proxy.open(name, ring_size=0) for name in names]
            for _ in range(10):
                for channel in channels:
                    assert len(dump(channel, GETLINK, link_body())) >= 1
            assert proxy.stats()["channels"] == 1000
            with open(f"/proc/{proxy.pid}/status") as file:
                resident = int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1])
            assert resident < 64 << 10
            assert private_kilobytes(proxy.pid) <= 4096
            for channel in channels:
                channel.close()
    finally:
        netns_module.remove_many(names)


def run_parent(script, *, kill=None):
    """Start a program that has a proxy and prints its pid; kill it or let it end; whether the proxy ends too."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        if kill is not None:
            process.send_signal(kill)
        assert ended(pid)
        if process.poll() is None:
            process.kill()


PARENT = "import os, sys, time; from fastns.proxy import Proxy; p = Proxy(); c = p.open(); print(p.pid, flush=True)\n"


@pytest.mark.parametrize("signo", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_ends_with_a_killed_parent(signo):
    run_parent(PARENT + "time.sleep(60)", kill=signo)


def test_ends_with_a_parent_that_exits():
    run_parent(PARENT + "os._exit(0)")


def test_ends_when_the_parent_becomes_another_program():
    run_parent(PARENT + "os.execv('/bin/sleep', ['sleep', '60'])")


def test_ends_though_a_forked_child_lives_on():
    run_parent(PARENT + "os.fork() or time.sleep(1); os._exit(0)", kill=None)


def test_ends_when_the_forking_thread_has_long_gone():
    script = (
        "import os, sys, time, threading; from fastns.proxy import Proxy; made = []\n"
        "t = threading.Thread(target=lambda: made.append(Proxy())); t.start(); t.join(); time.sleep(0.2)\n"
        "assert made[0].alive; made[0].open().close(); print(made[0].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    run_parent(script)


def test_interpreter_exit_with_everything_open_is_silent():
    script = PARENT + "from fastns.proxy import shared; s = shared(); d = s.open(); d.fileno(); print(s.pid)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    for pid in done.stdout.split():
        assert ended(int(pid))


# -- fork of the program


def test_forked_child_cannot_use_it(proxy, channel):
    def use():
        assert not proxy.alive
        for call in (
            channel.recv,
            lambda: channel.send(get_link()),
            channel.getsockname,
            proxy.open,
            proxy.stats,
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF
        channel.close()
        proxy.close()
        gc.collect()

    assert in_child(use) == ""
    channel.send(get_link())
    assert channel.recv(WAIT)
    assert proxy.alive


def test_forked_child_while_another_thread_waits_for_the_proxy(proxy):
    """The thread that holds the connection's lock does not exist in the child: nothing there waits for it."""
    os.kill(proxy.pid, signal.SIGSTOP)
    thread = threading.Thread(target=proxy.stats)
    thread.start()
    time.sleep(0.05)

    def use():
        for call in (proxy.stats, proxy.open):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF
        proxy.close()

    try:
        assert in_child(use) == ""
    finally:
        os.kill(proxy.pid, signal.SIGCONT)
        thread.join(WAIT)


def test_forked_child_lets_go_of_what_it_has_not(proxy, channel):
    """A ring is not handed on to a child, which has one of its own at that address by then."""

    def child():
        with Proxy() as own:
            made = own.open()
            channel.close()
            made.send(get_link())
            assert made.recv(WAIT)
            made.close()

    assert in_child(child) == ""


def test_forked_child_that_exits_leaves_it_alone(proxy, channel):
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert in_child(lambda: None) == ""
    channel.send(get_link())
    assert channel.recv(WAIT)


def test_closing_reaches_through_forked_copies(proxy):
    channel = proxy.open()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        channel.close()
        deadline = time.monotonic() + WAIT
        while proxy.stats()["channels"] and time.monotonic() < deadline:
            time.sleep(0.005)
        assert proxy.stats()["channels"] == 0
        proxy.close()
        assert proxy.status == 0
    finally:
        os.close(writing)
        os.waitpid(pid, 0)


def test_shared_is_one_and_comes_back():
    first = proxy_module.shared()
    assert proxy_module.shared() is first
    os.kill(first.pid, signal.SIGKILL)
    assert ended(first.pid)
    second = proxy_module.shared()
    assert second is not first
    assert second.alive

    def child():
        third = proxy_module.shared()
        assert third.pid != second.pid
        made = third.open()
        made.send(get_link())
        made.recv(WAIT)
        made.close()
        proxy_module.close_shared()

    assert in_child(child) == ""
    assert second.alive
    proxy_module.close_shared()
    proxy_module.close_shared()


def test_default():
    assert proxy_module.default() is None
    with Proxy(default=True) as first:
        assert proxy_module.default() is first
        with Proxy(default=True) as second:
            assert proxy_module.default() is second
            os.kill(second.pid, signal.SIGKILL)
            assert ended(second.pid)
            assert proxy_module.default() is first
    assert proxy_module.default() is None


def test_fork_while_another_thread_is_in_a_request(proxy):
    stop = threading.Event()
    errors = []

    def work(channel):
        try:
            while not stop.is_set():
                channel.send(get_link())
                channel.recv(WAIT)
        except Exception as error:
            errors.append(error)

    channels = [proxy.open() for _ in range(3)]
    threads = [threading.Thread(target=work, args=(channel,)) for channel in channels]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert in_child(lambda: proxy_module.shared().open().close()) == ""
        Proxy().close()
    stop.set()
    for thread in threads:
        thread.join(WAIT)
    assert errors == []
    for channel in channels:
        channel.close()


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


def ring_address():
    with open("/proc/self/maps") as file:
        return max(int(line.split("-")[0], 16) for line in file if "fastns-ring" in line)


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
        memory.seek(ring_address() + offset)
        memory.write(value)
    with pytest.raises(ProxyError) as caught:
        channel.recv(WAIT)
    assert caught.value.errno == errno.EPROTO


def test_proxy_closes_a_channel_whose_ring_lies(proxy, channel):
    other = proxy.open()
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        for address in {ring_address()}:
            memory.seek(address + TAIL)
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
    with open("/proc/self/maps") as file:
        rings = {int(line.split("-")[0], 16) for line in file if "fastns-ring" in line}
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        for address in rings:
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
