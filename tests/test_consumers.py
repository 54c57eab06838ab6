"""How programs that live on pyroute2 call it: Neutron, Octavia, Kuryr, os-vif, LNST, Mininet-style scripts.

Written from their documented use, with what they pass, catch and do with results. Their own tests, run with fastns
behind pyroute2's names, are described in docs/consumers.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import os
import pickle
import random
import socket
import subprocess
import sys
import threading
import time
from ctypes import util as ctypes_util

import pyroute2
import pytest
from isolation import needs_tun
from pyroute2 import netlink
from pyroute2.netlink import exceptions as netlink_exceptions
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl import ifinfmsg, ndmsg
from pyroute2.netlink.rtnl.ifinfmsg.plugins import vxlan

import fastns
from fastns import IPDB, NetlinkDumpInterrupted, NetlinkError, NSPopen, netns

pytestmark = [pytest.mark.root, pytest.mark.filterwarnings("ignore:usage of mask:DeprecationWarning")]
NETNS_RUN_DIR = "/var/run/netns"
NUD_STATES = {number: name for name, number in ndmsg.states.items()}
TRANSPORT = "direct"


@pytest.fixture(params=["direct", "relay"], autouse=True)
def transport(request, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "TRANSPORT", request.param)
    return request.param


# ---- Neutron: neutron/privileged/agent/linux/ip_lib.py ---------------------------------------------------------


class NetworkNamespaceNotFound(RuntimeError):
    pass


class NetworkInterfaceNotFound(RuntimeError):
    pass


def get_cdll():
    return ctypes.PyDLL(ctypes_util.find_library("c"), use_errno=True)


def get_iproute(namespace):
    if namespace:
        return fastns.NetNS(namespace, flags=0, libc=get_cdll(), transport=TRANSPORT)
    return fastns.IPRoute(transport=TRANSPORT)


def make_serializable(value):
    def text(value):
        return value.decode() if isinstance(value, bytes) else value

    if isinstance(value, list):
        return [make_serializable(item) for item in value]
    if isinstance(value, netlink.nla_slot):
        return [text(value[0]), make_serializable(value[1])]
    if isinstance(value, netlink.nla_base):
        return make_serializable(value.dump())
    if isinstance(value, dict):
        return {text(key): make_serializable(data) for key, data in value.items()}
    if isinstance(value, tuple):
        return tuple(make_serializable(item) for item in value)
    return text(value)


def get_link_id(device, namespace):
    with get_iproute(namespace) as ip:
        link_id = ip.link_lookup(ifname=device)
    if not link_id or len(link_id) < 1:
        raise NetworkInterfaceNotFound(device)
    return link_id[0]


@contextlib.contextmanager
def translated(namespace):
    """The order of the clauses is Neutron's: the library's error first, it is an OSError too here."""
    try:
        yield
    except netlink_exceptions.NetlinkError as e:
        if e.code == errno.ENODEV:
            raise NetworkInterfaceNotFound(str(e)) from e
        raise
    except OSError as e:
        if e.errno == errno.ENOENT:
            raise NetworkNamespaceNotFound(namespace) from e
        raise


def run_link(command, device, namespace, **kwargs):
    with translated(namespace), get_iproute(namespace) as ip:
        return ip.link(command, index=get_link_id(device, namespace), **kwargs)


def plain(value):
    """Nothing left in it of the library's own classes."""
    kinds = (dict, list, tuple, str, int, float, bool, type(None))
    assert type(value) in kinds, type(value)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        plain(item)
    return True


def test_neutron_namespaces(nsname):
    for _ in range(2):  # create_netns: from a forked child, where EEXIST is fine
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                netns._create(nsname, libc=get_cdll())
                code = 0
            except OSError as e:
                code = 0 if e.errno == errno.EEXIST else 1
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(OSError) as caught:
        netns._create(nsname, libc=get_cdll())
    assert caught.value.errno == errno.EEXIST
    assert os.fsdecode(netns._get_netnspath(nsname)) == f"{NETNS_RUN_DIR}/{nsname}"
    assert nsname in netns.listnetns() and nsname in netns.listnetns(nspath=NETNS_RUN_DIR)
    with get_iproute(nsname):
        pass
    inode = os.stat(os.path.join(NETNS_RUN_DIR, nsname)).st_ino
    child = NSPopen(nsname, ["sleep", "60"])
    assert os.stat(f"/proc/{child.pid}/ns/net").st_ino == inode
    assert child.pid in netns.ns_pids()[nsname]
    child.kill()
    child.wait()
    child.release()
    netns.remove(nsname, libc=get_cdll())
    with pytest.raises(OSError) as caught:
        netns.remove(nsname, libc=get_cdll())
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(NetworkNamespaceNotFound), translated(nsname), get_iproute(nsname):
        pass


def test_neutron_devices(netns_pair):
    one, two = netns_pair
    with pytest.raises(NetworkInterfaceNotFound):
        run_link("get", "tap0", one)
    with get_iproute(one) as ip:
        ip.link("add", ifname="tap0", kind="veth", peer={"ifname": "tap1", "net_ns_fd": two})
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.link("add", ifname="tap0", kind="dummy", peer=None)
        assert caught.value.code == errno.EEXIST
    run_link("set", "tap0", one, mtu=1450)
    run_link("set", "tap0", one, address="fa:16:3e:00:00:01", state="up")
    run_link("set", "tap0", one, ifname="tap2")
    run_link("set", "tap2", one, ifalias="port 1")
    link = run_link("get", "tap2", one)[0]
    run_link("set", "tap2", one, flags=link["flags"] | ifinfmsg.IFF_ALLMULTI)
    link = run_link("get", "tap2", one)[0]
    assert link.get_attr("IFLA_MTU") == 1450
    assert link.get_attr("IFLA_ADDRESS") == "fa:16:3e:00:00:01"
    assert link.get_attr("IFLA_IFALIAS") == "port 1"
    assert link.get_attr("IFLA_OPERSTATE") == link.get("operstate")
    assert link["flags"] & ifinfmsg.IFF_ALLMULTI
    assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
    assert link.get_attr("IFLA_NUM_VF") is None
    assert run_link("get", "tap2", one, ext_mask=1)[0].get_attr("IFLA_NUM_VF") in (None, 0)
    with pytest.raises(netlink_exceptions.NetlinkError):
        run_link("set", "tap2", one, mtu=1 << 30)
    run_link("set", "tap1", two, net_ns_fd=one)  # set_link_attribute with net_ns_fd
    with get_iproute(one) as ip:
        assert ip.link_lookup(ifname="tap1")
    run_link("del", "tap2", one)
    with pytest.raises(NetworkInterfaceNotFound):
        run_link("del", "tap2", one)


def test_neutron_addresses_and_neighbours(netns):
    with get_iproute(netns) as ip:
        ip.link("add", ifname="qr0", kind="bridge")
        index = ip.link_lookup(ifname="qr0")[0]
        ip.link("set", index=index, state="up")
        spec = {"index": index, "address": "10.0.0.1", "mask": 24, "family": socket.AF_INET}
        ip.addr("add", broadcast="10.0.0.255", scope=rtnl.rt_scope.get("universe"), **spec)
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.addr("add", broadcast=None, scope=0, **spec)
        assert caught.value.code == errno.EEXIST
        ip.addr("add", index=index, address="2001:db8::1", mask=64, family=socket.AF_INET6, broadcast=None, scope=0)
        ip.addr("delete", **spec)
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.addr("delete", **spec)
        assert caught.value.code == errno.EADDRNOTAVAIL
        ip.addr("add", **spec)
        addresses = make_serializable(ip.get_addr(index=index, family=socket.AF_INET))
        assert plain(addresses) and dict(addresses[0]["attrs"])["IFA_ADDRESS"] == "10.0.0.1"
        ip.flush_addr(index=index, family=socket.AF_INET)
        assert not ip.get_addr(index=index, family=socket.AF_INET)

        entry = {"dst": "10.0.0.9", "lladdr": "fa:16:3e:00:00:09", "family": socket.AF_INET, "ifindex": index}
        ip.neigh("replace", state=ndmsg.states["permanent"], **entry)
        found = []
        for item in ip.neigh("dump", ifindex=index, family=socket.AF_INET):
            attrs = dict(item["attrs"])
            if attrs["NDA_DST"] != "224.0.0.22":  # the kernel's report of its groups, some time after the address
                found.append((attrs["NDA_DST"], attrs.get("NDA_LLADDR"), NUD_STATES[item["state"]]))
        assert found == [("10.0.0.9", "fa:16:3e:00:00:09", "permanent")]
        ip.neigh("delete", **entry)
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.neigh("delete", **entry)
        assert caught.value.code == errno.ENOENT


def test_neutron_routes_and_rules(netns):
    with get_iproute(netns) as ip:
        ip.link("add", ifname="qg0", kind="bridge")
        index = ip.link_lookup(ifname="qg0")[0]
        ip.link("set", index=index, state="up")
        ip.addr("add", index=index, address="10.0.0.1", prefixlen=24)
        static = rtnl.rt_proto["static"]
        for _ in range(2):  # add_ip_route is a replace
            ip.route("replace", family=2, scope=0, dst="10.1.0.0/16", proto=static, gateway="10.0.0.2", oif=index)
        ip.route("replace", family=2, scope=253, dst="10.2.0.0/16", table=100, priority=5, proto=static, oif=index)
        ip.route(
            "replace",
            family=2,
            scope=0,
            dst="10.3.0.0/16",
            proto=static,
            multipath=[{"oif": index, "gateway": "10.0.0.3", "hops": 9}, {"gateway": "10.0.0.4", "hops": 0}],
        )
        routes = make_serializable(ip.route("show", family=2, scope=0))
        assert plain(routes)
        shown = {dict(route["attrs"])["RTA_DST"]: dict(route["attrs"]) for route in routes}
        assert shown["10.1.0.0"]["RTA_GATEWAY"] == "10.0.0.2"
        assert [hop["hops"] for hop in shown["10.3.0.0"]["RTA_MULTIPATH"]] == [9, 0]
        assert len(ip.route("show", family=2, scope=253, table=100)) == 1
        spec = {"family": 2, "scope": 253, "dst": "10.2.0.0/16", "table": 100, "oif": index}
        ip.route("del", **spec)
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.route("del", **spec)
        assert caught.value.code == errno.ESRCH

        rule = {"family": 2, "table": 16, "priority": 100, "src": "10.0.0.0", "src_len": 24}
        ip.rule("add", iifname="qg0", **rule)
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.rule("add", iifname="qg0", **rule)
        assert caught.value.code == errno.EEXIST
        rules = make_serializable(ip.get_rules(family=2, match={"priority": 100}))
        for item in rules:
            item["attrs"] = dict(item["attrs"])
        assert [item["attrs"]["FRA_IIFNAME"] for item in rules] == ["qg0"]
        assert len(ip.get_rules(family=2, match=lambda x: x.get("table") == 16)) == 1
        ip.rule("del", iifname="qg0", **rule)
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.rule("del", iifname="qg0", **rule)
        assert caught.value.code == errno.ENOENT


def test_neutron_bridges(netns):
    """bridge_lib and the fdb functions."""
    with get_iproute(netns) as ip:
        ip.link("add", ifname="brq0", kind="bridge")
        ip.link("add", ifname="vxlan-1", kind="vxlan", vxlan_id=1, vxlan_port=4789, vxlan_learning=False)
        bridge, port = ip.link_lookup(ifname="brq0")[0], ip.link_lookup(ifname="vxlan-1")[0]
    run_link("set", "brq0", netns, kind="bridge", br_forward_delay=0)
    run_link("set", "brq0", netns, kind="bridge", br_stp_state=0)
    run_link("set", "vxlan-1", netns, master=bridge)
    entry = {"lladdr": "fa:16:3e:00:00:02", "ifindex": port}
    with get_iproute(netns) as ip:
        (link,) = ip.get_links(port)
        assert link.get_attr("IFLA_MASTER") == bridge
        assert link.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_KIND") == "bridge"
        assert make_serializable(ip.fdb("add", dst="10.0.0.2", **entry)) is not None
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.fdb("add", dst="10.0.0.2", **entry)
        assert caught.value.code == errno.EEXIST
        ip.fdb("append", lladdr="00:00:00:00:00:00", ifindex=port, dst="10.0.0.4")
        found = make_serializable(ip.fdb("dump", ifindex=port))
        assert plain(found)
        seen = {(dict(x["attrs"])["NDA_LLADDR"], dict(x["attrs"]).get("NDA_DST")) for x in found}
        assert {("fa:16:3e:00:00:02", "10.0.0.2"), ("00:00:00:00:00:00", "10.0.0.4")} <= seen
        ip.fdb("del", dst="10.0.0.2", **entry)
        with pytest.raises(netlink_exceptions.NetlinkError) as caught:
            ip.fdb("del", dst="10.0.0.2", **entry)
        assert caught.value.code == errno.ENOENT
        ip.brport("set", index=port, neigh_suppress=1, learning=0)
    run_link("set", "vxlan-1", netns, master=0)
    assert run_link("get", "vxlan-1", netns)[0].get_attr("IFLA_MASTER") is None


class ExtendedVxlan(vxlan.vxlan):
    nla_map = (*vxlan.vxlan.nla_map, ("IFLA_VXLAN_VNIFILTER", "uint8"))


class TunnelMessage(netlink.nlmsg):
    fields = (("family", "B"), ("__pad", "3x"), ("ifindex", "I"))
    nla_map = (("VXLAN_VNIFILTER_UNSPEC", "none"), ("VXLAN_VNIFILTER_ENTRY", "entry", netlink.NLA_F_NESTED))

    class entry(netlink.nla):
        nla_map = (("START", "none"), ("VXLAN_VNIFILTER_ENTRY_START", "uint32"))

    def __init__(self, **kwarg):
        super().__init__(**kwarg)
        self["family"] = pyroute2.config.AF_BRIDGE


def test_neutron_single_vxlan_device(netns):
    """neutron/privileged/agent/linux/svd.py: an extended kind of link, and messages pyroute2 does not know."""
    kinds = ifinfmsg.ifinfmsg.ifinfo
    original = kinds.data_map["vxlan"]
    vxlan.vxlan()  # an earlier link's: then the derived class goes on with its table, in pyroute2 too
    kinds.register_link_kind(module={"vxlan": ExtendedVxlan})
    try:
        with get_iproute(netns) as ip:
            ip.link("add", ifname="vx1", kind="vxlan", vxlan_id=7)
            ip.link("del", ifname="vx1")
            ExtendedVxlan._nlmsg_base__compiled_nla = False  # reset_vxlan_vnifilter_nla
            spec = {"kind": "vxlan", "vxlan_port": 4789, "vxlan_learning": False, "vxlan_collect_metadata": 1}
            ip.link("add", ifname="br0", kind="bridge")
            ip.link("add", ifname="vx0", vxlan_vnifilter=1, **spec)
            bridge, index = ip.link_lookup(ifname="br0")[0], ip.link_lookup(ifname="vx0")[0]
            data = ip.get_links(index)[0].get(("linkinfo", "data"))
            if data.get("vxlan_vnifilter") != 1 and data.get("IFLA_VXLAN_VNIFILTER") is None:
                pytest.skip("kernel: no VNI filters")
            assert data.get_attr("IFLA_VXLAN_VNIFILTER") == 1
            ip.link("set", index=index, master=bridge, state="up")
            ip.brport("set", index=index, vlan_tunnel=1, neigh_suppress=1, learning=0)
            try:
                ip.vlan_filter("add", index=bridge, vlan_info={"vid": 20}, vlan_flags="self")
                ip.vlan_filter("add", index=index, vlan_info={"vid": 20}, vlan_tunnel_info={"vid": 20, "id": 600})
            except netlink_exceptions.NetlinkError as e:
                if e.code != errno.EOPNOTSUPP:  # a kernel whose bridges know no VLANs
                    raise
            msg = TunnelMessage()
            msg["ifindex"] = index
            msg["attrs"] = [("VXLAN_VNIFILTER_ENTRY", {"attrs": [("VXLAN_VNIFILTER_ENTRY_START", 600)]})]
            flags = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
            tuple(ip.nlm_request(msg, msg_type=120, msg_flags=flags))
            tuple(ip.nlm_request(msg, msg_type=121, msg_flags=netlink.NLM_F_REQUEST | netlink.NLM_F_ACK))
            with pytest.raises(netlink_exceptions.NetlinkError):
                tuple(ip.nlm_request(msg, msg_type=121, msg_flags=netlink.NLM_F_REQUEST | netlink.NLM_F_ACK))
    finally:
        kinds.register_link_kind(module={"vxlan": original})


def test_neutron_dispatcher(netns):
    """nl_dispatcher.py: bind, dump everything of the groups, then get() for ever, in a thread."""
    groups = rtnl.RTMGRP_LINK | rtnl.RTMGRP_IPV4_IFADDR
    seen, replayed = [], threading.Event()
    failures = []

    def loop():
        try:
            with get_iproute(netns) as ip:
                ip.bind(groups)
                seen.extend((msg.get("event"), msg.get("ifname")) for msg in ip.dump(groups=groups))
                replayed.set()
                while True:
                    for msg in ip.get():
                        seen.append((msg.get("event"), msg.get("ifname")))
                        if seen[-1] == ("RTM_DELLINK", "d0"):
                            return
        except BaseException as e:
            failures.append(e)
            replayed.set()

    thread = threading.Thread(target=loop, name="netlink-dispatcher", daemon=True)
    thread.start()
    assert replayed.wait(30)
    with get_iproute(netns) as ip:
        ip.link("add", ifname="d0", kind="bridge")
        ip.addr("add", index=ip.link_lookup(ifname="d0")[0], address="10.0.0.1", prefixlen=24)
        ip.link("del", ifname="d0")
    thread.join(30)
    assert not thread.is_alive() and not failures
    assert seen[0] == ("RTM_NEWLINK", "lo")
    kinds = [event for event, name in seen if name == "d0" or event.endswith("ADDR")]
    assert "RTM_NEWLINK" in kinds and "RTM_NEWADDR" in kinds and kinds[-1] == "RTM_DELLINK"


# ---- oslo.privsep: results and exceptions cross a process boundary ---------------------------------------------


def test_privsep_results(netns):
    with get_iproute(netns) as ip:
        for n in range(20):
            ip.link("add", ifname=f"tap{n}", kind="bridge")
        links = ip.get_links()
        for dump in (links, ip.get_addr(), ip.route("show"), ip.get_rules(), ip.fdb("dump"), ip.get_links("all")):
            wire = make_serializable(dump)
            assert plain(wire) and len(wire) == len(dump)
            json.dumps(wire)
        names = [value for link in make_serializable(links) for name, value in link["attrs"] if name == "IFLA_IFNAME"]
        assert names == ["lo", *(f"tap{n}" for n in range(20))]
        with pyroute2.NetNS(netns, flags=0) as theirs:
            others = theirs.get_links()
        # As small as pyroute2's own, and not the whole datagram with each of them.
        assert len(pickle.dumps(links)) <= 1.1 * len(pickle.dumps(others))
        one = pickle.dumps(links[0])
        assert len(one) < 20000
        again = pickle.loads(one)
        assert isinstance(again, ifinfmsg.ifinfmsg) and again.get_attr("IFLA_IFNAME") == "lo"
        assert make_serializable(list(pickle.loads(pickle.dumps(links)))) == make_serializable(list(links))


def test_privsep_exceptions(netns):
    """The daemon sends the class's name and `args`; the client calls the one with the other."""

    def crossed(error):
        name = f"{type(error).__module__}.{type(error).__name__}"
        args = json.loads(json.dumps(error.args))
        module, _, cls = name.rpartition(".")
        return getattr(importlib.import_module(module), cls)(*args)

    with get_iproute(netns) as ip:
        with pytest.raises(NetlinkError) as caught:
            ip.link("set", index=4242, state="up")
        there = crossed(caught.value)
        assert isinstance(there, netlink_exceptions.NetlinkError)
        assert (there.code, there.errno, str(there)) == (errno.ENODEV, errno.ENODEV, str(caught.value))
        again = pickle.loads(pickle.dumps(caught.value))
        assert (again.code, again.netns) == (errno.ENODEV, netns)
    there = crossed(NetlinkDumpInterrupted(netns=netns))
    assert isinstance(there, netlink_exceptions.NetlinkDumpInterrupted)
    assert there.args == netlink_exceptions.NetlinkDumpInterrupted().args
    with pytest.raises(FileNotFoundError) as caught:
        get_iproute("no-such-namespace")
    assert crossed(caught.value).errno == errno.ENOENT


# ---- Octavia: the amphora's namespace, octavia/amphorae/backends/{agent,utils} ----------------------------------


def test_octavia_interface_up_and_down(netns):
    """octavia/amphorae/backends/utils/interface.py, run inside the namespace by its own command line."""

    def inside():
        # InterfaceController.up
        with fastns.IPRoute(transport=TRANSPORT) as ipr:
            ipr.link("add", ifname="eth1", kind="veth", peer="eth1p")
            idx = ipr.link_lookup(ifname="eth1")[0]
            ipr.link("set", index=idx, state="up", mtu=1450)
            lo = ipr.link_lookup(ifname="lo")[0]
            ipr.link("set", index=lo, state="up")
            link = ipr.get_links(idx)[0]
            assert link.get("state") == "up"
            for command in ("add", "add"):
                with ignore(errno.EEXIST):
                    ipr.addr(command, index=idx, address="10.1.0.4", prefixlen=24, family=socket.AF_INET)
            for command in ("add", "add"):
                with ignore(errno.EEXIST):
                    ipr.route(
                        command,
                        oif=idx,
                        dst="0.0.0.0/0",
                        gateway="10.1.0.1",
                        table=1,
                        onlink=True,
                        family=socket.AF_INET,
                    )
            rule = {"table": 1, "src": "10.1.0.4", "src_len": 32, "family": socket.AF_INET}
            ipr.rule("add", **rule)
            # what is there: addresses, routes and rules that are not wanted any more are deleted one by one
            found = []
            for addr in ipr.get_addr(index=idx, family=socket.AF_INET):
                attrs = dict(addr["attrs"])
                found.append((attrs["IFA_ADDRESS"], addr["prefixlen"], addr["flags"] & 0x80))
            assert found == [("10.1.0.4", 24, 0x80)]
            for route in ipr.get_routes(oif=idx, table=1):
                attrs = dict(route["attrs"])
                ipr.route("del", oif=idx, table=attrs["RTA_TABLE"], dst="0.0.0.0/0", gateway=attrs["RTA_GATEWAY"])
            for item in ipr.get_rules(family=socket.AF_INET):
                attrs = dict(item["attrs"])
                if attrs.get("FRA_TABLE") == 1:
                    ipr.rule("del", table=1, src=attrs["FRA_SRC"], src_len=item["src_len"])
            # InterfaceController.down
            ipr.flush_routes(oif=idx, table=254, family=socket.AF_INET)
            ipr.flush_rules(family=socket.AF_INET, table=1)
            ipr.flush_addr(index=idx)
            ipr.link("set", index=idx, state="down")
            assert not ipr.get_addr(index=idx) and not ipr.get_routes(oif=idx, family=socket.AF_INET)

    @contextlib.contextmanager
    def ignore(code):
        try:
            yield
        except pyroute2.NetlinkError as e:
            if e.code != code:
                raise

    netns_module = fastns.netns
    netns_module.run_in(netns, inside)


def test_octavia_namespace(nsname):
    """octavia/amphorae/backends/utils/network_namespace.py: enter, do, and come back whatever happens."""
    netns.create(nsname)
    before = os.readlink("/proc/thread-self/ns/net")
    with pytest.raises(ZeroDivisionError):
        netns.pushns(nsname)
        try:
            assert os.readlink("/proc/thread-self/ns/net") != before
            with fastns.IPRoute(transport=TRANSPORT) as ip:
                assert [x.get("ifname") for x in ip.get_links()] == ["lo"]
            1 / 0  # noqa: B018
        finally:
            netns.popns()
    assert os.readlink("/proc/thread-self/ns/net") == before
    # amphora_info: counters of every interface, as text and numbers
    with fastns.NetNS(nsname, flags=0, transport=TRANSPORT) as amphora:
        for interface in amphora.get_links():
            name = interface.get_attr("IFLA_IFNAME")
            stats = interface.get_attr("IFLA_STATS64")
            assert (name, stats.get("rx_bytes"), stats.get("tx_bytes")) == ("lo", 0, 0)
            assert interface.get_attr("IFLA_ADDRESS") == "00:00:00:00:00:00"
    # osutils: the device is found by its hardware address
    with fastns.NetNS(nsname, flags=os.O_CREAT, transport=TRANSPORT) as amphora:
        amphora.link("add", ifname="eth0", kind="veth", peer="x0")
        amphora.link("set", index=amphora.link_lookup(ifname="eth0")[0], address="fa:16:3e:ab:cd:ef")
        index = amphora.link_lookup(address="fa:16:3e:ab:cd:ef")
        assert amphora.get_links(*index)[0].get_attr("IFLA_IFNAME") == "eth0"
        assert (amphora.link_lookup(ifname="eth7") or None) is None


def test_octavia_plug_moves_the_interface(netns, ifname):
    """octavia/amphorae/backends/agent/api_server/plug.py: from the host into the amphora's namespace, renamed."""
    with fastns.IPRoute(transport=TRANSPORT) as ipr:
        ipr.link("add", ifname=ifname, kind="veth", peer=f"{ifname}p")
        idx = ipr.link_lookup(ifname=ifname)[0]
        ipr.link("set", index=idx, net_ns_fd=netns, IFLA_IFNAME="eth1")
        assert ipr.link_lookup(ifname=ifname) == []
    with fastns.NetNS(netns, flags=0, transport=TRANSPORT) as ns:
        assert ns.link_lookup(ifname="eth1")
        ns.link("del", ifname="eth1")


# ---- Kuryr: kuryr/lib/binding/drivers --------------------------------------------------------------------------


def test_kuryr_veth_binding(netns):
    ip = IPDB(nl=fastns.NetNS(netns, flags=0, transport=TRANSPORT))
    try:
        with ip.create(ifname="tap1", kind="veth", reuse=True, peer="t_c1") as host:
            if host.get("state", "") != "up":
                host.up()
        with ip.interfaces["t_c1"] as container:
            container.add_ip("10.0.0.5", 24)
            container.set_mtu(1450)
            container.set_address("fa:16:3e:00:00:05")
            if container.get("state", "") != "up":
                container.up()
        link = ip.interfaces["t_c1"]
        assert (link["mtu"], link["address"], link["state"]) == (1450, "fa:16:3e:00:00:05", "up")
        assert ("10.0.0.5", 24) in link["ipaddr"]
        assert [n for n, data in ip.interfaces.items() if data["address"] == "fa:16:3e:00:00:05"].count("t_c1") == 1
        with ip.create(ifname="tap1", kind="veth", reuse=True, peer="t_c1"):
            pass
        with pytest.raises(pyroute2.CreateException):
            ip.create(ifname="tap1", kind="bridge")
        with pytest.raises(pyroute2.CommitException), ip.interfaces["t_c1"] as container:
            container.set_mtu(1 << 30)
        # remove_device
        assert ip.interfaces.get("none", {}).get("index", None) is None
        assert ip.interfaces.get("tap1", {}).get("index", None) == ip.interfaces["tap1"]["index"]
        with ip.interfaces["tap1"] as iface:
            iface.remove()
        assert "tap1" not in ip.interfaces and "t_c1" not in ip.interfaces
    finally:
        ip.release()


def test_kuryr_kubernetes_bridge_in_a_container(netns_pair):
    """kuryr_kubernetes/cni/binding: two IPDBs, the namespace of a process by its path, the end moved and renamed."""
    host_ns, container_ns = netns_pair
    pause = NSPopen(container_ns, ["sleep", "60"])
    path = f"/proc/{pause.pid}/ns/net"
    try:
        with IPDB(nl=fastns.NetNS(host_ns, flags=0, transport=TRANSPORT)) as host:
            with IPDB(nl=fastns.NetNS(path, flags=0, transport=TRANSPORT)) as container:
                with container.create(ifname="eth0", peer="tap7", kind="veth") as iface:
                    iface.mtu = 1400
                    iface.address = "fa:16:3e:00:00:07"
                    iface.up()
                    iface.add_ip("10.0.0.7/24")
                with container.interfaces["tap7"] as peer:
                    peer.net_ns_fd = host_ns
                container.routes.add({"dst": "default", "gateway": "10.0.0.1", "oif": iface["index"]}).commit()
            with host.create(ifname="br7", kind="bridge") as bridge:
                bridge.up()
            with host.interfaces["tap7"] as tap:
                tap.mtu = 1400
                tap.up()
            with host.interfaces["br7"] as bridge:
                bridge.add_port(host.interfaces["tap7"])
            assert host.interfaces["tap7"]["master"] == host.interfaces["br7"]["index"]
    finally:
        pause.kill()
        pause.wait()
        pause.release()
    with fastns.NetNS(container_ns, flags=0, transport=TRANSPORT) as ns:
        assert ns.get_default_routes()[0].get_attr("RTA_GATEWAY") == "10.0.0.1"


# ---- os-vif: os_vif/internal/ip/linux/impl_pyroute2.py ----------------------------------------------------------


@needs_tun
def test_os_vif(netns):
    def inside():
        def lookup(ip, link):
            idx = ip.link_lookup(ifname=link)
            if not len(idx):
                raise NetworkInterfaceNotFound(link)
            return idx[0]

        def ip_link(ip, command, allowed, **kwargs):
            try:
                return ip.link(command, **kwargs)
            except pyroute2.NetlinkError as e:
                if e.code not in allowed:
                    raise

        with fastns.IPRoute(transport=TRANSPORT) as ip:
            ip_link(ip, "add", [], ifname="vnet0", kind="veth", peer="vnet1")
            ip_link(ip, "add", [errno.EEXIST], ifname="vnet0", kind="veth", peer="vnet1")
            settings = {
                "IFLA_BR_FORWARD_DELAY": 0,
                "IFLA_BR_STP_STATE": 0,
                "IFLA_BR_MCAST_SNOOPING": 0,
                "IFLA_BR_AGEING_TIME": 0,
            }
            ip_link(ip, "add", [], ifname="qbr0", kind="bridge", **settings)
            # a kernel may have no VLANs
            unknown = [errno.EOPNOTSUPP]
            ip_link(ip, "add", unknown, ifname="vnet0.5", kind="vlan", vlan_id=5, link=lookup(ip, "vnet0"))
            ip_link(ip, "add", [], ifname="tap0", kind="tuntap", mode="tap", ifr={"multi_queue": True})
            data = ip.link("get", index=lookup(ip, "qbr0"))[0].get(("linkinfo", "data"))
            assert {name: data.get_attr(name) for name in settings} == settings
            idx = lookup(ip, "vnet0")
            flags = ip.link("get", index=idx)[0]["flags"]
            ip_link(ip, "set", [], index=idx, mtu=1442, flags=flags | ifinfmsg.IFF_PROMISC)
            ip_link(ip, "set", [], index=idx, state="up")
            ip_link(ip, "set", [], index=idx, address="fa:16:3e:00:00:08", master=lookup(ip, "qbr0"))
            link = ip.link("get", index=idx)[0]
            assert link["flags"] & ifinfmsg.IFF_PROMISC and link.get("mtu") == 1442
            with pytest.raises(NetworkInterfaceNotFound):
                lookup(ip, "none")
            for name in ("vnet0", "tap0", "qbr0"):
                ip_link(ip, "del", [], index=lookup(ip, name))
            assert [x.get("ifname") for x in ip.get_links()] == ["lo"]

    fastns.netns.run_in(netns, inside)


# ---- LNST: lnst/Agent ------------------------------------------------------------------------------------------


def test_lnst_interface_manager(netns):
    """InterfaceManager: one bound socket that is polled beside others, a rescan by hand, devices kept by index."""
    devices = {}

    def handle(msg):
        if msg["header"]["type"] == rtnl.RTM_NEWLINK:
            devices[msg["index"]] = {"name": msg.get_attr("IFLA_IFNAME"), "peer": msg.get_attr("IFLA_LINK")}
        elif msg["header"]["type"] == rtnl.RTM_DELLINK:
            devices.pop(msg["index"], None)

    import select

    with get_iproute(netns) as ip:
        ip.bind(groups=rtnl.RTMGRP_LINK | rtnl.RTMGRP_IPV4_IFADDR | rtnl.RTMGRP_IPV6_IFADDR)
        for msg in ip.get_links():
            handle(msg)
        assert [d["name"] for d in devices.values()] == ["lo"]
        with get_iproute(netns) as other:
            other.link("add", IFLA_IFNAME="t0", kind="veth", IFLA_LINKINFO=None, peer="t1")
        deadline = time.monotonic() + 30
        while {d["name"] for d in devices.values()} != {"lo", "t0", "t1"}:
            assert time.monotonic() < deadline
            if select.select([ip.fileno()], [], [], 1)[0]:
                for msg in ip.get():
                    handle(msg)
        by_name = {d["name"]: index for index, d in devices.items()}
        assert devices[by_name["t0"]]["peer"] == by_name["t1"]
        # Device.up, cleanup, and its read-only properties out of a kept message
        kept = ip.link("get", index=by_name["t0"])[0]
        assert kept.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "veth"
        assert dict(kept["attrs"])["IFLA_MTU"] == 1500
        ip.link("set", index=by_name["t0"], IFLA_MTU=2000, state="up")
        assert ip.get_links(by_name["t0"])[0].get_attr("IFLA_MTU") == 2000
        ip.link("del", index=by_name["t0"])


def test_lnst_traffic_control(netns):
    with get_iproute(netns) as ip:
        ip.link("add", ifname="t0", kind="veth", peer="t1")
        index = ip.link_lookup(ifname="t0")[0]
        ip.tc("add", "pfifo", index, handle="1:", limit=10)
        found = [q for q in ip.get_qdiscs(index=index) if q.get_attr("TCA_KIND") == "pfifo"]
        assert [q["handle"] for q in found] == [0x10000]
        ip.tc("del", "pfifo", index, handle="1:")
        with pytest.raises(pyroute2.NetlinkError):
            ip.tc("del", "pfifo", index, handle="1:")


# ---- Mininet-style scripts -------------------------------------------------------------------------------------


def test_a_small_network():
    """Three hosts on a switch: names made up, created, wired, addressed, pinged and taken down again."""
    tag = f"{random.randrange(1 << 30):x}"
    switch, hosts = f"fns-{tag}-s", [f"fns-{tag}-h{n}" for n in range(3)]
    opened = {}
    try:
        for name in (switch, *hosts):
            opened[name] = fastns.NetNS(name, transport=TRANSPORT)
            opened[name].link("set", index=opened[name].link_lookup(ifname="lo")[0], state="up")
        sw = opened[switch]
        sw.link("add", ifname="br0", kind="bridge", br_stp_state=0)
        bridge = sw.link_lookup(ifname="br0")[0]
        sw.link("set", index=bridge, state="up")
        for n, name in enumerate(hosts):
            sw.link("add", ifname=f"p{n}", kind="veth", peer={"ifname": "eth0", "net_ns_fd": name})
            sw.link("set", index=sw.link_lookup(ifname=f"p{n}")[0], master=bridge, state="up")
            eth = opened[name].link_lookup(ifname="eth0")[0]
            opened[name].addr("add", index=eth, address=f"10.9.0.{n + 1}", prefixlen=24)
            opened[name].link("set", index=eth, state="up")
            opened[name].route("add", dst="default", gateway="10.9.0.3" if n < 2 else "10.9.0.1")
        listening = threading.Event()
        answers = []

        def serve():
            with netns.create_socket(hosts[1], socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.settimeout(20)
                server.bind(("10.9.0.2", 7))
                listening.set()
                data, address = server.recvfrom(100)
                server.sendto(data[::-1], address)

        thread = threading.Thread(target=serve)
        thread.start()
        assert listening.wait(20)
        with netns.create_socket(hosts[0], socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.sendto(b"abc", ("10.9.0.2", 7))
            answers.append(client.recvfrom(100))
        thread.join()
        assert answers == [(b"cba", ("10.9.0.2", 7))]
        shell = NSPopen(hosts[2], ["ip", "-o", "addr", "show", "eth0"], stdout=subprocess.PIPE, text=True)
        assert "10.9.0.3/24" in shell.communicate()[0]
        shell.release()
        assert set(hosts) < set(netns.listnetns())
        # A link that breaks is set down and up again by name
        sw.link("set", index=sw.link_lookup(ifname="p0")[0], state="down")
        assert sw.poll(sw.link, "dump", ifname="p0", state="down")
    finally:
        for handle in opened.values():
            handle.close()
            handle.remove()
    assert not set(hosts) & set(netns.listnetns())
