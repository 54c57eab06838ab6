"""The relay: the life of the proxy process, and what a forked child of the program may not do to it."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings

import pytest
from handwritten import (
    GETLINK,
    WAIT,
    dump,
    ended,
    get_link,
    in_child,
    link_body,
    messages,
    wait_ready,
)

from fastns import _core
from fastns import netns as netns_module
from fastns import proxy as proxy_module
from fastns.errors import ProxyError
from fastns.proxy import Proxy


def calls(proxy, channel):
    """One of each kind that needs the process."""
    return channel.recv, lambda: channel.send(get_link()), channel.getsockname, proxy.open, proxy.stats


# -- life of the process


def test_killed_while_waiting(proxy, channel):
    threading.Timer(0.05, os.kill, (proxy.pid, signal.SIGKILL)).start()
    with pytest.raises(ProxyError, match="killed by signal 9") as caught:
        channel.recv()
    assert os.WTERMSIG(caught.value.status) == signal.SIGKILL
    for call in calls(proxy, channel):
        with pytest.raises(ProxyError) as caught:
            call()
        assert caught.value.status == signal.SIGKILL
    assert not proxy.alive
    assert proxy.status == signal.SIGKILL
    proxy.close()  # which does not make it one that was closed
    for call in (channel.recv, channel.getsockname, proxy.open, proxy.stats):
        with pytest.raises(ProxyError) as caught:
            call()
        assert caught.value.status == signal.SIGKILL
    with Proxy() as other, pytest.raises(TimeoutError):
        made = other.open()
        try:
            made.recv(0)
        finally:
            made.close()


def test_what_arrived_before_the_death_is_still_read(proxy, channel):
    channel.send(get_link(seq=1))
    channel.send(get_link(seq=2))
    channel.getsockname()
    os.kill(proxy.pid, signal.SIGKILL)
    assert ended(proxy.pid)
    assert next(messages(channel.recv(WAIT)))[2] == 1
    wait_ready(channel)
    assert next(messages(channel.recv(0)))[2] == 2
    wait_ready(channel)
    with pytest.raises(ProxyError):
        channel.recv(0)


def test_killed_while_many_wait(proxy):
    channels = [proxy.open() for _ in range(20)]
    errors = []

    def wait(channel):
        try:
            channel.recv()
        except ProxyError as error:
            errors.append(error)

    threads = [threading.Thread(target=wait, args=(channel,)) for channel in channels]
    for thread in threads:
        thread.start()
    os.kill(proxy.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(WAIT)
    assert [error.status for error in errors] == [signal.SIGKILL] * 20
    for channel in channels:
        channel.close()


def test_stopped_and_continued(proxy, channel):
    os.kill(proxy.pid, signal.SIGSTOP)
    channel.send(get_link())
    with pytest.raises(TimeoutError):
        channel.recv(0.05)
    with pytest.raises(TimeoutError):
        for _ in range(1000):
            channel.send(get_link(), timeout=0.05)
    os.kill(proxy.pid, signal.SIGCONT)
    assert channel.recv(WAIT)


def test_stopped_proxy_can_be_closed(proxy):
    os.kill(proxy.pid, signal.SIGSTOP)
    proxy.close()
    assert os.WTERMSIG(proxy.status) == signal.SIGKILL


def test_terminal_and_service_signals_are_ignored(proxy, channel):
    for signo in (
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGTERM,
        signal.SIGTSTP,
        signal.SIGTTIN,
    ):
        os.kill(proxy.pid, signo)
    channel.send(get_link())
    assert channel.recv(WAIT)
    assert os.getsid(proxy.pid) == proxy.pid


def test_wait_of_the_program_does_not_meet_it(proxy, channel):
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    got = []
    before = signal.signal(signal.SIGCHLD, lambda *_: got.append(1))
    try:
        os.kill(proxy.pid, signal.SIGKILL)
        with pytest.raises(ProxyError) as caught:
            channel.recv()
        assert caught.value.status == signal.SIGKILL
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert got == []


def test_status_taken_by_somebody_else(proxy, channel):
    os.kill(proxy.pid, signal.SIGKILL)
    os.waitpid(proxy.pid, 0x40000000)  # __WALL
    with pytest.raises(ProxyError) as caught:
        channel.recv()
    assert caught.value.status is None


def test_closed_twice_and_used_after(proxy):
    channel = proxy.open()
    channel.close()
    channel.close()
    assert channel.closed
    assert channel.fileno() == -1
    for call in (channel.recv, lambda: channel.send(get_link()), channel.getsockname):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    proxy.close()
    proxy.close()
    assert not proxy.alive
    assert proxy.status == 0
    assert "closed" in repr(proxy)
    with pytest.raises(OSError) as caught:
        proxy.open()
    assert caught.value.errno == errno.EBADF


def test_channel_outlives_its_proxy(proxy):
    channel = proxy.open()
    proxy.close()
    with pytest.raises(ProxyError, match="exited with status 0"):
        channel.recv()
    channel.close()


def test_closed_while_another_thread_waits(proxy):
    channel = proxy.open()
    errors = []

    def wait():
        try:
            channel.recv()
        except OSError as error:
            errors.append(error.errno)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    channel.close()
    thread.join(WAIT)
    assert errors == [errno.EBADF]


def test_forgotten_objects():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        proxy = Proxy()
        pid = proxy.pid
        channel = proxy.open()
        del proxy, channel
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    assert not os.path.exists(f"/proc/{pid}")


def test_dropped_client_is_reaped_later():
    client = _core.RelayClient(b"/var/run/netns")
    pid = client.pid
    del client
    _core.reap_abandoned(WAIT * 1000)
    assert not os.path.exists(f"/proc/{pid}")


@pytest.mark.skipif(
    _core.BUILD in ("sanitized", "coverage"), reason="python: a build that keeps what it reports with"
)
def test_process_sheds_what_it_inherited(proxy, channel):
    targets = {os.readlink(f"/proc/{proxy.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{proxy.pid}/fd")}
    kinds = {re.sub(r"\[.*|:.*", "", target) for target in targets}
    if _core.BUILD == "sanitized":  # its reports go to what was standard error
        kinds -= {re.sub(r"\[.*|:.*", "", os.readlink("/proc/self/fd/2"))}
    assert kinds <= {"/dev/null", "/memfd", "socket", "anon_inode", "net"}  # memfd: a request too long for a message
    with open(f"/proc/{proxy.pid}/comm") as file:
        assert file.read() == "fastns-proxy\n"
    assert os.readlink(f"/proc/{proxy.pid}/cwd") == "/"
    with open(f"/proc/{proxy.pid}/stat") as file:
        assert file.read().rpartition(")")[2].split()[4] == "0"  # no terminal


def private_kilobytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(size) for size in re.findall(r"Private_\w+:\s+(\d+) kB", file.read()))


@pytest.mark.skipif(_core.BUILD in ("sanitized", "coverage"), reason="python: a build with memory of its own")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_private_memory_whatever_the_parent_holds(where):
    held = mmap.mmap(-1, 200 << 20)
    heap = [bytearray(100) for _ in range(300_000)]
    held.write(b"x" * (200 << 20))
    made = []
    if where == "main":
        made.append(Proxy())
    else:
        thread = threading.Thread(target=lambda: made.append(Proxy()))
        thread.start()
        thread.join()
    with made[0] as proxy:
        channels = [proxy.open() for _ in range(20)]
        for _ in range(100):
            for channel in channels:
                channel.send(get_link())
                channel.recv(WAIT)
        held.seek(0)
        held.write(b"y" * (200 << 20))
        for item in heap:
            item[0] = 1
        assert private_kilobytes(proxy.pid) <= 4096
        for channel in channels:
            channel.close()
    held.close()


@pytest.mark.root
@pytest.mark.skipif(_core.BUILD in ("sanitized", "coverage"), reason="python: a build with memory of its own")
def test_memory_with_a_thousand_namespaces(nsname):
    """A handle in each of them at once, used; rings are shared memory, so they count as resident and not as private."""
    names = [f"{nsname}{number}" for number in range(1000)]
    netns_module.create_many(names)
    try:
        with Proxy() as proxy:
            channels = [proxy.open(name, ring_size=0) for name in names]
            for _ in range(10):
                for channel in channels:
                    assert len(dump(channel, GETLINK, link_body())) >= 1
            assert proxy.stats()["channels"] == 1000
            with open(f"/proc/{proxy.pid}/status") as file:
                resident = int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1])
            assert resident < 64 << 10
            assert private_kilobytes(proxy.pid) <= 4096
            for channel in channels:
                channel.close()
    finally:
        netns_module.remove_many(names)


def run_parent(script, *, kill=None):
    """Start a program that has a proxy and prints its pid; kill it or let it end; whether the proxy ends too."""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        if kill is not None:
            process.send_signal(kill)
        assert ended(pid)
        if process.poll() is None:
            process.kill()


PARENT = "import os, sys, time; from fastns.proxy import Proxy; p = Proxy(); c = p.open(); print(p.pid, flush=True)\n"


@pytest.mark.parametrize("signo", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_ends_with_a_killed_parent(signo):
    run_parent(PARENT + "time.sleep(60)", kill=signo)


def test_ends_with_a_parent_that_exits():
    run_parent(PARENT + "os._exit(0)")


def test_ends_when_the_parent_becomes_another_program():
    run_parent(PARENT + "os.execv('/bin/sleep', ['sleep', '60'])")


def test_ends_though_a_forked_child_lives_on():
    run_parent(PARENT + "os.fork() or time.sleep(1); os._exit(0)", kill=None)


def test_ends_when_the_forking_thread_has_long_gone():
    script = (
        "import os, sys, time, threading; from fastns.proxy import Proxy; made = []\n"
        "t = threading.Thread(target=lambda: made.append(Proxy())); t.start(); t.join(); time.sleep(0.2)\n"
        "assert made[0].alive; made[0].open().close(); print(made[0].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    run_parent(script)


def test_interpreter_exit_with_everything_open_is_silent():
    script = PARENT + "from fastns.proxy import shared; s = shared(); d = s.open(); d.fileno(); print(s.pid)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    for pid in done.stdout.split():
        assert ended(int(pid))


# -- fork of the program


def test_forked_child_cannot_use_it(proxy, channel):
    def use():
        assert not proxy.alive
        for call in calls(proxy, channel):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF
        channel.close()
        proxy.close()
        gc.collect()

    assert in_child(use) == ""
    channel.send(get_link())
    assert channel.recv(WAIT)
    assert proxy.alive


def test_forked_child_while_another_thread_waits_for_the_proxy(proxy):
    """The thread that holds the connection's lock does not exist in the child: nothing there waits for it."""
    os.kill(proxy.pid, signal.SIGSTOP)
    thread = threading.Thread(target=proxy.stats)
    thread.start()
    time.sleep(0.05)

    def use():
        for call in (proxy.stats, proxy.open):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EBADF
        proxy.close()

    try:
        assert in_child(use) == ""
    finally:
        os.kill(proxy.pid, signal.SIGCONT)
        thread.join(WAIT)


def test_forked_child_lets_go_of_what_it_has_not(proxy, channel):
    """A ring is not handed on to a child, which has one of its own at that address by then."""

    def child():
        with Proxy() as own:
            made = own.open()
            channel.close()
            made.send(get_link())
            assert made.recv(WAIT)
            made.close()

    assert in_child(child) == ""


def test_forked_child_that_exits_leaves_it_alone(proxy, channel):
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert in_child(lambda: None) == ""
    channel.send(get_link())
    assert channel.recv(WAIT)


def test_closing_reaches_through_forked_copies(proxy):
    channel = proxy.open()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    os.close(reading)
    try:
        channel.close()
        deadline = time.monotonic() + WAIT
        while proxy.stats()["channels"] and time.monotonic() < deadline:
            time.sleep(0.005)
        assert proxy.stats()["channels"] == 0
        proxy.close()
        assert proxy.status == 0
    finally:
        os.close(writing)
        os.waitpid(pid, 0)


def test_death_is_seen_whoever_was_forked_meanwhile():
    """By another thread, while the proxy was started, without ever calling exec()."""
    over = False
    children = []

    def forking():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            while not over and len(children) < 200:
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                    os._exit(0)
                children.append(pid)

    thread = threading.Thread(target=forking)
    thread.start()
    try:
        for _ in range(10):
            with Proxy() as proxy:
                os.kill(proxy.pid, signal.SIGKILL)
                with pytest.raises(ProxyError):
                    proxy.stats()
                assert not proxy.alive
    finally:
        over = True
        thread.join()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_shared_is_one_and_comes_back():
    first = proxy_module.shared()
    assert proxy_module.shared() is first
    os.kill(first.pid, signal.SIGKILL)
    assert ended(first.pid)
    second = proxy_module.shared()
    assert second is not first
    assert second.alive

    def child():
        third = proxy_module.shared()
        assert third.pid != second.pid
        made = third.open()
        made.send(get_link())
        made.recv(WAIT)
        made.close()
        proxy_module.close_shared()

    assert in_child(child) == ""
    assert second.alive
    proxy_module.close_shared()
    proxy_module.close_shared()


def test_default():
    assert proxy_module.default() is None
    with Proxy(default=True) as first:
        assert proxy_module.default() is first
        with Proxy(default=True) as second:
            assert proxy_module.default() is second
            os.kill(second.pid, signal.SIGKILL)
            assert ended(second.pid)
            assert proxy_module.default() is first
    assert proxy_module.default() is None


def test_fork_while_another_thread_is_in_a_request(proxy):
    stop = threading.Event()
    errors = []

    def work(channel):
        try:
            while not stop.is_set():
                channel.send(get_link())
                channel.recv(WAIT)
        except Exception as error:
            errors.append(error)

    channels = [proxy.open() for _ in range(3)]
    threads = [threading.Thread(target=work, args=(channel,)) for channel in channels]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert in_child(lambda: proxy_module.shared().open().close()) == ""
        Proxy().close()
    stop.set()
    for thread in threads:
        thread.join(WAIT)
    assert errors == []
    for channel in channels:
        channel.close()
