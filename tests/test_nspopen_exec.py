"""NSPopen(exec_like_ip=True): as `ip netns exec`."""

from __future__ import annotations

import os
import pathlib
import subprocess
from typing import Any, Iterator

import pytest
from isolation import RUN_DIR
from programs import output

pytestmark = pytest.mark.root


@pytest.fixture
def etc(netns: str) -> Iterator[pathlib.Path]:
    """/etc/netns/NAME"""
    top = pathlib.Path("/etc/netns")
    had = top.exists()
    try:
        (top / netns).mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"kernel: /etc is not writable here ({error})")
    yield top / netns
    for file in (top / netns).iterdir():
        file.unlink()
    (top / netns).rmdir()
    if not had:
        top.rmdir()


def both(netns: str, argv: list[str], reference: Any = None) -> tuple[str, str]:
    real = subprocess.run(["ip", "netns", "exec", netns, *argv], capture_output=True, text=True, check=False)
    if real.returncode != 0:
        pytest.skip(f"kernel: ip netns exec does not work here: {real.stderr.strip()}")
    return output(reference or netns, argv, exec_like_ip=True), real.stdout.strip()


def test_exec_like_ip_sys_and_mounts(netns: str) -> None:
    subprocess.run(["ip", "-n", netns, "link", "add", "fnsz", "type", "veth", "peer", "fnsy"], check=True)
    for argv in (["ls", "/sys/class/net"], ["ls", "-a", "/sys", "/sys/fs/cgroup"], ["cat", "/etc/hosts"],
                 ["sh", "-c", "grep ' /sys' /proc/self/mounts"], ["readlink", "/proc/self/ns/net"]):  # fmt: skip
        ours, real = both(netns, argv)
        assert ours == real
    assert set(output(netns, ["ls", "/sys/class/net"], exec_like_ip=True).split()) == {"fnsy", "fnsz", "lo"}
    mine = os.readlink("/proc/self/ns/mnt")
    assert output(netns, ["readlink", "/proc/self/ns/mnt"], exec_like_ip=True) != mine
    assert output(netns, ["readlink", "/proc/self/ns/mnt"]) == mine
    assert os.readlink("/proc/thread-self/ns/mnt") == mine


def test_exec_like_ip_binds_etc(netns: str, etc: pathlib.Path) -> None:
    (etc / "hosts").write_text("192.0.2.1 fastns-test\n")
    with open("/etc/hosts") as file:
        outside = file.read()
    ours, real = both(netns, ["cat", "/etc/hosts"])
    assert ours == real == "192.0.2.1 fastns-test"
    with open("/etc/hosts") as file:
        assert file.read() == outside
    assert output(netns, ["cat", "/etc/hosts"]) == outside.strip()


@pytest.mark.parametrize("kind", ["path", "fd", "pid"])
def test_exec_like_ip_finds_the_name(netns: str, etc: pathlib.Path, kind: str, sleeper: int) -> None:
    (etc / "hosts").write_text("192.0.2.1 fastns-test\n")
    path = os.path.join(RUN_DIR, netns)
    argv = ["cat", "/etc/hosts"]
    if kind == "path":
        out = output(path, argv, exec_like_ip=True)
    elif kind == "pid":
        out = output(None, argv, pid=sleeper, exec_like_ip=True)
    else:
        with open(path) as file:
            out = output(file.fileno(), argv, exec_like_ip=True)
    assert out == "192.0.2.1 fastns-test"


def test_exec_like_ip_bind_that_fails_is_logged(
    netns: str, etc: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (etc / "fastns-no-such-file").write_text("x")
    assert output(netns, ["true"], exec_like_ip=True) == ""
    assert "fastns-no-such-file" in caplog.text
    assert "No such file or directory" in caplog.text


def test_exec_like_ip_keeps_the_working_directory(netns: str, tmp_path: pathlib.Path) -> None:
    real = os.path.realpath(tmp_path)
    assert output(netns, ["pwd", "-P"], exec_like_ip=True, cwd=tmp_path) == real
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert output(netns, ["pwd", "-P"], exec_like_ip=True) == real
    finally:
        os.chdir(before)
    # no thread of this process lost the shared working directory
    assert output(netns, ["pwd", "-P"]) == os.path.realpath(before)
