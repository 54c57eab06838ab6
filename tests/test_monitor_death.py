"""The proxy of a monitor dies: what it had received is given first, then the error with its status, then that again."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading

import pytest
from handwritten import WAIT, Storm, ended, settle
from pyroute2.netlink.rtnl import RTMGRP_IPV4_ROUTE
from test_monitor import add_routes, number_of

from fastns import AsyncNetNS, Lost, NetNS, Proxy, ProxyError, ResyncEnd

pytestmark = pytest.mark.root
COUNT = 500


def kill(proxy):
    os.kill(proxy.pid, signal.SIGKILL)
    assert ended(proxy.pid)


def says(error, proxy):
    """The error tells of the death, and how it came."""
    assert isinstance(error, ProxyError)
    assert str(proxy.pid) in str(error)
    assert error.status is not None
    assert os.WTERMSIG(error.status) == signal.SIGKILL


def by_iteration(monitor):
    seen = []
    try:
        for item in monitor:
            seen.append(item)  # noqa: PERF402
    except ProxyError as error:
        return seen, error
    return seen, None


def by_get(monitor):
    seen = []
    try:
        while True:
            seen.append(monitor.get())
    except ProxyError as error:
        return seen, error


def by_get_with_a_timeout(monitor):
    seen = []
    try:
        while True:
            seen.append(monitor.get(WAIT))
    except ProxyError as error:
        return seen, error


def by_poll(monitor):
    seen = []
    poller = select.poll()
    poller.register(monitor.fileno(), select.POLLIN)
    try:
        while True:
            assert poller.poll(WAIT * 1000)
            try:
                while True:
                    seen.append(monitor.get(0))
            except TimeoutError:
                pass
    except ProxyError as error:
        return seen, error


def by_asyncio(monitor):
    async def work():
        seen = []
        try:
            async for item in monitor:
                seen.append(item)  # noqa: PERF401
        except ProxyError as error:
            return seen, error
        return seen, None

    return asyncio.run(asyncio.wait_for(work(), WAIT))


WAYS = [by_iteration, by_get, by_get_with_a_timeout, by_poll, by_asyncio]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def way(request):
    return request.param


@pytest.fixture
def proxy():
    with Proxy() as made:
        yield made


@pytest.fixture
def writer(netns):
    with NetNS(netns, flags=0, transport="direct") as ns:
        ns.link("set", index=1, state="up")
        yield ns


@pytest.fixture
def reader(netns, writer, proxy):
    with NetNS(netns, flags=0, proxy=proxy) as ns:
        yield ns


OPTIONS = [{}, {"all_ns": True}, {"resync": 0.01}, {"resync": True, "initial": True}]


@pytest.fixture(params=OPTIONS, ids=lambda options: "-".join(options) or "plain")
def options(request):
    return request.param


def test_before_the_first_read(reader, writer, proxy, options, way):
    with reader.monitor(groups=RTMGRP_IPV4_ROUTE, **options) as monitor:
        add_routes(writer, range(COUNT))
        settle(proxy)
        kill(proxy)
        for expected in (COUNT, 0, 0):
            seen, error = way(monitor)
            assert [number_of(item) for item in seen] == list(range(expected))
            says(error, proxy)
        assert not monitor.closed


def test_after_some_were_read(reader, writer, proxy, options, way):
    with reader.monitor(groups=RTMGRP_IPV4_ROUTE, **options) as monitor:
        add_routes(writer, range(COUNT))
        settle(proxy)
        first = [monitor.get(WAIT)]
        while "initial" in options and not isinstance(first[-1], ResyncEnd):
            first.append(monitor.get(WAIT))
        kill(proxy)
        seen, error = way(monitor)
        numbers = [number_of(item) for item in seen]
        assert numbers == list(range(0 if "initial" in options else 1, COUNT))
        says(error, proxy)
        says(way(monitor)[1], proxy)


def test_while_waiting(reader, writer, proxy, options, way):
    with reader.monitor(groups=RTMGRP_IPV4_ROUTE, **options) as monitor:
        timer = threading.Timer(0.1, os.kill, (proxy.pid, signal.SIGKILL))
        timer.start()
        _, error = way(monitor)
        timer.join()
        assert isinstance(error, ProxyError)
        assert ended(proxy.pid)
        says(way(monitor)[1], proxy)


@pytest.mark.parametrize("options", [{}, {"resync": 0.001}])
def test_in_a_storm(reader, writer, proxy, options, way, rng):
    """Also where events are lost: each gap is told, and what is read is all there was, in order."""
    with reader.monitor(groups=RTMGRP_IPV4_ROUTE, rcvbuf=20000, ring_size=65536, **options) as monitor:
        begun = threading.Event()

        def storm():
            for start in range(0, 20000, 100):
                add_routes(writer, range(start, start + 100))
                begun.set()

        def killer():
            begun.wait(WAIT)
            os.kill(proxy.pid, signal.SIGKILL)

        threads = [threading.Thread(target=storm), threading.Thread(target=killer)]
        for thread in threads:
            thread.start()
        seen, error = way(monitor)
        for thread in threads:
            thread.join()
        assert isinstance(error, ProxyError)
        assert ended(proxy.pid)
        again, error = way(monitor)
        assert again == []
        says(error, proxy)
    last, lost = -1, False
    for item in seen:
        if isinstance(item, Lost):
            lost = True
        elif isinstance(item, dict) and not item["header"].get("resync"):
            assert number_of(item) == last + 1 or (lost and number_of(item) > last)
            last, lost = number_of(item), False


@pytest.mark.parametrize("options", [{}, {"resync": 0.01}, {"resync": True, "initial": True}])
def test_of_an_asynchronous_handle(netns, writer, proxy, options):
    async def work():
        async with AsyncNetNS(netns, flags=0, proxy=proxy) as ns:
            await ns.bind(RTMGRP_IPV4_ROUTE)
            async with ns.monitor(groups=RTMGRP_IPV4_ROUTE, **options) as monitor:
                await asyncio.to_thread(add_routes, writer, range(COUNT))
                settle(proxy)
                kill(proxy)
                for expected in (COUNT, 0, 0):
                    seen = []
                    with pytest.raises(ProxyError) as caught:
                        async for item in monitor:
                            seen.append(item)  # noqa: PERF401
                    assert [number_of(item) for item in seen] == list(range(expected))
                    says(caught.value, proxy)
                for expected in (COUNT, 0, 0):
                    seen = []
                    with pytest.raises(ProxyError) as caught:
                        while True:
                            seen += [number_of(msg) async for msg in ns.get()]
                    assert seen == list(range(expected))
                    says(caught.value, proxy)

    asyncio.run(asyncio.wait_for(work(), WAIT))


def test_of_bind_and_get(reader, writer, proxy):
    reader.bind(RTMGRP_IPV4_ROUTE)
    add_routes(writer, range(COUNT))
    settle(proxy)
    kill(proxy)
    for expected in (COUNT, 0, 0):
        seen = []
        with pytest.raises(ProxyError) as caught:
            while True:
                seen += [number_of(msg) for msg in reader.get()]
        assert seen == list(range(expected))
        says(caught.value, proxy)


def test_requests_go_on_where_only_events_came_through_the_proxy(netns, writer):
    """On a handle that is no relay's, the shared proxy's death ends the events, and a new monitor has a new proxy."""
    with NetNS(netns, flags=0) as ns:
        with ns.monitor(groups=RTMGRP_IPV4_ROUTE, resync=0.01) as monitor:
            proxy = monitor._transport.client
            add_routes(writer, range(COUNT))
            settle(proxy)
            kill(proxy)
            seen, error = by_iteration(monitor)
            assert [number_of(item) for item in seen] == list(range(COUNT))
            says(error, proxy)
        assert len(ns.get_links()) == 1
        with ns.monitor(groups=RTMGRP_IPV4_ROUTE) as monitor:
            add_routes(writer, [COUNT])
            assert number_of(monitor.get(WAIT)) == COUNT


def test_signals_meanwhile_change_nothing(reader, writer, proxy):
    """A handler that runs in the middle of reading, again and again."""
    with reader.monitor(groups=RTMGRP_IPV4_ROUTE) as monitor, Storm(lambda *_: None):
        add_routes(writer, range(COUNT))
        settle(proxy)
        kill(proxy)
        seen, error = by_iteration(monitor)
    assert [number_of(item) for item in seen] == list(range(COUNT))
    says(error, proxy)
