"""The asynchronous API, on asyncio's own loop and, where it is installed, on uvloop."""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib.util
import os
import signal
import sys
from subprocess import DEVNULL, PIPE

import pyroute2
import pytest
from test_iproute import FakeKernel, done, plain, route

from fastns import NetlinkError, NetNS
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


@pytest.fixture(params=["direct", "relay"])
def transport(request):
    return request.param


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
            assert not ipr.watched

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
