"""NSPopen where descriptors, privilege or system calls fail, and with many threads."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from subprocess import PIPE

import pytest
from faults import here
from isolation import need_tool, unavailable
from programs import READLINK, inside, output, script

from fastns.nspopen import NSPopen

pytestmark = pytest.mark.root


# Many threads, few descriptors


def test_threads_spawn_concurrently(netns_pair: tuple[str, str]) -> None:
    home = here()
    bad: list[str] = []

    def work(name: str) -> None:
        expected = inside(name)
        for number in range(12):
            out = output(name, READLINK, exec_like_ip=number % 3 == 0)
            if out != expected or here() != home:
                bad.append(out)

    def outside() -> None:
        for _ in range(30):
            out = subprocess.run(READLINK, capture_output=True, text=True, check=True).stdout.strip()
            if out != home:
                bad.append(out)

    threads = [threading.Thread(target=work, args=(name,)) for name in netns_pair * 2]
    threads.append(threading.Thread(target=outside))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not bad


def test_threads_own_namespace_is_home(netns_pair: tuple[str, str]) -> None:
    """Home is the calling thread's namespace, not the main thread's."""
    done = script(
        """
        import os, subprocess, sys, threading
        from fastns import _core
        from fastns.nspopen import NSPopen
        first, second = (f"/var/run/netns/{name}" for name in sys.argv[1:])
        main = os.readlink("/proc/self/ns/net")
        seen = []
        def work():
            fd = os.open(first, os.O_RDONLY)
            _core.enter_for_good(fd, first, None)
            mine = os.readlink("/proc/thread-self/ns/net")
            child = NSPopen(second, ["readlink", "/proc/self/ns/net"], stdout=subprocess.PIPE, text=True)
            seen.append(child.communicate()[0].strip() == f"net:[{os.stat(second).st_ino}]")
            seen.append(os.readlink("/proc/thread-self/ns/net") == mine == f"net:[{os.stat(first).st_ino}]")
        thread = threading.Thread(target=work); thread.start(); thread.join()
        assert seen == [True, True], seen
        assert os.readlink("/proc/self/ns/net") == main
        """,
        *netns_pair,
    )
    assert done.stderr == ""


def test_descriptor_exhaustion_leaks_nothing(netns: str) -> None:
    done = script(
        """
        import errno, os, resource, subprocess, sys
        from fastns.nspopen import NSPopen
        fds = lambda: len(os.listdir("/proc/self/fd"))
        NSPopen(sys.argv[1], ["true"]).wait()
        before = fds()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        failed = worked = 0
        for limit in range(3, before + 16):
            for extra in ({}, {"exec_like_ip": True}, {"preexec_fn": os.getpid}):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                try:
                    child = NSPopen(sys.argv[1], ["true"], stdout=subprocess.PIPE, **extra)
                except OSError as error:
                    assert error.errno == errno.EMFILE, error
                    failed += 1
                else:
                    worked += 1
                    child.communicate()
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                assert fds() == before, (limit, extra)
        assert failed and worked
        """,
        netns,
    )
    assert done.stderr == ""


def test_many_times_leaks_nothing(netns: str) -> None:
    def fds() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = fds()
    for number in range(60):
        child = NSPopen(netns, ["true"], stdout=PIPE, exec_like_ip=number % 2 == 0)
        child.communicate()
        with pytest.raises(FileNotFoundError):
            NSPopen(netns, ["/nonexistent-program"], stdout=PIPE, stdin=PIPE)
        with pytest.raises(FileNotFoundError):
            NSPopen("fns-nonexistent", ["true"])
    assert fds() == before


# What the system refuses

REFUSED = """
    import os, sys
    from fastns.nspopen import NSPopen
    try:
        NSPopen(sys.argv[1], ["true"], exec_like_ip=sys.argv[2] == "ip").wait()
    except OSError as error:
        print(type(error).__name__, error.filename, str(error))
"""


def injected(netns: str, fault: str, how: str, *, follow: bool = True) -> subprocess.CompletedProcess:
    """Run REFUSED with a system call failing. `when=` counts for each thread; follow=False spares other threads."""
    need_tool("strace")
    calls = fault.partition(":")[0]
    tracer = ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={fault}"]
    if follow:
        tracer.append("-f")
    return script(REFUSED, netns, how, check=False, prefix=tuple(tracer))


@pytest.mark.parametrize(
    ("fault", "how", "call"),
    [
        ("setns:error=EINVAL:when=2", "plain", "setns"),
        ("setns:error=EPERM", "plain", "setns"),
        ("setns:error=EPERM", "ip", "setns"),
        ("unshare:error=ENOSPC", "ip", "unshare"),
        ("mount:error=EPERM:when=1", "ip", "mount --make-rslave /"),
        ("mount:error=EBUSY:when=2", "ip", "mount of /sys"),
        ("clone3,clone:error=EAGAIN", "ip", "pthread_create"),
    ],
)
def test_a_failing_system_call_is_named(netns: str, fault: str, how: str, call: str) -> None:
    done = injected(netns, fault, how)
    assert done.returncode == 0, done.stderr
    assert call in done.stdout
    assert netns in done.stdout


def test_a_proven_return_that_fails_ends_the_process(netns: str) -> None:
    done = injected(netns, "setns:error=EPERM:when=3", "plain")
    assert done.returncode in (-signal.SIGABRT, 128 + signal.SIGABRT)
    assert "cannot return" in done.stderr


def test_unprovable_return_uses_a_throw_away_thread(netns: str) -> None:
    """The first setns, to the own namespace, fails: the program runs all the same."""
    done = injected(netns, "setns:error=EPERM:when=1", "plain", follow=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_without_privilege(netns: str) -> None:
    need_tool("setpriv")
    for how in ("plain", "ip"):
        done = script(REFUSED, netns, how, prefix=("setpriv", "--bounding-set", "-all", "--inh-caps", "-all"))
        name, filename = done.stdout.split()[:2]
        assert name == "PermissionError"
        assert netns in filename


ROOTLESS = """
    import os, subprocess, sys, time
    from fastns.nspopen import NSPopen
    home = os.readlink("/proc/self/ns/net")
    holder = subprocess.Popen(["unshare", "-n", "sleep", "600"])
    path = f"/proc/{holder.pid}/ns/net"
    while os.readlink(path) == home:
        time.sleep(0.005)
    inside = os.readlink(path)
    try:
        for extra in ({}, {"exec_like_ip": True}, {"preexec_fn": os.getpid}, {"preexec_fn": os.getpid, "user": 0}):
            for reference in ({"pid": holder.pid}, {"nsname": path}):
                child = NSPopen(args=["readlink", "/proc/self/ns/net"], stdout=subprocess.PIPE, text=True,
                                **reference, **extra)
                assert child.communicate()[0].strip() == inside, (extra, reference)
                assert child.returncode == 0
                assert os.readlink("/proc/self/ns/net") == home
        child = NSPopen(args=["ls", "/sys/class/net"], stdout=subprocess.PIPE, pid=holder.pid, exec_like_ip=True)
        print(child.communicate()[0].decode().strip())
        for cls in (subprocess.Popen, lambda *a, **k: NSPopen(path, *a, **k)):
            try:
                cls(["/nonexistent-program"])
            except FileNotFoundError as error:
                print(error)
    finally:
        holder.kill()
        holder.wait()
"""


def test_rootless_without_own_network_namespace() -> None:
    """The way in works there and the way back does not: no thread of the caller may go."""
    need_tool("unshare")
    if subprocess.run(["unshare", "-Ur", "true"], check=False, capture_output=True).returncode != 0:
        unavailable("unshare: no user namespaces")
    done = script(ROOTLESS, prefix=("unshare", "-Ur"))
    lines = done.stdout.splitlines()
    assert lines[0] == "lo"
    assert lines[1] == lines[2]
