"""The asynchronous API, on asyncio's own loop and, where it is installed, on uvloop."""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib.util
import os
import signal
import sys
import threading
from subprocess import DEVNULL, PIPE

import pyroute2
import pytest
from fakekernel import FakeKernel, done, route
from handles import plain
from isolation import needs_tun

from fastns import BatchError, NetlinkError, NetNS, ResyncBegin, ResyncEnd
from fastns import netns as netns_module
from fastns.aio import AsyncIPRoute, AsyncNetNS, create_subprocess_exec, create_subprocess_shell

LOOPS = ["asyncio", "uvloop"] if importlib.util.find_spec("uvloop") else ["asyncio"]

if "uvloop" in LOOPS:  # its first loop makes a pipe that stays for the life of the process
    import uvloop

    first = uvloop.new_event_loop()
    first.run_until_complete(asyncio.sleep(0))
    first.close()


@pytest.fixture(params=LOOPS)
def run(request):
    """Run a coroutine on a fresh loop and leave no executor thread behind."""

    def runner(main):
        if request.param == "uvloop":
            loop = uvloop.new_event_loop()
        else:
            loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(main)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    return runner


@pytest.mark.root
def test_requests(netns, transport, run):
    async def main():
        async with AsyncNetNS(netns, transport=transport) as ns:
            assert isinstance(ns, pyroute2.AsyncIPRoute)
            await ns.link("add", ifname="v0", kind="veth", peer="v1")
            (index,) = await ns.link_lookup(ifname="v0")
            await ns.addr("add", index=index, address="10.0.0.1", prefixlen=24)
            links = [link async for link in await ns.get_links()]
            assert [x.get("ifname") async for x in await ns.link("dump", kind="veth")] == ["v1", "v0"]
            assert (await ns.link("get", index=index))[0].get("ifname") == "v0"
            assert await ns.ensure(ns.addr, present=True, index=index, address="10.0.0.2", prefixlen=24)
            await ns.flush_addr(index=index)
            assert not [x async for x in await ns.get_addr(index=index)]
            with pytest.raises(NetlinkError) as caught:
                await ns.link("del", index=4242)
            assert caught.value.code == errno.ENODEV
            return links

    links = run(main())
    with NetNS(netns, transport="direct") as ns:
        assert [plain(x) for x in links] == [plain(x) for x in ns.get_links()]


@pytest.mark.root
def test_many_at_once_on_one_handle(netns, transport, run):
    async def main():
        async with AsyncNetNS(netns, transport=transport) as ns:
            names = [f"b{i}" for i in range(20)]
            await asyncio.gather(*(ns.link("add", ifname=name, kind="bridge") for name in names))

            async def one(name):
                for _ in range(5):
                    assert (await ns.link("get", ifname=name))[0].get("ifname") == name
                    seen = {x.get("ifname") async for x in await ns.link("dump")}
                    assert seen == {"lo", *names}

            await asyncio.gather(*(one(name) for name in names))

    run(main())


@pytest.mark.root
@pytest.mark.parametrize("way", ["auto", "direct", "relay"])
def test_events(netns, way, run):
    async def main():
        async with AsyncNetNS(netns, transport=way) as ns:
            await ns.bind()

            async def wait():
                while True:
                    async for msg in ns.get():
                        if msg.get("ifname") == "e0" and msg["event"] == "RTM_NEWLINK":
                            return msg

            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0.05)
            await ns.link("add", ifname="e0", kind="bridge")
            assert (await asyncio.wait_for(waiting, 30))["header"]["type"] == 16

    run(main())


@pytest.mark.root
def test_a_dump_inside_a_dump(netns, transport, run):
    async def main():
        async with AsyncNetNS(netns, transport=transport) as ns:
            for i in range(3):
                await ns.link("add", ifname=f"b{i}", kind="bridge")
            outer = 0
            async for link in await ns.link("dump"):
                outer += 1
                assert (await ns.link("get", index=link["index"]))[0].get("ifname") == link.get("ifname")
                assert len([x async for x in await ns.link("dump")]) == 4
            assert outer == 4

    run(main())


@pytest.mark.root
def test_close_wakes_and_refuses(netns, run):
    async def main():
        ns = AsyncNetNS(netns, transport="direct")
        await ns.bind()

        async def reader():
            async for _ in ns.get():
                pass

        waiting = asyncio.ensure_future(reader())
        await asyncio.sleep(0.05)
        ns.close()
        with pytest.raises(OSError) as caught:
            await asyncio.wait_for(waiting, 30)
        assert caught.value.errno == errno.EBADF
        with pytest.raises(OSError):
            await ns.link("get", index=1)

    run(main())


@pytest.mark.root
def test_unclosed_warns(netns):
    ns = AsyncIPRoute(netns, transport="direct")
    with pytest.warns(ResourceWarning, match=netns):
        del ns
        gc.collect()


@pytest.mark.root
def test_remove(nsname, run):
    async def main():
        await AsyncNetNS(nsname, transport="direct").remove()

    run(main())
    assert nsname not in netns_module.listnetns()


def test_timeout_and_cancellation_leave_the_handle_usable(run):
    silent = True

    def answers(attempt, seq):
        return [] if silent else [route(seq, 2), done(seq)]

    async def main():
        nonlocal silent
        async with AsyncIPRoute(use_socket=FakeKernel(answers), timeout=0.05) as ipr:
            with pytest.raises(TimeoutError):
                [x async for x in await ipr.route("get", dst="10.0.0.1")]
            ipr.timeout = None
            waiting = asyncio.ensure_future(ipr.route("get", dst="10.0.0.1"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            silent = False
            assert len([x async for x in await ipr.route("dump")]) == 1
            assert not ipr.sleepers.watched

    run(main())


@pytest.mark.root
def test_processes(netns, run):
    async def main():
        here = os.readlink("/proc/thread-self/ns/net")
        child = await create_subprocess_exec(netns, "readlink", "/proc/self/ns/net", stdout=PIPE)
        out, err = await child.communicate()
        assert (child.returncode, err) == (0, None)
        assert out.decode().strip() not in ("", here)

        echo = await create_subprocess_exec(netns, "cat", stdin=PIPE, stdout=PIPE)
        data = bytes(range(256)) * 4096
        assert (await echo.communicate(data))[0] == data

        failing = await create_subprocess_shell(netns, "echo no >&2; exit 3", stderr=PIPE)
        assert await failing.stderr.read() == b"no\n"
        assert await failing.wait() == 3
        await failing.communicate()

        sleeper = await create_subprocess_exec(netns, "sleep", "60", stdout=DEVNULL)
        assert sleeper.returncode is None
        sleeper.terminate()
        assert await sleeper.wait() == -signal.SIGTERM

        with pytest.raises(FileNotFoundError):
            await create_subprocess_exec(netns, "/nonexistent/program")
        with pytest.raises(FileNotFoundError):
            await create_subprocess_exec("no-such-namespace", sys.executable)

    run(main())


# ---- monitors, batches, tables ---------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("way", ["auto", "direct", "relay"])
def test_monitor_with_resync(netns, way, run):
    async def main():
        async with AsyncNetNS(netns, transport=way) as ns, ns.monitor(resync=True, initial=True) as monitor:
            # Somebody waits on the handle's socket while the state is read in another thread.
            busy = asyncio.ensure_future(ask(ns))
            names, ends = [], 0
            await ns.link("add", ifname="m0", kind="bridge")
            async for item in monitor:
                if isinstance(item, ResyncEnd):
                    assert item.complete
                    ends += 1
                elif not isinstance(item, ResyncBegin) and item.get("ifname"):
                    names.append(item.get("ifname"))
                if ends and "m0" in names:
                    break
            assert "lo" in names
            with pytest.raises(asyncio.TimeoutError):
                while True:  # until nothing comes any more, which cancels the wait
                    await asyncio.wait_for(monitor.__anext__(), 0.05)
            await ns.link("add", ifname="m1", kind="bridge")
            async for item in monitor:
                if item.get("ifname") == "m1":
                    break
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)
            assert (await ns.link("get", ifname="m1"))[0].get("ifname") == "m1"
        assert monitor.closed

    async def ask(ns):
        while True:
            assert [x async for x in await ns.get_links()]
            await asyncio.sleep(0)

    run(main())


@pytest.mark.root
def test_batch(netns, transport, run):
    async def main():
        async with AsyncNetNS(netns, transport=transport) as ns:
            await ns.link("set", index=1, state="up")
            async with ns.batch() as batch:

                async def add(high):
                    for low in range(250):
                        await batch.route("add", dst=f"10.0.{high}.{low}/32", oif=1)

                await asyncio.gather(*(add(high) for high in range(10)))
                assert 0 < batch.sent <= batch.count == 2500
            assert batch.results == [()] * 2500
            assert batch.closed and batch.failed == 0 and not batch.unknown and not batch.not_sent
            table = await ns.table("route", oif=1, type=1)
            assert len(table) == 2500

            with pytest.raises(BatchError) as caught:
                async with ns.batch() as batch:
                    await batch.route("del", dst="10.0.0.0/32", oif=1)
                    await batch.route("del", dst="10.99.0.0/32", oif=1)
                    await batch.addr("add", index=1, address="10.1.0.1", prefixlen=24)
            assert [(e.index, e.code) for e in caught.value.errors] == [(1, errno.ESRCH)]
            assert [x.get("address") async for x in await ns.get_addr(index=1, family=2)][-1] == "10.1.0.1"

            with pytest.raises(ZeroDivisionError):
                async with ns.batch() as batch:
                    await batch.rule("add", table=10, priority=100)
                    1 / 0  # noqa: B018
            assert batch.count == 1 and batch.sent == 0
            assert not [x async for x in await ns.get_rules(priority=100)]

            async with ns.batch(errors="collect") as batch:
                await batch.tc("add", "pfifo_fast", 1)
                await batch.tc("add", "pfifo_fast", 4242)
                await batch.flush()
                assert batch.sent == 2
            assert [getattr(x, "code", x) for x in batch.results] == [(), errno.ENODEV]

    run(main())


@pytest.mark.root
def test_batch_of_an_iterable(netns, run):
    async def produce():
        for number in range(1200):
            await asyncio.sleep(0)
            yield "route", "add", {"dst": f"10.1.{number // 256}.{number % 256}/32", "oif": 1}

    async def main():
        async with AsyncNetNS(netns, transport="direct") as ns:
            await ns.link("set", index=1, state="up")
            seen, failed = [], []
            report = await ns.batch().load(produce(), progress=lambda done, wrong: seen.append((done, wrong)))
            assert report == (1200, 0, 0)
            assert seen == sorted(seen) and seen[-1] == (1200, 0)
            batch = ns.batch(errors="collect")
            again = [("route", "add", {"dst": f"10.1.0.{number}/32", "oif": 1}) for number in range(3)]
            assert await batch.load(again, each=lambda index, error: failed.append((index, error.code))) == (0, 3, 0)
            assert failed == [(index, errno.EEXIST) for index in range(3)]
            with pytest.raises(BatchError):
                await ns.batch().load(again)
            with pytest.raises(ValueError, match="nonsense"):
                await ns.batch().load([("nonsense", "add", {})])

    run(main())


@pytest.mark.root
def test_cancelled_batch(netns, transport, run):
    async def main():
        async with AsyncNetNS(netns, transport=transport) as ns:
            await ns.link("set", index=1, state="up")
            batch = ns.batch()

            async def fill():
                async with batch:
                    number = 0
                    while True:
                        a, b = divmod(number % 65536, 256)
                        await batch.route("replace", dst=f"10.2.{a}.{b}/32", oif=1)
                        number += 1

            filling = asyncio.ensure_future(fill())
            while not batch.sent:
                await asyncio.sleep(0.01)
            filling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await filling
            assert batch.closed
            sent = batch.sent
            routes = [x async for x in await ns.get_routes(family=2, oif=1, type=1)]
            assert len(routes) == min(sent, 65536)

    run(main())


def test_a_cancelled_send_still_keeps_its_turn(run):
    gate = threading.Event()

    async def main():
        async with AsyncIPRoute(use_socket=FakeKernel(lambda attempt, seq: [route(seq, 2), done(seq)])) as ipr:
            send = ipr.transport.sock.send
            order = []

            def slow(data):
                order.append("begin")
                gate.wait(10)
                order.append("end")
                return send(data)

            ipr.transport.sock.send = slow
            first = asyncio.ensure_future(ipr.route("dump"))
            while not order:
                await asyncio.sleep(0)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            second = asyncio.ensure_future(ipr.route("dump"))
            await asyncio.sleep(0.02)
            assert order == ["begin"]
            gate.set()
            assert len([x async for x in await second]) == 1
            assert order == ["begin", "end"] * 2

    run(main())


@pytest.mark.root
@needs_tun
def test_a_probe_does_not_hold_the_loop(netns, run):
    async def main():
        async with AsyncNetNS(netns, transport="direct") as ns:
            await ns.link("set", index=1, state="up")
            ticks = 0

            async def tick():
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.ensure_future(tick())
            await ns.probe("add", kind="ping", dst="127.0.0.1", timeout=10)
            ticking.cancel()
            assert ticks > 1
            await ns.link("add", ifname="tap0", kind="tuntap", mode="tap")
            assert await ns.link_lookup(ifname="tap0")

    run(main())


def test_a_loop_closed_under_its_waiters():
    silent = True

    def answers(attempt, seq):
        return [] if silent else [route(seq, 2), done(seq)]

    ipr = AsyncIPRoute(use_socket=FakeKernel(answers))

    async def wait(start):
        start.set_result(asyncio.ensure_future(ask()))
        await asyncio.sleep(0.01)

    async def ask():
        return [x async for x in await ipr.route("dump")]

    first = asyncio.new_event_loop()
    start = first.create_future()
    first.run_until_complete(wait(start))
    first.run_until_complete(first.shutdown_default_executor())
    left = start.result()
    first.close()
    silent = False
    ipr.dumping = None  # as if its answer had come

    second = asyncio.new_event_loop()
    try:
        assert len(second.run_until_complete(asyncio.wait_for(ask(), 30))) == 1
        second.run_until_complete(second.shutdown_default_executor())
    finally:
        second.close()
        left._log_destroy_pending = False
        ipr.close()


@pytest.mark.root
def test_a_process_whose_start_is_cancelled_does_not_live_on(netns, run):
    """At whatever moment of its start; the guard finds children and descriptors that are left."""

    async def main():
        for turns in range(40):
            starting = asyncio.ensure_future(
                create_subprocess_exec(netns, "sleep", "600", stdin=PIPE, stdout=PIPE, stderr=PIPE)
            )
            for _ in range(turns):
                await asyncio.sleep(0.0002)
            starting.cancel()
            try:
                process = await starting
            except asyncio.CancelledError:
                continue
            process.kill()
            await process.communicate()
        await asyncio.sleep(0)

    run(main())


@pytest.mark.root
def test_what_a_process_of_asyncio_is_not(netns, run):
    async def main():
        for option in ({"text": True}, {"encoding": "utf-8"}, {"bufsize": 4096}, {"shell": True}):
            with pytest.raises(ValueError, match=next(iter(option))):
                await create_subprocess_exec(netns, "true", **option)
        process = await create_subprocess_exec(netns, "true", stdin=PIPE, stdout=PIPE)
        assert [line async for line in process.stdout] == [] and await process.wait() == 0
        with pytest.raises(ProcessLookupError):
            process.kill()
        assert await process.communicate(b"too late") == (b"", None)

    run(main())


@pytest.mark.root
def test_two_tasks_read_one_monitor(netns, transport, run):
    async def main():
        async with AsyncNetNS(netns, transport=transport) as ns, ns.monitor(groups=1) as monitor:
            readers = [asyncio.ensure_future(monitor.__anext__()) for _ in range(3)]
            await asyncio.sleep(0.05)
            for _ in range(3):
                await ns.link("set", index=1, state="up")
                await ns.link("set", index=1, state="down")
            events = await asyncio.wait_for(asyncio.gather(*readers), 30)
            assert {event["event"] for event in events} == {"RTM_NEWLINK"}

    run(main())
