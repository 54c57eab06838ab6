"""The relay when what it stands on goes away: namespaces, memory, buffers."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from relaywire import (
    ACK,
    CREATE,
    GETLINK,
    LINK_GROUP,
    NEWROUTE,
    REQUEST,
    ROUTE_GROUP,
    WAIT,
    Storm,
    add_route,
    dump,
    get_link,
    in_child,
    link_body,
    link_up,
    load_routes,
    message,
    messages,
    routes,
)

from fastns import netns as netns_module
from fastns import proxy as proxy_module
from fastns.errors import ProxyError
from fastns.proxy import Proxy


@pytest.fixture
def proxy():
    with Proxy() as made:
        yield made


# -- the namespace goes


@pytest.mark.root
def test_name_removed_while_open(proxy, netns):
    """The handle keeps the namespace; a handle opened by name afterwards finds nothing."""
    channel = proxy.open(netns)
    link_up(channel)
    netns_module.remove(netns)
    load_routes(channel, 10)
    assert len(routes(channel)) >= 10
    with pytest.raises(FileNotFoundError):
        proxy.open(netns)
    channel.close()


@pytest.mark.root
def test_name_removed_and_made_again_while_open(proxy, netns):
    old = proxy.open(netns)
    link_up(old)
    load_routes(old, 10)
    netns_module.remove(netns)
    netns_module.create(netns)
    new = proxy.open(netns)
    assert len(routes(old)) >= 10
    assert len(routes(new)) == 0
    old.close()
    new.close()


@pytest.mark.root
def test_name_removed_while_dumping(proxy, netns):
    channel = proxy.open(netns, ring_size=65536)
    link_up(channel)
    load_routes(channel, 20_000)
    channel.send(message(26, REQUEST | 0x300, bytes([2]) + b"\0" * 11, 7))
    first = channel.recv(WAIT)
    netns_module.remove(netns)
    count = sum(1 for _ in messages(first))
    done = False
    while not done:
        for kind, _, seq, _ in messages(channel.recv(WAIT)):
            assert seq == 7
            done |= kind == 3
            count += kind == NEWROUTE
    assert count >= 20_000
    channel.close()


@pytest.mark.root
def test_name_removed_while_monitored(proxy, netns):
    events = proxy.open(netns, groups=ROUTE_GROUP | LINK_GROUP)
    writer = proxy.open(netns)
    netns_module.remove(netns)
    link_up(writer)
    kinds = set()
    while NEWROUTE not in kinds:
        kinds |= {kind for kind, *_ in messages(events.recv(WAIT))}
    writer.close()
    events.close()


@pytest.mark.root
def test_closed_handles_let_the_namespace_go(proxy, netns_pair, ifname):
    """The proxy stands in a namespace only as long as a handle does: its links go with the name."""
    first, second = netns_pair
    subprocess.run(
        ["ip", "-n", first, "link", "add", ifname, "type", "veth", "peer", "name", "p0"], check=True
    )
    subprocess.run(["ip", "-n", first, "link", "set", "p0", "netns", second], check=True)
    other = proxy.open(second)
    proxy.open(first).close()
    netns_module.remove(first)
    end = time.monotonic() + WAIT
    while any(b"p0\0" in rest for _, rest in dump(other, GETLINK, link_body())) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(b"p0\0" in rest for _, rest in dump(other, GETLINK, link_body()))
    other.close()


# -- memory


def test_no_memory_for_a_ring(proxy):
    channel = proxy.open()
    script = f"""
import errno, resource, sys
from fastns.proxy import Proxy
proxy = Proxy()
channel = proxy.open()
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
for _ in range(5):
    try:
        proxy.open(ring_size=1 << 28)
        raise SystemExit("mapped")
    except OSError as error:
        assert error.errno == errno.ENOMEM, error
limited = Proxy()
try:
    limited.open(ring_size=1 << 29)
    raise SystemExit("mapped there")
except OSError as error:
    assert error.errno == errno.ENOMEM, error
for made in (channel, proxy.open(ring_size=65536), limited.open(ring_size=65536)):
    made.send({get_link()!r})
    assert made.recv({WAIT})
    made.close()
assert proxy.stats()["channels"] <= 1
limited.close()
proxy.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    channel.close()


# -- buffers


@pytest.mark.root
def test_answers_nobody_reads_are_reported_lost(proxy, netns):
    """Acknowledgements beyond the ring and the receive buffer: ENOBUFS once, then the handle goes on."""
    channel = proxy.open(netns, ring_size=65536, rcvbuf=16384, ext_ack=False)
    link_up(channel)
    sent = 0
    for start in range(0, 20_000, 500):
        channel.send(
            b"".join(add_route(n, seq=n + 1, flags=REQUEST | CREATE | ACK) for n in range(start, start + 500))
        )
        sent += 500
    got, lost = [], 0
    while True:
        try:
            got += [seq for kind, _, seq, _ in messages(channel.recv(0.5)) if kind == 2]
        except TimeoutError:
            break
        except OSError as error:
            assert error.errno == errno.ENOBUFS
            lost += 1
    assert lost >= 1
    assert len(got) < sent
    assert got == sorted(got)
    assert len(routes(channel)) >= 20_000  # all the work was done
    channel.close()


# -- storms of signals


class Stop(Exception):
    pass


def stop(*_):
    raise Stop


@pytest.mark.root
def test_storm_of_signals_over_everything(proxy, netns):
    hits = []
    with Storm(lambda *_: hits.append(1)):
        for number in range(30):
            channel = proxy.open(netns, ring_size=65536)
            link_up(channel)
            load_routes(channel, 500, first=number * 500)
            assert len(routes(channel)) >= 500 * (number + 1)
            channel.bind(0, LINK_GROUP)
            with pytest.raises(TimeoutError):
                while True:
                    channel.recv(0.005)
            channel.close()
            Proxy().close()
    assert hits


@pytest.mark.root
def test_handlers_that_raise_leave_handles_usable(proxy, netns):
    channel = proxy.open(netns, ring_size=65536)
    for number in range(200):
        with pytest.raises(Stop), Storm(stop, 0.0002 + 0.00001 * number, once=True):
            while True:
                channel.send(get_link(seq=number))
                channel.recv(WAIT)
                channel.getsockname()
                proxy.open(netns).close()
    channel.send(get_link(seq=1000))
    while next(messages(channel.recv(WAIT)))[2] != 1000:
        pass
    end = time.monotonic() + WAIT
    while proxy.stats()["channels"] > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert proxy.stats()["channels"] == 1
    channel.close()


# -- forks


@pytest.mark.root
def test_fork_with_a_request_under_way(netns):
    """A child forked while another thread waits in the shared proxy gets one of its own."""
    stop = threading.Event()
    errors = []

    def work():
        try:
            while not stop.is_set():
                channel = proxy_module.shared().open(netns)
                channel.send(get_link())
                channel.recv(WAIT)
                channel.close()
        except Exception as error:
            errors.append(error)

    def child():
        channel = proxy_module.shared().open(netns)
        channel.send(get_link())
        assert channel.recv(WAIT)
        channel.close()
        proxy_module.close_shared()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert in_child(child) == ""
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT)
    assert errors == []


def test_fork_and_exec_hands_nothing_on(proxy):
    channel = proxy.open()
    listing = "import os; print([os.readlink(f'/proc/self/fd/{fd}') for fd in range(3, 100) if os.path.islink(f'/proc/self/fd/{fd}')])"
    done = subprocess.run(
        [sys.executable, "-c", listing], close_fds=False, capture_output=True, text=True, check=True
    )
    assert "fastns" not in done.stdout
    mine = {os.readlink(f"/proc/self/fd/{channel.fileno()}")}
    assert not any(name in done.stdout for name in mine)
    channel.close()


def test_killed_again_and_again():
    for number in range(30):
        proxy = Proxy()
        channel = proxy.open()
        channel.send(get_link())
        if number % 2:
            channel.recv(WAIT)
        os.kill(proxy.pid, signal.SIGKILL)
        with pytest.raises(ProxyError) as caught:
            for _ in range(10_000):
                channel.send(get_link())
                channel.recv(WAIT)
        assert caught.value.status == signal.SIGKILL
        channel.close()
        proxy.close()
        assert not Path(f"/proc/{proxy.pid}").exists()
