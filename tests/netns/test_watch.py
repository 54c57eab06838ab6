"""fastns.netns.watch: what was created and removed."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import select

import faults
import pytest
from conftest import new_name
from faults import survives
from rundir import MNT_DETACH, ip, path_of

from fastns import _core
from fastns import netns as ns


def names_of(events, kind: str) -> list[str]:
    return [name for event, name in events if event == kind]


@pytest.mark.root
def test_watch(nsname, netns_pair):
    with ns.watch() as watch:
        with pytest.raises(TimeoutError):
            watch.get(0)
        ns.create(nsname)
        assert watch.get(10) == ("created", nsname)
        ns.remove(nsname)
        ip("netns", "add", nsname)
        ip("netns", "del", netns_pair[0])
        ns.remove(nsname)
        # what has come and gone before it is looked at passes unseen
        assert [watch.get(10) for _ in range(2)] == [("removed", nsname), ("removed", netns_pair[0])]
        with pytest.raises(TimeoutError):
            watch.get(0)


@pytest.mark.root
def test_watch_sees_every_step_when_followed(nsname):
    with ns.watch() as watch:
        for round_ in range(20):
            if round_ % 2:
                ip("netns", "add", nsname)
            else:
                ns.create(nsname)
            assert watch.get(10) == ns.NetnsEvent("created", nsname)
            assert ns.exists(nsname)
            ns.remove(nsname)
            assert watch.get(10) == ns.NetnsEvent("removed", nsname)


@pytest.mark.root
def test_watch_iterates_until_the_timeout():
    names = [new_name() for _ in range(30)]
    with ns.watch(timeout=0.5) as watch:
        for name in names:
            ns.create(name)
        for name in names:
            assert next(watch).name == name
        for name in names:
            ns.remove(name)
        events = list(watch)
    assert names_of(events, "removed") == names
    assert len(events) == len(names)
    assert list(watch) == []


@pytest.mark.root
def test_watch_created_when_the_mount_is_there(nsname):
    path = path_of(nsname)
    with ns.watch() as watch:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0))
        with pytest.raises(TimeoutError):
            watch.get(0.1)
        fd = _core.ns_new()
        faults.call(faults.libc.mount(f"/proc/self/fd/{fd}".encode(), path.encode(), None, 0x1000, None))
        os.close(fd)
        # nothing but fileno() has to be looked at
        assert select.select([watch], [], [], 10)[0] == [watch]
        assert watch.get(10) == ("created", nsname)
        os.close(os.open(path + "x", os.O_CREAT | os.O_EXCL, 0))
        os.unlink(path + "x")
        with pytest.raises(TimeoutError):
            watch.get(0.05)
        ns.remove(nsname)
        assert watch.get(10) == ("removed", nsname)


@pytest.mark.root
def test_watch_without_a_run_directory(tmp_path, monkeypatch, nsname):
    directory = tmp_path / "netns"
    with pytest.raises(FileNotFoundError):
        ns.watch(str(tmp_path / "no" / "netns"))
    monkeypatch.setattr(ns, "NETNS_RUN_DIR", str(directory))
    with ns.watch() as watch:
        (tmp_path / "other").mkdir()
        with pytest.raises(TimeoutError):
            watch.get(0)
        for _ in range(2):
            ns.create(nsname)
            assert watch.get(10) == ("created", nsname)
            ns.remove(nsname)
            assert watch.get(10) == ("removed", nsname)
            faults.call(faults.libc.umount2(os.fsencode(directory), MNT_DETACH))
            directory.rmdir()
            with pytest.raises(TimeoutError):
                watch.get(0)


@pytest.mark.root
def test_watch_after_a_loss(missing, netns):
    with ns.watch() as watch:
        ns.create(missing)
        ns.remove(netns)
        while True:  # what the kernel drops when its queue is full
            try:
                watch._inotify.read(65536)
            except BlockingIOError:
                break
        watch._take(-1, 0x4000, "")
        assert {watch.get(0), watch.get(0)} == {("created", missing), ("removed", netns)}
        ns.remove(missing)
        assert watch.get(10) == ("removed", missing)


@pytest.mark.root
def test_watch_in_asyncio(nsname):
    async def main():
        found = []
        loop = asyncio.get_running_loop()
        with ns.watch() as watch:
            task = loop.run_in_executor(None, ip, "netns", "add", nsname)
            async for event in watch:
                found.append(event)
                if event.event == "removed":
                    break
                await task
                task = loop.run_in_executor(None, ns.remove, nsname)
            await task
        assert [event async for event in watch] == []
        with ns.watch(timeout=0.01) as watch:
            assert [event async for event in watch] == []
        return found

    assert asyncio.run(main()) == [("created", nsname), ("removed", nsname)]


@pytest.mark.root
def test_watch_use_after_close():
    watch = ns.watch()
    assert not watch.closed
    watch.close()
    watch.close()
    assert watch.closed
    for attempt in (watch.fileno, lambda: watch.get(0)):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == errno.EBADF
    assert list(watch) == []


@pytest.mark.root
def test_watch_unclosed_warns():
    watch = ns.watch()
    with pytest.warns(ResourceWarning, match="unclosed watch"):
        del watch
        gc.collect()


@pytest.mark.root
def test_watch_descriptor_limit():
    def body():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        free = max(map(int, os.listdir("/proc/self/fd"))) + 1
        before = set(os.listdir("/proc/self/fd"))
        for more in range(4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + more, hard))
            try:
                ns.watch().close()
            except OSError as error:
                assert error.errno == errno.EMFILE
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        assert set(os.listdir("/proc/self/fd")) == before

    survives(body)
