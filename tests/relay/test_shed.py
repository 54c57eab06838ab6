"""The relay: what of the program, of its libraries and of its user stays in the proxy, which is nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
from pathlib import Path

import faults
import pytest
from handwritten import GETLINK, WAIT, dump, ended, get_link, link_body
from isolation import need_tool
from programs import script

from fastns import _core
from fastns import netns as netns_module
from fastns.proxy import Proxy

built_for_use = pytest.mark.skipif(
    _core.BUILD in ("sanitized", "coverage"), reason="python: a build that keeps what it reports with"
)

SECRETS = r"""
#include <string.h>
static __thread char of_the_thread[64];
void with_secret(const char *reversed, void (*then)(void))
{
    volatile char on_the_stack[64] = {0};
    size_t len = strlen(reversed);
    for (size_t i = 0; i < len; i++)
        on_the_stack[len - 1 - i] = of_the_thread[len - 1 - i] = reversed[i];
    then();
    on_the_stack[0] = of_the_thread[0] = 0;
}
"""

HOLDER = """
import ctypes, os, sys, threading
import fastns
secret = os.environ["TOKEN"] + sys.argv[1]
held = [secret * 2, secret.encode(), bytearray(secret, "ascii") * 1000]
library = ctypes.CDLL(sys.argv[2])
made = []
def work():
    library.with_secret(secret[::-1].encode(), ctypes.CFUNCTYPE(None)(lambda: made.append(fastns.Proxy())))
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
for proxy in made:
    proxy.open().close()
    for name in ("environ", "cmdline"):
        with open(f"/proc/{proxy.pid}/{name}") as file:
            print(name, repr(file.read()))
    with open(f"/proc/{proxy.pid}/maps") as maps, open(f"/proc/{proxy.pid}/mem", "rb") as memory:
        for line in maps:
            low, high = (int(end, 16) for end in line.split()[0].split("-"))
            if "r" not in line.split()[1] or "[vsyscall]" in line:
                continue
            memory.seek(low)
            data = memory.read(high - low)
            for part in (os.environ["TOKEN"], sys.argv[1], "PATH=", secret[::-1]):
                if part.encode() in data:
                    print("found", part, line)
    proxy.close()
"""


def compiled(tmp_path, source, *flags):
    need_tool("gcc")
    library = tmp_path / "library.so"
    (tmp_path / "library.c").write_text(source)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(tmp_path / "library.c"), *flags], check=True
    )
    return str(library)


@built_for_use
def test_nothing_of_the_program_is_in_its_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", os.urandom(12).hex())
    done = script(HOLDER, os.urandom(12).hex(), compiled(tmp_path, SECRETS))
    assert done.stdout.splitlines() == ["environ ''", "cmdline 'fastns-proxy\\x00'"] * 2


SEALED = """
import ctypes, os, sys
import fastns
ANONYMOUS, NORESERVE, HUGE, MSEAL = 0x22, 0x4000, 0x40000, 462
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
huge = libc.mmap(None, 64 << 20, 3, ANONYMOUS | NORESERVE | HUGE, -1, 0)
size = os.sysconf("SC_PAGE_SIZE")
sealed = libc.mmap(None, 3 * size, 3, ANONYMOUS, -1, 0)
ctypes.memmove(sealed, sys.argv[1][::-1].encode() * 3, 3 * len(sys.argv[1]))
libc.syscall(MSEAL, ctypes.c_void_p(sealed), ctypes.c_size_t(size), 0)
with fastns.Proxy() as proxy, open(f"/proc/{proxy.pid}/maps") as maps, open(f"/proc/{proxy.pid}/mem", "rb") as memory:
    assert len(fastns.IPRoute(proxy=proxy).get_links()) >= 1
    for line in maps:
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        name = line.split()[-1]
        if "/" in name and not os.path.samefile(name, fastns._core.__file__):
            print("found", line)
        if low <= sealed < high:
            memory.seek(sealed)
            print("sealed", memory.read(size) == bytes(size))
print("done")
"""


@built_for_use
def test_nothing_stays_beside_what_the_kernel_has_sealed():
    """Its own pages since 6.16, and the program's: between them lie huge pages, which only go as a whole."""
    done = script(SEALED, os.urandom(12).hex())
    assert done.stdout.splitlines() in (["sealed True", "done"], ["done"])


# Each looks the real function up when it is first called, as libfaketime and others do.
WRAPPER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
typedef long (*any)(long, long, long, long, long, long);
#define WRAP(name) \
    long name(long a, long b, long c, long d, long e, long f) \
    { \
        static any real; \
        if (real == NULL) \
            real = (any)dlsym(RTLD_NEXT, #name); \
        if (real == NULL) \
            abort(); \
        return real(a, b, c, d, e, f); \
    }
"""
WRAPPED = (
    "bind chdir close dup2 epoll_create1 epoll_ctl epoll_wait fcntl fstat fstatfs ftruncate getppid getrlimit "
    "getsockname getsockopt ioctl madvise memchr memcmp memfd_create memmove mmap munmap open poll prctl read recvmsg "
    "sched_getcpu send sendmsg sendto setns setrlimit setsid setsockopt sigaction sigprocmask socket socketpair "
    "strlen strnlen syscall umask waitpid"
).split()

AT_WORK = """
import os, sys
import fastns
with fastns.Proxy() as proxy:
    handle = fastns.IPRoute(proxy=proxy)
    assert handle.link("get", index=1)
    assert len(handle.get_links()) >= 1
    for _ in range(3):
        fastns.IPRoute(proxy=proxy).close()
    handle.close()
    assert proxy.stats()["opened"] >= 4
    assert proxy.alive
print("done", os.WEXITSTATUS(proxy.status), flush=True)
"""


@built_for_use
def test_wrappers_of_what_it_calls_do_not_run_in_it(tmp_path, monkeypatch):
    source = WRAPPER + "".join(f"WRAP({name})\n" for name in WRAPPED)
    monkeypatch.setenv("LD_PRELOAD", compiled(tmp_path, source, "-w", "-fno-builtin", "-ldl"))
    assert script(AT_WORK).stdout == "done 0\n"


PRELOADS = {
    "libtcmalloc_minimal.so.4": {},
    "libjemalloc.so.2": {},
    "faketime/libfaketime.so.1": {"FAKETIME": "-3d"},
    "libeatmydata.so": {},
    "libfakeroot/libfakeroot-sysv.so": {},
    "torsocks/libtorsocks.so": {},
    "libsocket_wrapper.so": {"SOCKET_WRAPPER_DIR": "."},
    "libuid_wrapper.so": {"UID_WRAPPER": "1"},
    "libproxychains.so.4": {},
}


@built_for_use
@pytest.mark.parametrize("library", PRELOADS)
def test_preloaded_libraries_that_people_use(library, tmp_path, monkeypatch):
    found = sorted(Path("/usr/lib").glob(f"*-linux-*/{library}"))
    if not found:
        need_tool(library)
    for variable, value in PRELOADS[library].items():
        monkeypatch.setenv(variable, str(tmp_path) if value == "." else value)
    monkeypatch.setenv("LD_PRELOAD", str(found[0]))
    assert script(AT_WORK).stdout.splitlines()[-1] == "done 0"


# -- limits


def limited(limit, value):
    return f"import resource; resource.setrlimit(resource.{limit}, ({value}, {value}))\n" + AT_WORK


@pytest.mark.parametrize(
    ("limit", "value"),
    [("RLIMIT_FSIZE", 1 << 20), *((f"RLIMIT_{name}", value) for name in ("CORE", "STACK", "MEMLOCK") for value in (0, 1 << 20))],
)
def test_limits_of_the_program_do_not_end_it(limit, value):
    """RLIMIT_FSIZE holds for the memory rings are made of, and one who may not raise it gets smaller ones."""
    drop = "import os; os.getuid() or os.setresuid(65534, 65534, 65534)\n" if value else ""
    if drop and not Path("/proc/self/uid_map").read_text().split()[2].endswith("4294967295"):
        drop = ""
    assert script(drop + limited(limit, value)).stdout == "done 0\n"


def test_no_file_may_be_written_at_all():
    """Then no ring can be made, which is an error, and the next one is none of its kind."""
    program = """
    import errno, resource
    import fastns
    from fastns import _core
    soft = 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, soft))
    import ctypes
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, data) == 0
    with fastns.Proxy() as proxy:
        for _ in range(3):
            try:
                proxy.open()
            except OSError as error:
                assert error.errno == errno.EFBIG, error
                assert "ftruncate" in str(error)
        assert proxy.alive
        assert proxy.stats()["channels"] == 0
    print("done")
    """
    assert script(program).stdout == "done\n"


# -- its user


def ids_of(pid):
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {*fields["Uid"].split(), *fields["Gid"].split()}, fields["Groups"].split()


def whole_machine():
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


@built_for_use
def test_is_a_user_that_owns_nothing(proxy):
    ids, groups = ids_of(proxy.pid)
    if whole_machine() and os.getuid() == 0:
        assert len(ids) == 1
        assert int(ids.pop()) > 1 << 31
        assert groups == []
    else:
        assert ids <= {str(os.getuid()), str(os.getgid()), "65533"}


@built_for_use
@pytest.mark.parametrize(("call", "changed"), [("setresgid", 0), ("setresuid", 1), (None, None)])
def test_who_may_not_change_one_changes_the_other(proxy, call, changed):
    """As without CAP_SETGID, or without CAP_SETUID."""

    def work():
        if call is not None:
            faults.deny((call, errno.EPERM))
        with Proxy(netns=["/proc/self/ns/net"]) as other:
            fields = Path(f"/proc/{other.pid}/status").read_text()
        users, groups = (re.search(rf"^{name}:\t(.*)", fields, re.M)[1].split() for name in ("Uid", "Gid"))
        left = [str(os.getuid()) not in users, str(os.getgid()) not in groups]
        assert left == [call is None or changed == at for at in range(2)] or not may_change

    with open(f"/proc/{proxy.pid}/status") as file:
        may_change = f"Uid:\t{os.getuid()}\t" not in file.read()
    faults.survives(work)


@pytest.mark.parametrize("err", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_starts_where_a_filter_knows_no_landlock(err):
    def work():
        faults.deny(("landlock_create_ruleset", err))
        with Proxy() as proxy, Proxy(netns=["/proc/self/ns/net"]) as closed:
            for one in (proxy, closed):
                one.open("/proc/self/ns/net").close()

    faults.survives(work)


@built_for_use
def test_failing_landlock_is_named():
    def work():
        faults.deny(("landlock_create_ruleset", errno.ENOMEM))
        with pytest.raises(OSError, match="landlock_create_ruleset") as caught:
            Proxy()
        assert caught.value.errno == errno.ENOMEM

    faults.survives(work)


@built_for_use
def test_maps_nothing_executable_in_a_program_that_does():
    program = """
    import ctypes, fastns
    READ_IMPLIES_EXEC = 0x0400000
    assert ctypes.CDLL(None).personality(READ_IMPLIES_EXEC) >= 0
    with fastns.Proxy() as proxy:
        channel = proxy.open()
        rights = [line.split()[1] for line in open(f"/proc/{proxy.pid}/maps")]
    print(sum(right.startswith("r-x") for right in rights), sum("wx" in right for right in rights))
    """
    assert script(program).stdout == "1 0\n"


@built_for_use
@pytest.mark.root
def test_names_in_a_directory_of_the_user_alone(tmp_path, monkeypatch):
    """Whoever else it became could not look there, so it stays who it is."""
    private = tmp_path / "run"
    private.mkdir(mode=0o700)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(netns_module, "NETNS_RUN_DIR", str(private))
    netns_module.create("inside")
    try:
        with Proxy(netns=["inside"]) as proxy:
            channel = proxy.open("inside")
            assert dump(channel, GETLINK, link_body())
            channel.close()
            assert ids_of(proxy.pid)[0] == {str(os.getuid()), str(os.getgid())}
    finally:
        netns_module.remove("inside")
        subprocess.run(["umount", "-l", str(private)], check=False, capture_output=True)


@built_for_use
@pytest.mark.root
def test_name_of_what_is_no_namespace_is_not_opened(nsname):
    """Opening a pipe or a device may do something by itself."""
    path = Path(netns_module.NETNS_RUN_DIR) / nsname
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with Proxy(netns=[nsname]) as proxy, pytest.raises(OSError, match="not a network namespace") as caught:
            proxy.open(nsname)
        assert caught.value.errno == 22
    finally:
        os.close(reader)
        path.unlink()


# -- namespaces it holds


@pytest.mark.root
def test_holds_no_namespace_outside_its_list(netns_pair):
    """Not even the one it was started in: a request that names a descriptor by number could find it."""
    inside, _ = netns_pair
    with Proxy(netns=[inside]) as proxy:
        channels = [proxy.open(inside) for _ in range(3)]
        for channel in channels:
            channel.send(get_link())
            assert channel.recv(WAIT)
        nsfd, _ = netns_module.open_ref(inside)
        allowed = f"net:[{os.fstat(nsfd).st_ino}]"
        os.close(nsfd)
        held = {os.readlink(f"/proc/{proxy.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{proxy.pid}/fd")}
        assert {target for target in held if target.startswith("net:")} <= {allowed}
        for channel in channels:
            channel.close()


def test_is_not_made_the_init_of_another_pid_namespace():
    """It would end that namespace with itself."""
    program = """
    import ctypes, errno
    import fastns
    if ctypes.CDLL(None).unshare(0x20000000):
        raise SystemExit(0)
    try:
        fastns.Proxy()
    except OSError as error:
        assert error.errno == errno.EINVAL, error
        assert "PID namespace" in str(error)
    else:
        raise SystemExit("started")
    """
    script(program)


# -- the end of the interpreter

REAPER = """
import ctypes, os, subprocess, sys, time
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
program = '''
import os, sys
import fastns
from fastns.proxy import shared
kept = [fastns.Proxy() for _ in range(3)] + [shared()]
kept[0].open()
if sys.argv[1] == "closed":
    kept[1].close()
elif sys.argv[1] == "dropped":
    import warnings
    warnings.simplefilter("ignore")
    del kept[1]
elif sys.argv[1] == "cycle":
    kept.append(kept)
elif sys.argv[1] == "child":
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    assert all(proxy.alive for proxy in kept)
elif sys.argv[1] == "error":
    sys.stderr = None
    raise RuntimeError
'''
done = subprocess.run([sys.executable, "-c", program, sys.argv[1]])
assert done.returncode == (sys.argv[1] == "error")
try:
    left = os.waitpid(-1, 0x40000000 | os.WNOHANG)     # __WALL
except ChildProcessError:
    left = None
print(left)
"""


@pytest.mark.parametrize("how", ["open", "closed", "dropped", "cycle", "child", "error"])
def test_exit_of_the_interpreter_leaves_no_process_behind(how):
    assert script(REAPER, how).stdout == "None\n"


def test_exit_does_not_wait_for_one_that_is_stopped():
    program = "import os, signal, fastns; p = fastns.Proxy(); os.kill(p.pid, signal.SIGSTOP); print(p.pid)"
    pid = int(script(program).stdout)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    assert ended(pid)
