"""What a program needs when nothing can be imported any more: after chroot(2), or with no descriptor to spare."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

TREE = Path(__file__).resolve().parent.parent

CHROOT = """
os.chroot(sys.argv[2])
os.chdir("/")
"""
NO_PATH = """
sys.path.clear()
sys.meta_path.clear()
sys.path_hooks.clear()
sys.path_importer_cache.clear()
"""
NO_DESCRIPTORS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 24, 4096))
spare = []
def exhaust():
    try:
        while True:
            spare.append(os.dup(0))
    except OSError:
        pass
def relax():
    while spare:
        os.close(spare.pop())
"""


def run(program, *args):
    done = subprocess.run(
        [sys.executable, "-c", "import os, sys\n" + textwrap.dedent(program), *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(TREE), *sys.path[1:]]))},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("transport", ["direct", "relay"])
@pytest.mark.parametrize("leave", [CHROOT, NO_PATH], ids=["chroot", "no path"])
def test_a_handle_does_all_it_can(leave, transport, netns, tmp_path):
    run(
        f"""
        from fastns import NetNS
        from fastns.errors import BatchError, NetlinkError
        ns = NetNS(sys.argv[1], transport={transport!r})
        """
        + textwrap.indent(leave, " " * 8)
        + """
        with ns.monitor(resync=True, initial=True) as events:
            ns.link("set", index=1, state="up")
            assert events.get(60) is not None
        assert len(ns.table("link")) == 1
        try:
            with ns.batch() as batch:
                batch.link("set", index=1, mtu=1400)
                batch.link("del", index=4321)
        except BatchError as error:
            assert [item.errno for item in error.errors] == [19]
        else:
            raise AssertionError
        try:
            ns.route("add", dst="192.0.2.0/24", oif=4321)
        except NetlinkError as error:
            assert error.code == 19 and str(error)
        else:
            raise AssertionError
        ns.bind()
        ns.link("set", index=1, mtu=1500)
        assert ns.get()[0]["event"] == "RTM_NEWLINK"
        assert ns.get_links()[0].get("mtu") == 1500 and ns.get_routes() and ns.get_rules() and ns.get_addr()
        ns.close()
        """,
        netns,
        str(tmp_path),
    )


@pytest.mark.parametrize("leave", [CHROOT, NO_PATH], ids=["chroot", "no path"])
def test_a_database(leave, netns, tmp_path):
    run(
        """
        from fastns import IPDB, netns
        netns.setns(sys.argv[1])
        """
        + textwrap.indent(leave, " " * 8)
        + """
        with IPDB() as ip:
            with ip.interfaces.lo as lo:
                lo.mtu = 1400
            assert ip.interfaces.lo.mtu == 1400
        """,
        netns,
        str(tmp_path),
    )


@pytest.mark.parametrize("leave", [CHROOT, NO_PATH], ids=["chroot", "no path"])
def test_asynchronous(leave, netns, tmp_path):
    run(
        """
        import asyncio
        from fastns import AsyncNetNS
        async def main():
            async with AsyncNetNS(sys.argv[1]) as ns:
        """
        + textwrap.indent(leave, " " * 16)
        + """
                assert len(await ns.table("link")) == 1
                async with ns.batch() as batch:
                    await batch.link("set", index=1, mtu=1400)
                assert [link.get("mtu") async for link in await ns.get_links()] == [1400]
        asyncio.run(main())
        """,
        netns,
        str(tmp_path),
    )


def test_death_of_a_proxy_is_told_without_a_descriptor(netns):
    """The import of the exception used to fail, and hid it."""
    run(
        """
        import signal
        from fastns import NetNS, Proxy
        proxy = Proxy()
        ns = NetNS(sys.argv[1], proxy=proxy)
        """
        + textwrap.indent(NO_DESCRIPTORS, " " * 8)
        + """
        os.kill(proxy.pid, signal.SIGKILL)
        exhaust()
        for call in (ns.get_links, proxy.stats):
            try:
                call()
            except Exception as error:
                assert (type(error).__module__, type(error).__name__) == ("fastns.errors", "ProxyError"), repr(error)
                assert "was killed by signal 9" in str(error)
            else:
                raise AssertionError
        relax()
        ns.close()
        proxy.close()
        """,
        netns,
    )


@pytest.mark.parametrize("transport", ["direct", "relay"])
def test_no_descriptor_is_told_as_that(transport, netns):
    run(
        f"""
        import errno
        from fastns import NetNS
        ns = NetNS(sys.argv[1], transport={transport!r})
        """
        + textwrap.indent(NO_DESCRIPTORS, " " * 8)
        + """
        exhaust()
        for call in (ns.monitor, ns.batch):
            try:
                call().close()
            except OSError as error:
                assert error.errno == errno.EMFILE, repr(error)
        relax()
        ns.monitor().close()
        ns.close()
        """,
        netns,
    )
