"""IPDB's interfaces on real namespaces."""

from __future__ import annotations

import os
import subprocess
import threading

import pyroute2
import pytest
from databases import BAD_MAC, addresses, ip, until
from isolation import needs_tun

from fastns.ipdb import IPDB, CommitException, CreateException
from fastns.iproute import NetNS

pytestmark = pytest.mark.root


# ---- creating and removing ------------------------------------------------------------------------------------


def test_create_in_a_with_statement(netns, moded):
    with moded.create(kind="ifb", ifname="a0", mtu=1400) as i:
        assert i.ipdb_scope == "create" and i.kind == "ifb"
        i.add_ip("172.16.0.1/255.255.255.0")
        i.add_ip("172.16.0.2", mask=24)
        i.add_ip("172.16.0.3", mask="255.255.255.0")
        i.add_ip("fdb3:84e5:4ff4:55e4:0::1/64")
        i.up()
    link = moded.interfaces.a0
    assert link is i and link.ipdb_scope == "system" and link.mtu == 1400 and link.state == "up"
    expected = {("172.16.0.1", 24), ("172.16.0.2", 24), ("172.16.0.3", 24), ("fdb3:84e5:4ff4:55e4::1", 64)}
    assert addresses(netns, "a0") == expected <= set(link.ipaddr)
    with link:
        link.remove()
    assert "a0" not in moded.interfaces and link.ipdb_scope == "detached"
    with pytest.raises(subprocess.CalledProcessError):
        ip(netns, "link", "show", "dev", "a0")


def test_create_twice(link, moded):
    with pytest.raises(CreateException):
        moded.create(kind="ifb", ifname="if0")
    again = moded.create(kind="ifb", ifname="if0", reuse=True, mtu=1400).commit()
    assert again is link and link.mtu == 1400


def test_create_fails_and_can_be_corrected(netns, moded):
    link = moded.create(kind="ifb", ifname="f0", address=BAD_MAC)
    with pytest.raises(CreateException) as caught:
        link.commit()
    assert isinstance(caught.value, CommitException) and isinstance(caught.value, pyroute2.NetlinkError)
    assert link.ipdb_scope == "create" and "f0" in moded.interfaces
    link.address = "02:00:00:00:00:01"
    link.commit()
    assert ip(netns, "link", "show", "dev", "f0")[0]["address"] == "02:00:00:00:00:01" == link.address


def test_create_fails_and_can_be_given_up(moded):
    link = moded.create(kind="nosuchkind", ifname="f0")
    with pytest.raises(CreateException):
        link.commit()
    link.remove().commit()
    assert "f0" not in moded.interfaces
    with pytest.raises(RuntimeError):
        link.commit()


def test_create_rolls_the_link_back(netns, moded):
    link = moded.create(kind="ifb", ifname="f0").add_ip("1.2.3.400/24")
    with pytest.raises(OSError):
        link.commit()
    with pytest.raises(subprocess.CalledProcessError):
        ip(netns, "link", "show", "dev", "f0")
    assert link.ipdb_scope == "create"
    link.del_ip("1.2.3.400/24").add_ip("1.2.3.4/24").commit()
    assert addresses(netns, "f0") == {("1.2.3.4", 24)}


def test_name_taken_between_create_and_commit(netns, db):
    link = db.create(kind="ifb", ifname="n0", mtu=1400)
    ip(netns, "link", "add", "n0", "type", "bridge")
    assert until(lambda: db.by_name["n0"].kind == "bridge")
    with pytest.raises(CreateException):
        link.commit()
    assert db.interfaces.n0.kind == "bridge" and link.ipdb_scope == "create"
    ip(netns, "link", "del", "n0")
    assert until(lambda: "n0" not in set(db.by_name))
    link.commit()
    assert db.interfaces.n0 is link and link.mtu == 1400


def test_create_with_the_peer_elsewhere(netns_pair):
    main, other = netns_pair
    with IPDB(nl=NetNS(main)) as db, IPDB(nl=NetNS(other)) as target:
        db.create(kind="veth", ifname="v0", peer={"ifname": "v1", "net_ns_fd": other}).commit()
        assert "v0" in db.interfaces and "v1" not in db.interfaces and "v1" in target.interfaces


def test_create_veth_and_peer(moded):
    v0 = moded.create(ifname="v0", kind="veth", peer="v1").commit()
    assert "v0" in moded.interfaces and "v1" in moded.interfaces
    assert v0.link == moded.interfaces.v1.index


def test_create_vxlan_over_interface_by_name_and_object(moded, link):
    moded.create(kind="vxlan", ifname="x1", vxlan_link=link, vxlan_id=101, vxlan_group="239.1.1.1").commit()
    moded.create(kind="vxlan", ifname="x2", vxlan_link="if0", vxlan_id=102, vxlan_group="239.1.1.1").commit()
    for name, number in (("x1", 101), ("x2", 102)):
        assert moded.interfaces[name].vxlan_link == link.index
        assert moded.interfaces[name].vxlan_id == number
        assert moded.interfaces[name].vxlan_group == "239.1.1.1"
    # the same number under another name is an error and not a second success
    with pytest.raises(CreateException):
        moded.create(kind="vxlan", ifname="x3", vxlan_link=link, vxlan_id=101, vxlan_group="239.1.1.1").commit()


@pytest.mark.parametrize("how", ["vepa", "bridge"])
def test_create_macvlan_over_interface_to_be_made(moded, how):
    lower = moded.create(kind="veth", ifname="l0", peer="l1")
    upper = moded.create(kind="macvlan", ifname="m0", link="l0", macvlan_mode=how)
    lower.commit()
    upper.commit()
    assert upper.link == lower.index and upper.macvlan_mode == how


@needs_tun
def test_create_tap(netns, db):
    db.create(ifname="tap0", kind="tuntap", mode="tap", uid=1, gid=1).commit()
    assert "tap0" in db.interfaces and ip(netns, "link", "show", "dev", "tap0")


def test_utf8_name(moded):
    moded.create(kind="ifb", ifname="ༀ").commit()
    assert "ༀ" in moded.interfaces and moded.nl.link_lookup(ifname="ༀ")


def test_shadow_and_return(netns, moded):
    link = moded.create(kind="ifb", ifname="h0").commit()
    with link:
        link.mtu = 1400
        link.add_ip("10.0.0.1/24")
    index, address = link.index, link.address
    with link:
        link.shadow()
    assert "h0" in moded.interfaces and link.ipdb_scope == "shadow"
    with pytest.raises(subprocess.CalledProcessError):
        ip(netns, "link", "show", "dev", "h0")
    again = moded.create(ifname="h0", kind="ifb").commit()
    assert again is link and link.ipdb_scope == "system"
    assert (link.index, link.address, link.mtu) == (index, address, 1400)


def test_rename(moded, link):
    for old, new in (("if0", "if1"), ("if1", "if0")):
        if link.current_tx is None:
            link.begin()
        link.ifname = new
        link.commit()
        assert new in moded.interfaces and old not in moded.interfaces
        assert moded.interfaces[new] is link


def test_alias_which_sends_no_event(netns, link):
    with link:
        link.ifalias = "uplink"
    assert link.ifalias == "uplink" == ip(netns, "link", "show", "dev", "if0")[0]["ifalias"]


# ---- addresses ------------------------------------------------------------------------------------------------


def test_address_views(link):
    with link:
        link.add_ip("10.0.0.2/24").add_ip("10.0.0.1", 24).add_ip("2001:4c8:1023:108::39/64")
    assert list(link.ipaddr) == [("10.0.0.2", 24), ("10.0.0.1", 24), ("2001:4c8:1023:108::39", 64)]
    assert link.ipaddr[0] == link.ipaddr["10.0.0.2/24"] == link.ipaddr["10.0.0.2", 24]
    assert link.ipaddr[0]["family"] == 2 and link.ipaddr[0]["prefixlen"] == 24
    assert link.ipaddr[0]["local"] == link.ipaddr[0]["address"] == "10.0.0.2"
    assert repr(link.ipaddr.ipv4) == "(('10.0.0.2', 24), ('10.0.0.1', 24))"
    assert set(link.ipaddr.ipv6) == {("2001:4c8:1023:108::39", 64)}
    assert link.ipaddr.ipv4 == {("10.0.0.2", 24), ("10.0.0.1", 24)}
    assert link.ipaddr - {("10.0.0.2", 24)} == {("10.0.0.1", 24), ("2001:4c8:1023:108::39", 64)}
    with link:
        link.del_ip("10.0.0.2/255.255.255.0").del_ip("2001:4c8:1023:108:0::39/64").del_ip("9.9.9.9/32")
    assert set(link.ipaddr) == {("10.0.0.1", 24)}


def test_address_attributes(netns, link):
    with link:
        link.add_ip("172.16.102.1/24", scope=254)
        link.add_ip("172.16.103.1/24", broadcast="172.16.103.128")
    found = {msg.get_attr("IFA_ADDRESS"): msg for msg in link.nl.get_addr(index=link.index)}
    assert found["172.16.102.1"]["scope"] == 254 and found["172.16.102.1"].get_attr("IFA_BROADCAST") is None
    assert found["172.16.103.1"].get_attr("IFA_BROADCAST") == "172.16.103.128"
    assert link.ipaddr["172.16.103.1/24"]["broadcast"] == "172.16.103.128"


def test_primary_and_secondaries_go_together(netns, link):
    with link:
        for last in range(1, 6):
            link.add_ip(f"172.16.0.{last}/24")
    with link:
        for last in range(1, 6):
            link.del_ip(f"172.16.0.{last}/24")
    assert len(link.ipaddr) == 0 and addresses(netns, "if0") == set()


def test_wait_ip(netns, link):
    assert not link.wait_ip("10.0.0.0", 8, timeout=0)
    done = []
    thread = threading.Thread(target=lambda: done.append(link.wait_ip("10.0.0.0", 8, timeout=30)))
    thread.start()
    ip(netns, "addr", "add", "172.16.0.1/24", "dev", "if0")
    ip(netns, "addr", "add", "10.5.0.1/24", "dev", "if0")
    thread.join()
    assert done == [True]
    assert link.wait_ip("10.5.0.1") and not link.wait_ip("10.5.0.2", timeout=0)


def test_addresses_and_neighbours_by_index(netns, db, wire):
    ip(netns, "neigh", "add", "10.9.0.77", "lladdr", "02:00:00:00:00:09", "dev", "w0")
    assert until(lambda: "10.9.0.77" in wire.neighbours)
    assert db.neighbours[wire.index]["10.9.0.77"] == {"lladdr": "02:00:00:00:00:09"}
    assert db.ipaddr[wire.index] is wire.ipaddr
    ip(netns, "neigh", "del", "10.9.0.77", "dev", "w0")
    assert until(lambda: "10.9.0.77" not in db.neighbours[wire.index])


# ---- ports ----------------------------------------------------------------------------------------------------


def test_bridge_ports(netns, moded):
    names = ["p1", "p2", "p3"]
    ports = [moded.create(kind="ifb", ifname=name).commit() for name in names]
    with moded.create(kind="bridge", ifname="br0") as bridge:
        bridge.add_port(ports[0])  # an object, a name and an index
        bridge.add_port("p2")
        bridge.add_port(ports[2].index)
        bridge.add_ip("10.0.0.1/24")
        bridge.br_stp_state = 1
        bridge.br_forward_delay = 1000
    assert set(bridge.ports) == {port.index for port in ports}
    assert [port.master for port in ports] == [port.if_master for port in ports] == [bridge.index] * 3
    assert {item["ifname"] for item in ip(netns, "link", "show", "master", "br0")} == set(names)
    assert bridge.br_stp_state == 1 and bridge.br_forward_delay == 1000
    assert "br_ageing_time" in dir(bridge)
    with ports[0] as port:
        port.brport_cost = 200
        port.brport_unicast_flood = 0
    assert ports[0].brport_cost == 200 and ports[0].brport_unicast_flood == 0
    with bridge:
        bridge.del_port("p1").del_port(ports[1])
    assert set(bridge.ports) == {ports[2].index} and ports[0].master is None
    with ports[1] as port:
        port.master = bridge.index
    assert ports[1].index in bridge.ports
    with ports[1] as port:
        port.master = 0
    assert ports[1].index not in bridge.ports and not ports[1].master
    with bridge:
        bridge.remove()
    assert ports[2].master is None


def test_port_to_be_made(moded):
    bridge = moded.create(kind="bridge", ifname="br0")
    bridge.add_port("later")
    assert "*later" in bridge.review()["+ports"]
    port = moded.create(kind="ifb", ifname="later").commit()
    bridge.commit()
    assert port.index in bridge.ports


def test_port_that_is_nowhere(moded):
    bridge = moded.create(kind="bridge", ifname="br0").commit()
    if bridge.current_tx is None:
        bridge.begin()
    bridge.add_port("nosuch").add_ip("10.0.0.1/24")
    with pytest.raises(KeyError) as caught:
        bridge.commit()
    assert isinstance(caught.value, CommitException)
    assert len(bridge.ipaddr) == 0


def test_failing_port_is_rolled_back(netns, moded):
    port = moded.create(kind="ifb", ifname="p0").commit()
    bridge = moded.create(kind="bridge", ifname="br0").commit()
    if bridge.current_tx is None:
        bridge.begin()
    bridge.add_port(port).add_port("lo")  # lo cannot be a port
    with pytest.raises(CommitException):
        bridge.commit()
    assert len(bridge.ports) == 0 and not port.master
    assert ip(netns, "link", "show", "master", "br0") == []


def test_vlans_of_a_bridge_port(netns, db):
    port = db.create(kind="ifb", ifname="p0").commit()
    bridge = db.create(kind="bridge", ifname="br0").add_port(port).commit()
    try:
        bridge.set_br_vlan_filtering(1).commit()
    except CommitException as error:
        pytest.skip(f"kernel: no VLAN filtering on bridges: {error}")
    port.add_vlan(101).add_vlan({"vid": 102, "flags": 0}).commit()
    assert {101, 102} <= set(port.vlans)
    port.del_vlan(101).commit()
    assert 101 not in port.vlans and 102 in port.vlans


# ---- namespaces -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["name", "descriptor", "pid"])
def test_move_to_a_namespace(netns_pair, how):
    main, other = netns_pair
    process = None
    with IPDB(nl=NetNS(main)) as db, IPDB(nl=NetNS(other)) as target:
        db.create(ifname="v0", kind="veth", peer="v1").commit()
        moving = db.interfaces.v1
        fd = os.open(f"/var/run/netns/{other}", os.O_RDONLY)
        try:
            if how == "pid":
                process = subprocess.Popen(
                    ["ip", "netns", "exec", other, "sh", "-c", "echo up; read x"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                process.stdout.readline()
                moving.net_ns_pid = process.pid
            else:
                moving.net_ns_fd = other if how == "name" else fd
            moving.commit()
        finally:
            os.close(fd)
            if process is not None:
                process.communicate(b"\n")
        assert "v1" not in db.interfaces and moving.ipdb_scope == "detached"
        assert target.interfaces.v1.ifname == "v1"
        target.interfaces.v1.ifname = "eth0"
        target.commit()
        assert "eth0" in target.interfaces


def test_move_to_a_missing_namespace_fails(db, nsname):
    link = db.create(ifname="v0", kind="veth", peer="v1").commit()
    with pytest.raises(OSError) as caught:
        link.set_net_ns_fd("fns-nosuch").set_mtu(1400).commit()
    assert isinstance(caught.value, CommitException)
    assert link.ipdb_scope == "system" and link.mtu == 1500


def test_create_inside_another_namespace(netns_pair):
    main, other = netns_pair
    with IPDB(nl=NetNS(main)) as db, IPDB(nl=NetNS(other)) as target:
        one = db.create(ifname="x1", kind="veth", peer="e1")
        two = db.create(ifname="x2", kind="veth", peer="e2")
        one.net_ns_fd = other
        two.net_ns_fd = other
        db.commit()
        assert "x1" not in db.interfaces and "x2" not in db.interfaces
        target.interfaces.x1.ifname = "eth0"
        target.interfaces.x2.ifname = "eth1"
        target.commit()
        db.interfaces.e1.up()
        db.interfaces.e2.up()
        db.commit()
        assert db.interfaces.e1.flags & 1 and db.interfaces.e2.flags & 1
        db.interfaces.e1.remove()
        db.interfaces.e2.remove()
        db.commit()
        assert until(lambda: set(target.by_name) == {"lo"})
