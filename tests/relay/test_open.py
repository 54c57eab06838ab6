"""The relay: opening channels, waiting on them, their options."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
from handwritten import (
    CAP_ACK,
    DUMP,
    EXT_ACK,
    GETLINK,
    GETROUTE,
    LINK_GROUP,
    REQUEST,
    ROUTE_GROUP,
    SOL_NETLINK,
    STRICT,
    WAIT,
    Storm,
    attribute,
    get_link,
    link_body,
    link_up,
    load_routes,
    message,
    messages,
    open_fds,
    ready,
    routes,
    wait_ready,
)

from fastns import netns as netns_module
from fastns.proxy import Proxy

# -- waiting


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
