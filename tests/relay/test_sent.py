"""What a channel sent is done, in its order, whatever ends before the proxy comes to read it."""

from __future__ import annotations

import errno
import os
import signal
import struct
import threading
import time
from contextlib import contextmanager

import pytest
from handwritten import (
    ACK,
    CAP_ACK,
    REQUEST,
    SETLINK,
    SOL_NETLINK,
    WAIT,
    add_route,
    ended,
    get_link,
    in_child,
    link_body,
    link_up,
    message,
    messages,
    routes,
    wait_ready,
)

from fastns import _core
from fastns import netns as netns_module
from fastns.proxy import Proxy

pytestmark = pytest.mark.root
COUNT = 100


@contextmanager
def stopped(pid):
    """Waits until the process has stopped; whoever is inside may continue it before."""
    os.kill(pid, signal.SIGSTOP)
    try:
        end = time.monotonic() + WAIT
        while state_of(pid) != "T":
            assert time.monotonic() < end
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def send_routes(channel, first=0):
    for number in range(first, first + COUNT):
        channel.send(add_route(number))


def routes_of(name):
    """The number of them, asked for without a proxy."""
    with open(f"{netns_module.NETNS_RUN_DIR}/{name}") as file:
        sock = _core.NetlinkSocket(file.fileno())
    try:
        return sum(struct.pack("=HHi", 8, 4, 1) in rest and rest[1] == 32 and rest[7] == 1 for _, rest in routes(sock))
    finally:
        sock.close()


def wait_for_channels(proxy, count):
    end = time.monotonic() + WAIT
    while proxy.stats()["channels"] != count:
        assert time.monotonic() < end


def with_an_answer_unread(channel):
    """The ring and the doorbell hold something, and nobody takes it."""
    channel.fileno()
    channel.send(get_link())
    wait_ready(channel)


@pytest.fixture
def ready(netns):
    """A namespace with a link that routes can go out by, and no others than ours."""
    with Proxy(netns=[netns]) as proxy:
        channel = proxy.open(netns)
        link_up(channel)
        channel.close()
    assert routes_of(netns) == 0
    return netns


@pytest.mark.parametrize("unread", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_channel_closed_before_it_is_read(ready, unread, channels):
    with Proxy(netns=[ready]) as proxy:
        several = [proxy.open(ready) for _ in range(channels)]
        if unread:
            for channel in several:
                with_an_answer_unread(channel)
        with stopped(proxy.pid):
            for number, channel in enumerate(several):
                send_routes(channel, COUNT * number)
                channel.close()
        wait_for_channels(proxy, 0)
        assert routes_of(ready) == COUNT * channels
        assert proxy.stats()["requests"] == (COUNT + unread) * channels


@pytest.mark.parametrize("unread", [False, True])
def test_ring_of_a_closed_channel_is_asked_for(ready, unread):
    """Opening takes the place and the ring of a channel whose end was not come to yet."""
    with Proxy(netns=[ready], max_channels=1) as proxy:
        channel = proxy.open(ready)
        if unread:
            with_an_answer_unread(channel)
        with stopped(proxy.pid):
            send_routes(channel)
            channel.close()
            continued = threading.Timer(0.05, os.kill, (proxy.pid, signal.SIGCONT))
            continued.start()
            proxy.open(ready).close()
            continued.join()
        assert routes_of(ready) == COUNT


@pytest.mark.parametrize("how", ["exit", "kill", "close"])
@pytest.mark.parametrize("unread", [False, True])
def test_caller_ends_before_the_proxy_has_read(ready, tmp_path, how, unread):
    note = tmp_path / "pid"

    def body():
        proxy = Proxy(netns=[ready])
        note.write_text(str(proxy.pid))
        channel = proxy.open(ready)
        if unread:
            with_an_answer_unread(channel)
        os.kill(proxy.pid, signal.SIGSTOP)
        while state_of(proxy.pid) != "T":
            time.sleep(0.001)
        send_routes(channel)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "close":
            os.kill(proxy.pid, signal.SIGCONT)
            proxy.close()

    assert in_child(body) == (" wait status 9" if how == "kill" else "")
    pid = int(note.read_text())
    if how != "close":
        os.kill(pid, signal.SIGCONT)
    assert ended(pid)
    assert routes_of(ready) == COUNT


def test_option_is_set_behind_what_was_sent_before(ready):
    """Errors repeat the request, or its header only once the option is set."""
    request = message(SETLINK, REQUEST | ACK, link_body(9999))
    with Proxy(netns=[ready]) as proxy:
        channel = proxy.open(ready)
        with stopped(proxy.pid):
            for _ in range(COUNT):
                channel.send(request)
            continued = threading.Timer(0.05, os.kill, (proxy.pid, signal.SIGCONT))
            continued.start()
            channel.setsockopt(SOL_NETLINK, CAP_ACK, 1)
            continued.join()
        channel.send(request)
        answers = [next(messages(channel.recv(WAIT))) for _ in range(COUNT + 1)]
        assert {-struct.unpack_from("=i", rest)[0] for _, _, _, rest in answers} == {errno.ENODEV}
        assert [request[16:] in rest for _, _, _, rest in answers] == [True] * COUNT + [False]
        channel.close()
