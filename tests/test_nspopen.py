"""NSPopen: everything subprocess.Popen does, inside a namespace."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import inspect
import io
import os
import pathlib
import select
import selectors
import signal
import subprocess
import sys
import warnings
from subprocess import DEVNULL, PIPE, STDOUT
from typing import Any

import pytest
from faults import here
from isolation import RUN_DIR
from programs import READLINK, inside, output, script, until

from fastns import _core
from fastns.nspopen import NSPopen

pytestmark = pytest.mark.root

# Where the program runs


def test_runs_inside_and_the_caller_stays(netns: str) -> None:
    before = here()
    assert output(netns, READLINK) == inside(netns) != before
    assert here() == before
    assert os.readlink("/proc/self/ns/net") == before


@pytest.mark.parametrize("kind", ["name", "bytes", "path", "fd", "file", "pid"])
def test_every_kind_of_reference(netns: str, kind: str, sleeper: int) -> None:
    path = os.path.join(RUN_DIR, netns)
    expected = inside(netns)
    if kind == "pid":
        assert output(None, READLINK, pid=sleeper) == expected
    elif kind == "fd":
        fd = os.open(path, os.O_RDONLY)
        try:
            assert output(fd, READLINK) == expected
            os.fstat(fd)
        finally:
            os.close(fd)
    elif kind == "file":
        with open(path, "rb") as file:
            assert output(file, READLINK) == expected
            assert not file.closed
    else:
        reference = {"name": netns, "bytes": netns.encode(), "path": path}[kind]
        assert output(reference, READLINK) == expected


def test_missing_namespace_is_file_not_found(nsname: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        NSPopen(nsname, ["true"])
    assert nsname in str(caught.value.filename)
    assert not os.path.exists(os.path.join(RUN_DIR, nsname))


def test_flags_create(nsname: str) -> None:
    assert output(nsname, READLINK, flags=os.O_CREAT) == inside(nsname)
    assert output(nsname, READLINK, flags=os.O_CREAT) == inside(nsname)
    with pytest.raises(FileExistsError):
        NSPopen(nsname, ["true"], flags=os.O_CREAT | os.O_EXCL)


def test_flags_exclusive_creates(nsname: str) -> None:
    assert output(nsname, READLINK, flags=os.O_CREAT | os.O_EXCL) == inside(nsname)


def test_libc_is_accepted(netns: str) -> None:
    assert NSPopen(netns, ["true"], libc=None).wait() == 0


@pytest.mark.parametrize("bad", ["", ".", "..", "a\0b", "x" * 256])
def test_bad_name_is_value_error(bad: str) -> None:
    with pytest.raises(ValueError):
        NSPopen(bad, ["true"])


@pytest.mark.parametrize("bad", [None, 1.5, [], object()])
def test_bad_type_is_type_error(bad: Any) -> None:
    with pytest.raises(TypeError):
        NSPopen(bad, ["true"])


def test_closed_descriptor() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError):
        NSPopen(fd, ["true"])


def test_what_is_no_namespace_is_refused(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises((OSError, ValueError)):
        NSPopen(str(file), ["true"])
    with file.open() as opened, pytest.raises((OSError, ValueError)):
        NSPopen(opened, ["true"])
    assert file.read_text() == "kept"


def test_deleted_namespace(netns: str) -> None:
    fd = os.open(os.path.join(RUN_DIR, netns), os.O_RDONLY)
    try:
        expected = inside(netns)
        subprocess.run(["ip", "netns", "del", netns], check=True)
        with pytest.raises(FileNotFoundError):
            NSPopen(netns, ["true"])
        assert output(fd, READLINK) == expected  # the descriptor keeps it alive
        assert output(fd, ["ls", "/sys/class/net"], exec_like_ip=True) == "lo"
    finally:
        os.close(fd)


def test_dead_entry_is_refused(nsname: str) -> None:
    with open(os.path.join(RUN_DIR, nsname), "w"):
        pass
    with pytest.raises((OSError, ValueError)):
        NSPopen(nsname, ["true"])


def test_inside_another_network(netns_pair: tuple[str, str]) -> None:
    first, second = netns_pair
    subprocess.run(["ip", "-n", first, "link", "add", "fnsa", "type", "veth", "peer", "fnsb"], check=True)
    for name, expected in ((first, True), (second, False)):
        links = output(name, ["ip", "-o", "link"])
        assert ("fnsa" in links) is expected
        real = subprocess.run(["ip", "-n", name, "-o", "link"], check=True, capture_output=True, text=True).stdout
        assert links == real.strip()


# What Popen promises


def test_is_a_popen_with_its_whole_surface(netns: str) -> None:
    assert issubclass(NSPopen, subprocess.Popen)
    assert set(dir(subprocess.Popen)) <= set(dir(NSPopen))
    assert "release" in dir(NSPopen)
    child = NSPopen(netns, ["true"])
    assert isinstance(child, subprocess.Popen)
    assert child.wait() == child.returncode == 0
    assert child.args == ["true"]
    assert child.nsname == netns
    assert set(dir(subprocess.Popen)) <= set(dir(child))
    assert next(iter(inspect.signature(NSPopen).parameters)) == "nsname"


def test_pid_is_the_programs_own(netns: str) -> None:
    with NSPopen(netns, ["sh", "-c", "echo $$; echo $PPID"], stdout=PIPE, text=True) as child:
        out, _ = child.communicate()
    assert out.split() == [str(child.pid), str(os.getpid())]


def test_communicate_with_input_and_stderr(netns: str) -> None:
    child = NSPopen(netns, ["sh", "-c", "cat; echo err >&2; exit 3"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert child.communicate(b"x" * 300_000) == (b"x" * 300_000, b"err\n")
    assert child.returncode == 3


def test_communicate_timeout_and_again(netns: str) -> None:
    child = NSPopen(netns, ["sh", "-c", "echo first; exec sleep 600"], stdout=PIPE, text=True)
    seen = None
    while not seen:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            child.communicate(timeout=0.05)
        seen = caught.value.output
    child.kill()
    assert child.communicate() == ("first\n", None)


def test_wait_timeout_then_kill(netns: str) -> None:
    child = NSPopen(netns, ["sleep", "600"])
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(timeout=0.02)
    assert child.poll() is None
    child.kill()
    assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize("how", ["send_signal", "terminate", "kill"])
def test_signals(netns: str, how: str) -> None:
    child = NSPopen(netns, ["sleep", "600"])
    if how == "send_signal":
        child.send_signal(signal.SIGUSR1)
    else:
        getattr(child, how)()
    expected = {"send_signal": signal.SIGUSR1, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}[how]
    assert child.wait() == -expected


def test_text_modes(netns: str) -> None:
    for kwargs in ({"text": True}, {"universal_newlines": True}, {"encoding": "utf-8"}, {"errors": "strict"}):
        with NSPopen(netns, ["printf", "a\\nb"], stdout=PIPE, **kwargs) as child:
            assert isinstance(child.stdout, io.TextIOWrapper)
            assert child.stdout.readlines() == ["a\n", "b"]


@pytest.mark.parametrize("bufsize", [0, 1, -1])
def test_bufsize(netns: str, bufsize: int) -> None:
    text = bufsize == 1
    with NSPopen(netns, ["cat"], stdin=PIPE, stdout=PIPE, bufsize=bufsize, text=text) as child:
        assert child.stdin.fcntl(fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        out, _ = child.communicate("x\n" if text else b"x\n")
    assert out == ("x\n" if text else b"x\n")


def test_context_manager_closes_and_waits(netns: str) -> None:
    with NSPopen(netns, ["cat"], stdin=PIPE, stdout=PIPE) as child:
        pass
    assert child.returncode == 0
    assert child.stdin.closed and child.stdout.closed


def test_shell_executable_env_cwd_umask(netns: str, tmp_path: pathlib.Path) -> None:
    out = output(netns, 'echo "$FNS $(pwd) $(umask) $0"', shell=True, env={"FNS": "v", "PATH": os.environ["PATH"]},
                 cwd=tmp_path, umask=0o031)  # fmt: skip
    assert out == f"v {os.path.realpath(tmp_path)} 0031 /bin/sh"
    assert output(netns, ["named", "-c", "echo $0"], executable="/bin/sh") == "named"
    assert output(netns, [pathlib.Path("/bin/echo"), b"bytes"]) == "bytes"


def test_user_and_groups(netns: str) -> None:
    try:
        os.setgroups(os.getgroups())
        subprocess.run(["true"], user=65534, group=65534, check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("kernel: only one user is mapped here")
    for kwargs in ({}, {"exec_like_ip": True}, {"preexec_fn": os.getpid}):
        out = output(netns, ["sh", "-c", "id -u; id -g; id -G; readlink /proc/self/ns/net"],
                     user=65534, group=65534, extra_groups=[3], **kwargs)  # fmt: skip
        assert out.split() == ["65534", "65534", "65534", "3", inside(netns)]


def test_start_new_session_and_process_group(netns: str) -> None:
    with NSPopen(netns, ["sleep", "600"], start_new_session=True) as child:
        assert os.getsid(child.pid) == child.pid
        child.kill()
    if sys.version_info >= (3, 11):
        with NSPopen(netns, ["sleep", "600"], process_group=0) as child:
            assert os.getpgid(child.pid) == child.pid
            assert os.getsid(child.pid) == os.getsid(0)
            child.kill()


def test_pass_fds_and_close_fds(netns: str) -> None:
    read_fd, write_fd = os.pipe()
    try:
        child = NSPopen(netns, ["sh", "-c", f"echo through >/dev/fd/{write_fd}"], pass_fds=[write_fd])
        assert child.wait() == 0
        assert os.read(read_fd, 100) == b"through\n"
        names = output(netns, ["ls", "/proc/self/fd"], stderr=DEVNULL).split()
        assert set(names) == {"0", "1", "2", "3"}  # 3: the directory being listed
        names = output(netns, ["ls", "/proc/self/fd"], stderr=DEVNULL, close_fds=False).split()
        plain = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False)
        assert set(names) == set(plain.stdout.split())  # nothing of ours was inheritable
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_redirects(netns: str, tmp_path: pathlib.Path) -> None:
    target = tmp_path / "out"
    with target.open("wb") as file:
        assert NSPopen(netns, ["sh", "-c", "echo a; echo b >&2"], stdin=DEVNULL, stdout=file, stderr=STDOUT).wait() == 0
    assert target.read_bytes() == b"a\nb\n"


def test_errors_of_the_program_are_subprocess_own(netns: str, tmp_path: pathlib.Path) -> None:
    for argv, kwargs in (
        (["/nonexistent/program"], {}),
        (["/nonexistent-program"], {}),
        (["true"], {"cwd": "/nonexistent"}),
        ([str(tmp_path)], {}),
        (["true"], {"env": {"a=b": "c"}}),
        (["tr\0ue"], {}),
        (["true", 5], {}),
        (["true"], {"pass_fds": [-5]}),
        (["true"], {"start_new_session": "x", "bufsize": "y"}),
    ):
        for extra in ({}, {"exec_like_ip": True}):
            with pytest.raises(Exception) as plain:
                subprocess.Popen(argv, **kwargs)
            with pytest.raises(Exception) as ours:
                NSPopen(netns, argv, **extra, **kwargs)
            assert type(ours.value) is type(plain.value)
            assert str(ours.value) == str(plain.value)
            assert getattr(ours.value, "filename", None) == getattr(plain.value, "filename", None)


def test_preexec_fn_runs_inside(netns: str) -> None:
    read_fd, write_fd = os.pipe()
    try:
        fn = lambda: os.write(write_fd, os.readlink("/proc/self/ns/net").encode())  # noqa: E731
        for extra in ({}, {"exec_like_ip": True}):
            assert output(netns, READLINK, preexec_fn=fn, **extra) == inside(netns)
            assert os.read(read_fd, 100).decode() == inside(netns)
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_preexec_fn_that_fails(netns: str) -> None:
    with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
        NSPopen(netns, ["true"], preexec_fn=lambda: 1 / 0)


def test_preexec_fn_and_at_fork_handlers_leave_the_caller_at_home(netns: str) -> None:
    done = script(
        """
        import os, sys
        from fastns.nspopen import NSPopen
        seen = []
        look = lambda: seen.append(os.readlink("/proc/thread-self/ns/net"))
        os.register_at_fork(before=look, after_in_parent=look)
        assert NSPopen(sys.argv[1], ["true"], preexec_fn=os.getpid).wait() == 0
        assert len(seen) == 2 and set(seen) == {os.readlink("/proc/self/ns/net")}, seen
        """,
        netns,
    )
    assert done.stderr == ""


def test_parent_death_signal_follows_the_caller(netns: str) -> None:
    """A throw-away thread as parent would kill the child at once."""
    done = script(
        """
        import ctypes, signal, subprocess, sys
        from fastns.nspopen import NSPopen
        libc = ctypes.CDLL(None)
        for extra in ({}, {"exec_like_ip": True}):
            child = NSPopen(sys.argv[1], ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            preexec_fn=lambda: libc.prctl(1, signal.SIGKILL), **extra)
            print(child.communicate(b"alive"), child.returncode)
        """,
        netns,
    )
    assert done.stdout.splitlines() == ["(b'alive', None) 0"] * 2


def test_standard_descriptors_closed(netns: str) -> None:
    """Descriptors 0 to 2 closed in the caller: subprocess's dup2 must not hit the namespace's descriptor."""
    done = script(
        """
        import os, subprocess, sys
        from fastns.nspopen import NSPopen
        os.close(0); os.close(1)
        results = []
        for extra in ({}, {"preexec_fn": os.getpid}, {"exec_like_ip": True}):
            child = NSPopen(sys.argv[1], ["readlink", "/proc/self/ns/net"], stdout=subprocess.PIPE, **extra)
            results.append(child.communicate()[0].decode().strip())
        os.write(2, repr(results).encode())
        """,
        netns,
    )
    assert done.stderr == repr([inside(netns)] * 3)


def test_signal_mask_is_the_callers(netns: str) -> None:
    def blocked(**kwargs: Any) -> set[int]:
        status = output(netns, ["grep", "SigBlk", "/proc/self/status"], **kwargs)
        bits = int(status.split()[1], 16)
        return {n for n in range(1, 65) if bits >> (n - 1) & 1}

    for kwargs in ({}, {"exec_like_ip": True}, {"preexec_fn": os.getpid}):
        assert blocked(**kwargs) == set()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
        try:
            assert blocked(**kwargs) == {signal.SIGUSR2}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_sigchld_handler_and_wakeup(netns: str) -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGCHLD, lambda *_: seen.append(here()))
    try:
        for extra in ({}, {"exec_like_ip": True}):
            child = NSPopen(netns, ["true"], **extra)
            child.wait()
        until(lambda: bool(seen))
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert set(seen) == {here()}


def test_signal_handlers_never_run_inside(netns: str) -> None:
    """A timer fires all the time; its handler must always find the caller's namespace."""
    wrong: list[str] = []
    home = here()

    def handler(*_: Any) -> None:
        now = here()
        if now != home:
            wrong.append(now)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        for extra in ({}, {"exec_like_ip": True}):
            for _ in range(30):
                assert NSPopen(netns, ["true"], **extra).wait() == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not wrong


def test_finalisers_never_run_inside(netns: str) -> None:
    wrong: list[str] = []
    home = here()

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            now = here()
            if now != home:
                wrong.append(now)

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for extra in ({}, {"exec_like_ip": True}):
            for _ in range(20):
                garbage = [Cycle() for _ in range(5)]
                del garbage
                assert NSPopen(netns, ["true"] + ["x"] * 50, **extra).wait() == 0
    finally:
        gc.set_threshold(*threshold)
    assert gc.isenabled()
    assert not wrong


def test_path_arguments_are_resolved_outside(netns: str) -> None:
    class Arg:
        def __fspath__(self) -> str:
            return here()

    assert output(netns, ["echo", Arg()]) == here()


def test_collector_stays_off_where_it_was_off(netns: str) -> None:
    gc.disable()
    try:
        for extra in ({}, {"exec_like_ip": True}):
            assert NSPopen(netns, ["true"], **extra).wait() == 0
            assert not gc.isenabled()
    finally:
        gc.enable()


# Files


def test_files_have_fcntl_methods_and_stay_files(netns: str) -> None:
    child = NSPopen(netns, ["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert child.stdout.fcntl(fcntl.F_GETFL) == fcntl.fcntl(child.stdout, fcntl.F_GETFL)
    assert child.stdin.fcntl(fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    assert isinstance(child.stdout, io.BufferedReader)
    assert isinstance(child.stdin, io.BufferedWriter)
    assert int.from_bytes(child.stdout.ioctl(0x541B, b"\0" * 4), sys.byteorder) == 0  # FIONREAD
    with pytest.raises(OSError):
        child.stdout.lockf(fcntl.LOCK_EX)  # a pipe has no record locks: the call reaches the kernel
    child.stdout.flock(fcntl.LOCK_SH | fcntl.LOCK_NB)
    method = child.stdout.fcntl
    assert method.__doc__ == fcntl.fcntl.__doc__
    child.communicate()
    with pytest.raises(ValueError):
        method(fcntl.F_GETFL)
    del child
    gc.collect()
    with pytest.raises(ValueError):
        method(fcntl.F_GETFL)


def test_files_are_not_kept_open_by_their_methods(netns: str) -> None:
    """Reference counting alone closes them: no cycle through the methods."""
    gc.disable()
    try:
        child = NSPopen(netns, ["true"], stdout=PIPE)
        child.wait()
        fd = child.stdout.fileno()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del child
        with pytest.raises(OSError):
            os.fstat(fd)
    finally:
        gc.enable()


def test_select_poll_selectors(netns: str) -> None:
    child = NSPopen(netns, ["sh", "-c", "read x; echo done"], stdin=PIPE, stdout=PIPE)
    assert select.select([child.stdout], [], [], 0)[0] == []
    child.stdin.write(b"go\n")
    child.stdin.flush()
    assert select.select([child.stdout], [], [], 60)[0] == [child.stdout]
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        assert selector.select(60)
    assert child.communicate() == (b"done\n", None)


def test_pipe_as_stdin_of_another(netns: str) -> None:
    first = NSPopen(netns, ["echo", "piped"], stdout=PIPE)
    second = subprocess.Popen(["cat"], stdin=first.stdout, stdout=PIPE)
    first.stdout.close()
    assert second.communicate() == (b"piped\n", None)
    assert first.wait() == 0


def test_asyncio_pipes(netns: str) -> None:
    async def main() -> bytes:
        child = NSPopen(netns, ["sh", "-c", "echo one; sleep 0.05; echo two"], stdout=PIPE)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), child.stdout)
        data = await reader.read()
        await loop.run_in_executor(None, child.wait)
        transport.close()
        await asyncio.sleep(0)
        return data

    assert asyncio.run(main()) == b"one\ntwo\n"


# release()


def test_release_after_end(netns: str) -> None:
    child = NSPopen(netns, ["echo", "x"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    pipes = [child.stdin, child.stdout, child.stderr]
    child.wait()
    child.release()
    assert all(pipe.closed for pipe in pipes)
    for name in ("pid", "returncode", "stdout", "wait", "poll", "communicate", "args", "nonsense"):
        with pytest.raises(RuntimeError):
            getattr(child, name)
    child.release()
    assert child.released
    assert isinstance(child, NSPopen)
    assert "released" in repr(child)
    assert set(dir(subprocess.Popen)) <= set(dir(child))
    with pytest.raises(RuntimeError):
        child.__enter__()


def test_release_inside_a_with_block(netns: str) -> None:
    with NSPopen(netns, ["true"]) as child:
        child.wait()
        child.release()


def test_release_leaves_a_running_child_and_no_zombie(netns: str) -> None:
    child = NSPopen(netns, ["sleep", "600"], stdin=PIPE)
    pid = child.pid
    child.release()
    os.kill(pid, 0)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not os.path.exists(f"/proc/{pid}"))


def test_release_with_a_reader_gone(netns: str) -> None:
    child = NSPopen(netns, ["true"], stdin=PIPE)
    child.stdin.write(b"buffered")
    child.wait()
    child.release()


def test_unreleased_objects_warn_as_popen_does(netns: str) -> None:
    child = NSPopen(netns, ["sleep", "600"])
    pid = child.pid
    with pytest.warns(ResourceWarning, match="still running"):
        del child
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# pyroute2's documented examples


def test_documented_example(netns: str) -> None:
    nsp = NSPopen(netns, ["ip", "ad"], stdout=subprocess.PIPE)
    out, err = nsp.communicate()
    assert b"lo" in out and err is None
    nsp.wait()
    nsp.release()


def test_documented_fcntl(netns: str) -> None:
    proc = NSPopen(netns, ["true"], stdout=PIPE)
    flags = proc.stdout.fcntl(fcntl.F_GETFL)
    assert flags & os.O_ACCMODE == os.O_RDONLY
    proc.wait()
    proc.release()


def test_fork_then_use_in_the_child(netns: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if output(netns, READLINK) == inside(netns) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_direct_calls_of_the_compiled_part(netns: str) -> None:
    with pytest.raises(TypeError):
        _core.SpawnMounts("text", False, [])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _core.SpawnMounts(b"x", False, [("a", b"b")])  # type: ignore[list-item]
    with pytest.raises(OSError) as caught:
        _core.enter_for_good(-1, "nowhere", None)
    assert caught.value.filename == "nowhere"
    assert "setns" in str(caught.value)
    with pytest.raises(OSError):
        _core.fork_exec_in(-1, "nowhere", None, None, ())
    with open(os.path.join(RUN_DIR, netns)) as file:
        assert _core.fork_exec_in(file.fileno(), netns, None, None, ()) is None
        assert _core.fork_exec_in(file.fileno(), netns, None, here, ()) == inside(netns)
        with pytest.raises(ZeroDivisionError):
            _core.fork_exec_in(file.fileno(), netns, None, lambda: 1 // 0, ())
    assert here() != inside(netns)
