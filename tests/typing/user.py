"""A user's program for the type checkers; never run. What must be an error is ignored by its name, and an ignore that
is not needed is an error: so each of these lines fails the check on the day it stops being refused."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any, Optional

from typing_extensions import assert_type

import fastns
from fastns import (
    IPDB,
    AsyncIPRoute,
    AsyncNetNS,
    BatchError,
    IPRoute,
    Lost,
    NetlinkError,
    NetNS,
    NSPopen,
    Pool,
    Proxy,
    ProxyError,
    ResyncEnd,
    netns,
)
from fastns.aio import AsyncBatch, AsyncMonitor, Process, create_subprocess_exec
from fastns.batch import Batch, BatchReport
from fastns.errors import BatchItemError
from fastns.monitor import Monitor
from fastns.table import Table


def namespaces() -> None:
    netns.create("blue")
    netns.create(b"/run/netns/blue")
    assert_type(netns.listnetns(), list[str])
    assert_type(netns.NETNS_RUN_DIR, str)
    netns.NETNS_RUN_DIR = "/run/user/1000/netns"
    assert_type(netns.ns_pids(), dict[str, list[int]])
    assert_type(netns.pid_to_ns(1), Optional[str])
    assert_type(netns.exists("blue"), bool)
    assert_type(netns.info("blue").pids, tuple[int, ...])
    assert_type(netns.sysctl("blue")["net.ipv4.ip_forward"], str)
    netns.sysctl("blue")["net.ipv4.ip_forward"] = 1
    assert_type(netns.run_in("blue", len, "abc"), int)
    assert_type(netns.exists(None, pid=1), bool)
    with netns.entered("blue"), netns.watch() as events:
        for event, name in events:
            assert_type(event, str)
            assert_type(name, str)
    netns.create(1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    netns.remove()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    netns.no_such_function()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def requests() -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield "route", "add", {"dst": "10.0.0.0/8", "oif": 1}


def handles() -> None:
    with NetNS("blue", flags=0) as ns:
        assert_type(ns, NetNS)
        assert_type(ns.fileno(), int)
        assert_type(ns.gettimeout(), Optional[float])
        ns.link("set", index=1, state="up")
        for message in ns.get_links():
            print(message.get_attr("IFLA_IFNAME"))
        with ns.batch(errors="collect") as batch:
            assert_type(batch, Batch)
            batch.route("add", dst="10.0.0.0/8", oif=1)
            batch.link("set", index=1, mtu=1400)
        assert_type(batch.count, int)
        assert_type(batch.not_sent, range)
        for error in batch.errors:
            assert_type(error, BatchItemError)
            assert_type(error.index, int)
        assert_type(ns.batch().load(requests(), progress=lambda done, failed: None), BatchReport)
        ns.remove()
    with IPRoute(pid=1, transport="relay", rcvbuf=1 << 20) as ipr:
        assert_type(ipr, IPRoute)
    NetNS("blue", transport=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    IPRoute("blue", timeout="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def columns(ns: NetNS) -> None:
    table = ns.table("route", family=2)
    assert_type(table, Table)
    assert_type(len(table), int)
    assert_type(table[0], dict[str, Any])
    assert_type(table[1:3], Table)
    assert_type(table.column_names, list[str])
    assert_type(table["dst"].to_list(), list[Any])
    assert_type(table.to_pydict(), dict[str, list[Any]])
    for row in table:
        assert_type(row, dict[str, Any])
    table[1.5]  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def events(ns: NetNS) -> None:
    with ns.monitor(groups=[1, 7], resync=True) as monitor:
        assert_type(monitor, Monitor)
        for item in monitor:
            if isinstance(item, Lost):
                assert_type(item.count, Optional[int])
            elif isinstance(item, ResyncEnd):
                assert_type(item.complete, bool)


def many() -> None:
    def links(ns: NetNS) -> int:
        return len(ns.get_links())

    with Pool(max_handles=100) as pool:
        assert_type(pool, Pool)
        for found in pool.map(links, ["blue", "green"]).values():
            if isinstance(found, Exception):
                raise found
            assert_type(found, int)
        pool.map(links, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def proxies() -> None:
    with Proxy(netns=["blue"], read_only=True, families=[0]) as proxy:
        assert_type(proxy, Proxy)
        assert_type(proxy.pid, int)
        assert_type(proxy.status, Optional[int])
        assert_type(proxy.stats(), dict[str, int])
        with NetNS("blue", proxy=proxy) as ns:
            assert_type(ns, NetNS)


def processes() -> None:
    with NSPopen("blue", ["true"], stdout=subprocess.PIPE, text=True) as process:
        assert_type(process, NSPopen)
        assert_type(process.pid, int)
        assert_type(process.wait(timeout=5), int)
        process.release()


def failures() -> None:
    try:
        handles()
    except BatchError as error:
        assert_type(error.not_sent, range)
    except NetlinkError as error:
        assert_type(error.code, int)
        assert_type(error.attribute, Optional[str])
    except ProxyError as error:
        assert_type(error.status, Optional[int])


async def asynchronous() -> None:
    async with AsyncNetNS("blue") as ns, AsyncIPRoute() as ipr:
        assert_type(ns, AsyncNetNS)
        assert_type(ipr, AsyncIPRoute)
        async for link in await ns.get_links():
            print(link.get_attr("IFLA_IFNAME"))
        async with ns.batch() as batch:
            assert_type(batch, AsyncBatch)
            await batch.route("add", dst="10.0.0.0/8", oif=1)
        assert_type(await ns.table("route"), Table)
        async with ns.monitor() as monitor:
            assert_type(monitor, AsyncMonitor)
            async for item in monitor:
                print(item)
        await ns.remove()
    process = await create_subprocess_exec("blue", "true")
    assert_type(process, Process)
    assert_type(await process.wait(), int)


def database() -> None:
    with IPDB(nl=NetNS("blue")) as ipdb:
        assert_type(ipdb, IPDB)
        ipdb.commit()
    fastns.install()
    fastns.uninstall()
    assert_type(fastns.__version__, str)
    print(fastns.no_such_name)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
