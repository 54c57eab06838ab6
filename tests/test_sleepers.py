"""Several tasks that wait for one object: the end of one is not the end of the others, nor is it that of a loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from conftest import new_name

from fastns import NetNS, netns
from fastns.aio import AsyncNetNS

pytestmark = pytest.mark.root
WAIT = 10.0


class Namespaces:
    """Names in the run directory."""

    def __init__(self, nsname: str) -> None:
        self.events = netns.watch()
        self.name = new_name()

    async def next(self) -> Any:
        return (await self.events.__anext__()).name == self.name

    def happen(self) -> None:
        netns.create(self.name)

    def close(self) -> None:
        self.events.close()
        if netns.exists(self.name):
            netns.remove(self.name)


class Items:
    """A monitor's."""

    def __init__(self, nsname: str) -> None:
        self.handle = NetNS(nsname, flags=0)
        self.events = self.handle.monitor()

    async def next(self) -> Any:
        return (await self.events.__anext__())["event"] == "RTM_NEWLINK"

    def happen(self) -> None:
        self.handle.link("set", index=1, state="up")

    def close(self) -> None:
        self.events.close()
        self.handle.close()


class Messages:
    """A handle's."""

    def __init__(self, nsname: str) -> None:
        self.handle = NetNS(nsname, flags=0)
        self.events = AsyncNetNS(nsname, flags=0)

    async def next(self) -> Any:
        await self.events.bind()
        messages = [message async for message in self.events.get()]
        return messages[0]["event"] == "RTM_NEWLINK"

    def happen(self) -> None:
        self.handle.link("set", index=1, state="up")

    def close(self) -> None:
        self.events.close()
        self.handle.close()


@pytest.fixture(params=(Namespaces, Items, Messages), ids=lambda kind: kind.__name__.lower())
def source(request, netns_pair):
    made = request.param(netns_pair[0])
    yield made
    made.close()


async def waiting(source: Any) -> asyncio.Task[Any]:
    """A task that waits in its loop's selector."""
    task = asyncio.ensure_future(source.next())
    for _ in range(20):
        await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "last"])
def test_the_other_task_hears(source, order):
    async def main() -> Any:
        tasks = [await waiting(source) for _ in range(2)]
        leaves, stays = (tasks[number] for number in order)
        leaves.cancel()
        await asyncio.wait([leaves])
        source.happen()
        return await asyncio.wait_for(stays, WAIT)

    assert asyncio.run(main())


def test_a_loop_that_is_gone(source):
    """Closed under its task: the next loop waits, and hears."""
    loop = asyncio.new_event_loop()
    left = loop.run_until_complete(waiting(source))
    loop.close()

    async def main() -> Any:
        task = await waiting(source)
        source.happen()
        return await asyncio.wait_for(task, WAIT)

    assert asyncio.run(main())
    left._log_destroy_pending = False


def test_loops_of_two_threads(source):
    """One loop's task ends: the other's hears."""
    there, over = threading.Event(), threading.Event()

    def leave() -> None:
        async def main() -> None:
            task = await waiting(source)
            there.set()
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(main())
        over.set()

    async def main() -> Any:
        task = await waiting(source)
        thread = threading.Thread(target=leave)
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, over.wait, WAIT)
        source.happen()
        heard = await asyncio.wait_for(task, WAIT)
        thread.join()
        return heard

    assert asyncio.run(main())
    assert there.is_set()
