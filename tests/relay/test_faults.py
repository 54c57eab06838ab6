"""The relay when what it stands on goes away: namespaces, memory, buffers."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from handwritten import (
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
    arrived,
    dump,
    ended,
    get_link,
    in_child,
    link_body,
    link_up,
    load_routes,
    message,
    messages,
    routes,
)
from hypothesis import settings

from fastns import NetNS
from fastns import netns as netns_module
from fastns import proxy as proxy_module
from fastns.errors import ProxyError
from fastns.proxy import Proxy

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
    found = arrived(proxy, channel)
    got = [seq for data in found if isinstance(data, bytes) for kind, _, seq, _ in messages(data) if kind == 2]
    assert {item.errno for item in found if isinstance(item, OSError)} == {errno.ENOBUFS}
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


def one_request(ns):
    assert ns.link("get", index=1)[0]["index"] == 1


def whole_dump(ns):
    assert len(ns.get_routes(family=2)) >= 50


def columns(ns):
    assert len(ns.table("route", family=2)) >= 50


def batch_of_requests(ns):
    with ns.batch(errors="collect") as batch:
        for number in range(50):
            batch.route("add", dst=f"10.1.0.{number}/32", oif=1)


def monitor_of_events(ns):
    with ns.monitor() as events, pytest.raises(TimeoutError):
        while True:
            events.get(0.002)


def another_handle(ns):
    NetNS(ns.status["netns"], flags=0, transport="relay").close()


def create_and_remove(ns):
    name = ns.status["netns"] + "x"
    if name in netns_module.listnetns():  # from a time that was interrupted
        netns_module.remove(name)
    netns_module.create(name)
    netns_module.remove(name)


def proxy_of_its_own(ns):
    Proxy(netns=ns.status["netns"]).close()


BLOCKING = [
    one_request,
    whole_dump,
    columns,
    batch_of_requests,
    monitor_of_events,
    another_handle,
    create_and_remove,
    proxy_of_its_own,
]


@pytest.mark.root
@pytest.mark.parametrize("transport", ["direct", "relay"])
@pytest.mark.parametrize("work", BLOCKING)
def test_handlers_that_raise_over_every_blocking_call(netns, transport, work):
    """Wherever the exception comes in between, the handle goes on, and the guard finds nothing left behind."""
    with NetNS(netns, flags=0, transport=transport) as ns:
        ns.link("set", index=1, state="up")
        batch_of_requests(ns)
        work(ns)
        armed = False

        def handler(*_):
            nonlocal armed
            if armed:
                armed = False
                raise Stop

        with warnings.catch_warnings(), Storm(handler):
            warnings.simplefilter("ignore", ResourceWarning)  # of what was made and never reached its name
            for _ in range(min(40, settings().max_examples)):
                armed = True
                try:
                    while armed:
                        work(ns)
                except Stop:
                    gc.collect()
                armed = False
        work(ns)
        one_request(ns)
        whole_dump(ns)


# -- a proxy that is stopped


@pytest.mark.root
def test_stopped_proxy_and_handles(proxy, netns):
    """A handle with a timeout gives up, one without waits and goes on, and so does a later request of the first."""
    patient, hasty = (NetNS(netns, flags=0, proxy=proxy, timeout=seconds) for seconds in (None, 0.05))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(patient.get_links()))
    os.kill(proxy.pid, signal.SIGSTOP)
    try:
        thread.start()
        for call in (lambda: hasty.link("get", index=1), hasty.get_links):
            with pytest.raises(TimeoutError):
                call()
        assert not answers
    finally:
        os.kill(proxy.pid, signal.SIGCONT)
    thread.join(WAIT)
    assert answers[0][0].get("ifname") == "lo"
    hasty.settimeout(WAIT)
    assert hasty.link("get", index=1)[0].get("ifname") == "lo"
    patient.close()
    hasty.close()


# -- the end of the interpreter


@pytest.mark.root
def test_interpreter_exit_with_all_kinds_of_things_open(netns):
    script = """
import subprocess, sys, threading
from fastns import IPRoute, NetNS, NSPopen, Pool, Proxy
from fastns.proxy import shared
name = sys.argv[1]
own = Proxy(netns=[name])
handles = [NetNS(name, flags=0, transport=kind) for kind in ("auto", "direct", "relay")]
handles.append(NetNS(name, flags=0, proxy=own))
for ns in handles:
    ns.bind()
    ns.fileno()
monitors = [ns.monitor() for ns in handles]
dumps = [iter(ns.monitor()) for ns in handles]
batch = handles[0].batch()
batch.route("add", dst="10.0.0.0/8", oif=1)
table = handles[0].table("link")
pool = Pool()
pool[name].get_links()
process = NSPopen(name, ["true"], stdout=subprocess.PIPE)
process.wait()
threading.Thread(target=lambda: next(dumps[2]), daemon=True).start()
print(shared().pid, own.pid)
"""
    done = subprocess.run([sys.executable, "-c", script, netns], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0
    for pid in done.stdout.split():
        assert ended(int(pid))


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
