"""The leak guard finds what it is there to find."""

import os
import socket
import subprocess
import threading

import pytest
from guard import leaks, look


def test_nothing_done_nothing_found():
    assert leaks(look()) == []


def test_open_descriptor_is_found():
    before = look()
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        assert leaks(before, patience=0) == [f"file descriptor left behind: {fd} -> /dev/null"]
    finally:
        os.close(fd)


def test_descriptor_in_a_cycle_is_collected():
    before = look()
    cycle: list = [socket.socketpair()]
    cycle.append(cycle)
    for end in cycle[0]:
        end.close()
    del cycle
    assert leaks(before) == []


def test_child_and_zombie_are_found():
    before = look()
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert any(
            line.startswith(f"child process left behind: {child.pid}") for line in leaks(before, patience=0)
        )
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert any("(Z)" in line for line in leaks(before, patience=0))
    finally:
        child.kill()
        child.wait()


def test_thread_is_found():
    before = look()
    go = threading.Event()
    thread = threading.Thread(target=go.wait, name="left-over")
    thread.start()
    try:
        assert any("left-over" in line for line in leaks(before, patience=0))
    finally:
        go.set()
        thread.join()


@pytest.mark.root
def test_namespace_and_its_mount_are_found(nsname):
    before = look()
    subprocess.run(["ip", "netns", "add", nsname], check=True)
    found = leaks(before, patience=0)
    assert any(line.startswith("name in /var/run/netns left behind") for line in found)
    assert any(line.startswith("mount left behind") and "nsfs" in line for line in found)


@pytest.mark.root
def test_interface_is_found(ifname):
    before = look()
    subprocess.run(["ip", "link", "add", ifname, "type", "veth"], check=True)
    assert sum(line.startswith("interface left behind") for line in leaks(before, patience=0)) == 2


@pytest.mark.root
def test_two_namespaces(netns_pair):
    listed = subprocess.run(
        ["ip", "netns", "list"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert set(netns_pair) <= set(listed)
