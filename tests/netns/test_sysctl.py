"""fastns.netns.sysctl: settings of a namespace."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from faults import here
from hypothesis import given
from hypothesis import strategies as st
from rundir import ip

from fastns import netns as ns


@pytest.mark.root
def test_sysctl(netns):
    setting = ns.sysctl(netns)
    home = here()
    outside = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    assert setting["net.ipv4.ip_forward"] == "0"
    setting["net.ipv4.ip_forward"] = 1
    assert setting["net/ipv4/ip_forward"] == "1"
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == outside
    assert ip("netns", "exec", netns, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    setting["net.ipv4.ip_forward"] = False
    assert setting["net.ipv4.ip_forward"] == "0"
    setting["net.ipv4.ip_local_port_range"] = "20000 30000\n"
    assert setting["net.ipv4.ip_local_port_range"].split() == ["20000", "30000"]
    setting["net.ipv4.ip_local_port_range"] = b"20001 30001"
    assert setting["net.ipv4.ip_local_port_range"].split() == ["20001", "30001"]
    assert setting.get("net.ipv4.ip_forward") == "0"
    assert setting.get("net.ipv4.nothing") is None
    assert setting.get("net.ipv4.nothing", "x") == "x"
    assert "net.ipv4.ip_forward" in setting
    assert "net.ipv4.nothing" not in setting
    assert "net.ipv4" not in setting
    assert "kernel.hostname" not in setting
    assert 5 not in setting
    names = list(setting)
    assert "net.ipv4.ip_forward" in names
    assert all(name in setting for name in names)
    assert here() == home
    assert netns in repr(setting)


@pytest.mark.root
def test_sysctl_names_with_a_dot(netns):
    ip("-n", netns, "link", "add", "eth0.10", "type", "bridge")
    setting = ns.sysctl(netns)
    for name in ("net.ipv4.conf.eth0/10.forwarding", "net/ipv4/conf/eth0.10/forwarding"):
        setting[name] = 0
        assert setting[name] == "0"
        setting[name] = 1
        assert setting[name] == "1"
    assert "net.ipv4.conf.eth0/10.forwarding" in list(setting)


@pytest.mark.root
def test_sysctl_long_value(netns):
    setting = ns.sysctl(netns)
    ports = ",".join(str(port) for port in range(2, 4000, 2))
    assert len(ports) > 4096
    setting["net.ipv4.ip_local_reserved_ports"] = ports[:4000].rpartition(",")[0]
    assert setting["net.ipv4.ip_local_reserved_ports"] == ports[:4000].rpartition(",")[0]


@pytest.mark.root
@pytest.mark.parametrize(
    "name",
    ["", "net", "net.", "net..ipv4", "net/../kernel/hostname", "kernel.hostname", "/net/ipv4/ip_forward", "net/./x",
     "net.ipv4.ip_forward\0", "../net/x", "net/ipv4/..", "net.ipv4.conf.//..x"],
)  # fmt: skip
def test_sysctl_stays_below_net(netns, name):
    setting = ns.sysctl(netns)
    for attempt in (lambda: setting[name], lambda: setting.__setitem__(name, 1)):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            attempt()
        if name != "net.ipv4.conf.//..x":
            assert isinstance(caught.value, ValueError)


@given(name=st.one_of(st.text(), st.text("net./\0ab").map(lambda tail: "net" + tail)))
def test_sysctl_any_name(name):
    try:
        path = ns.Sysctl._path(name)
    except (ValueError, UnicodeEncodeError):
        return
    assert path.startswith(b"/proc/sys/net/")
    assert os.path.normpath(path) == path


@pytest.mark.root
def test_sysctl_errors(netns, missing):
    setting = ns.sysctl(netns)
    with pytest.raises(FileNotFoundError, match=r"net\.ipv4\.nothing") as caught:
        setting["net.ipv4.nothing"]
    assert caught.value.filename == netns
    with pytest.raises(OSError, match=r"write /proc/sys/net.*ip_forward") as caught:
        setting["net.ipv4.ip_forward"] = "text"
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(TypeError):
        setting["net.ipv4.ip_forward"] = 1.5
    with pytest.raises(TypeError):
        setting[b"net.ipv4.ip_forward"]
    with pytest.raises(FileNotFoundError):
        ns.sysctl(missing)["net.ipv4.ip_forward"]
    with pytest.raises(PermissionError):
        setting["net.ipv4.route.flush"]
    setting["net.ipv4.route.flush"] = 1
