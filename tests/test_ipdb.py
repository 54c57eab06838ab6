"""IPDB on real namespaces: what pyroute2 0.5's "IPDB guide" and the netns page promise."""

from __future__ import annotations

import errno
import gc
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings

import pyroute2
import pytest
from isolation import needs_ids, needs_tun

from fastns.errors import NetlinkError
from fastns.ipdb import IPDB, CommitException, CreateException, PartialCommitException
from fastns.iproute import IPRoute, NetNS

pytestmark = pytest.mark.root

BAD_MAC = "11:22:33:44:55:66"  # multicast: refused by every driver


def until(condition, timeout=10):
    """Wait for an event that another party causes."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def ip(netns, *args):
    """What iproute2 does or says inside the namespace, as JSON."""
    done = subprocess.run(
        ["ip", "-n", netns, "-j", "-d", *args], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout) if done.stdout.strip() else []


def addresses(netns, ifname):
    return {
        (item["local"], item["prefixlen"])
        for link in ip(netns, "addr", "show", "dev", ifname)
        for item in link["addr_info"]
        if item["scope"] != "link"
    }


@pytest.fixture(params=["implicit", "explicit"])
def mode(request):
    return request.param


@pytest.fixture
def db(netns):
    with IPDB(nl=NetNS(netns)) as ipdb:
        yield ipdb


@pytest.fixture
def moded(netns, mode):
    with IPDB(nl=NetNS(netns), mode=mode) as ipdb:
        yield ipdb


@pytest.fixture
def link(moded):
    """A committed interface in a database of either mode."""
    return moded.create(kind="ifb", ifname="if0").commit()


@pytest.fixture
def wire(netns, db):
    """An interface with an address and a carrier, to route through."""
    db.create(kind="veth", ifname="w0", peer="w1").commit()
    db.interfaces.w1.up().commit()
    return db.interfaces.w0.add_ip("10.9.0.1/24").up().commit()


# ---- the examples of the netns page ---------------------------------------------------------------------------


def test_netns_page_example(netns_pair):
    main, test = netns_pair
    # start the main network settings database:
    ipdb_main = IPDB(nl=NetNS(main))
    # start the same for a netns:
    ipdb_test = IPDB(nl=NetNS(test))
    try:
        # create VETH
        ipdb_main.create(ifname="v0p0", kind="veth", peer="v0p1").commit()
        # move peer VETH into the netns
        with ipdb_main.interfaces.v0p1 as veth:
            veth.net_ns_fd = test
        # assign addresses
        with ipdb_main.interfaces.v0p0 as veth:
            veth.add_ip("172.16.200.1/24")
            veth.up()
        with ipdb_test.interfaces.v0p1 as veth:
            veth.add_ip("172.16.200.2/24")
            veth.up()
        assert "v0p1" not in ipdb_main.interfaces
        assert "v0p1" in ipdb_test.interfaces
        assert addresses(main, "v0p0") == {("172.16.200.1", 24)}
        assert addresses(test, "v0p1") == {("172.16.200.2", 24)}
    finally:
        ipdb_main.release()
        ipdb_test.release()


def test_default_handle_is_current_namespace(ifname):
    with IPDB() as ipdb:
        assert isinstance(ipdb.nl, IPRoute)
        ipdb.create(ifname=ifname, kind="ifb").commit()
        assert ifname in ipdb.interfaces
        ipdb.interfaces[ifname].remove().commit()
        assert ifname not in ipdb.interfaces


def test_sources_name_the_namespace(netns):
    with IPDB(sources=[{"target": "localhost", "netns": netns}]) as ipdb:
        ipdb.create(ifname="s0", kind="ifb").commit()
        assert ip(netns, "link", "show", "dev", "s0")


# ---- access ---------------------------------------------------------------------------------------------------


def test_interfaces_by_name_index_and_attribute(link, moded):
    views = moded.interfaces
    assert views["if0"] is views[link.index] is views.if0 is link
    assert "if0" in views and link.index in views and "if0" in dir(views)
    assert set(moded.by_name) == {"lo", "if0"}
    assert set(moded.by_index) == {1, link.index}
    assert set(moded.by_name.values()) == set(moded.by_index.values())
    assert link.ifname == link["ifname"] == "if0"
    assert link.kind == "ifb" and link.master is None
    assert link.get("master") is None and "master" in link and "nosuch" not in link
    with pytest.raises(AttributeError):
        _ = link.nosuch
    with pytest.raises(KeyError):
        _ = views["nosuch"]
    with pytest.raises(AttributeError):
        _ = views.nosuch
    assert views.get("nosuch") is None
    assert isinstance(repr(link), str) and isinstance(repr(link.ipaddr), str)


def test_interface_made_elsewhere_is_found_at_once(netns, db):
    assert "e0" not in db.interfaces
    ip(netns, "link", "add", "e0", "type", "ifb")
    assert db.interfaces.e0.ifname == "e0"


@pytest.mark.parametrize("name", ["", "x" * 16, "a/b", 0, -1, None, 1.5, True, ("lo",)])
def test_no_interface_of_an_impossible_name(db, name):
    assert name not in db.interfaces or name is True
    assert db.interfaces.get("nosuch") is None


def test_read_only_view(link):
    with link.ro as view:
        assert (view.ifname, view.index) == ("if0", link.index)
        with pytest.raises(RuntimeError):
            view.mtu = 1400
        with pytest.raises(RuntimeError):
            view.add_ip("10.0.0.1/24")
    assert link.current_tx is None


def test_values_can_be_chained(db):
    link = db.create(kind="ifb", ifname="c0")
    assert link.commit().up().commit() is link
    assert link.flags & 1
    link.add_ip("172.16.0.1/24").down().set_mtu(1400).commit()
    assert ("172.16.0.1", 24) in link.ipaddr and not link.flags & 1 and link.mtu == 1400
    link.set("mtu", 1300).option("txqlen", 77).commit()
    assert (link.mtu, link.txqlen) == (1300, 77)
    link.remove().commit()
    assert "c0" not in db.interfaces


# ---- transactions ---------------------------------------------------------------------------------------------


def test_explicit_mode_needs_begin(netns):
    with IPDB(nl=NetNS(netns), mode="explicit") as db:
        lo = db.interfaces.lo
        for change in (lo.up, lo.commit, lambda: lo.add_ip("10.0.0.1/8"), lambda: lo.set_mtu(1400)):
            with pytest.raises(TypeError, match="start a transaction"):
                change()
        uid = lo.begin()
        lo.up()
        assert uid in lo.global_tx and lo.current_tx.uid == uid
        lo.commit()
        assert lo.state == "up" and lo.current_tx is None


def test_implicit_mode_begins_by_itself(db):
    lo = db.interfaces.lo
    assert len(lo.local_tx) == 0
    lo.up()
    assert len(lo.local_tx) == 1
    lo.drop()
    assert len(lo.local_tx) == 0 and lo.state == "down"
    with pytest.raises(TypeError):
        lo.drop()


def test_unknown_mode_allows_no_change(netns):
    with IPDB(nl=NetNS(netns), mode="invalid") as db:
        with pytest.raises(TypeError, match="not supported"):
            db.interfaces.lo.up()


def test_direct_mode_applies_at_once(netns):
    with IPDB(nl=NetNS(netns), mode="direct") as db:
        link = db.create(ifname="d0", kind="ifb")
        assert link.ipdb_scope == "system"
        link.up()
        assert link.flags & 1
        link.down()
        assert not link.flags & 1
        link.add_ip("10.0.0.1/24")
        assert addresses(netns, "d0") == {("10.0.0.1", 24)}
        with pytest.raises(TypeError):
            with link:
                pass
        with pytest.raises(TypeError):
            link.review()
        with pytest.raises(TypeError):
            link.last()
        with pytest.raises(CommitException):
            link.address = BAD_MAC
        assert link.global_tx == {}
        link.up()
        db.routes.add(dst="10.1.0.0/24", gateway="10.0.0.2")
        assert "10.1.0.0/24" in db.routes
        link.remove()
        assert "d0" not in db.interfaces


def test_review_shows_the_change_only(link):
    link.begin()
    link.mtu = 1400
    link.mtu = 1500  # what it is
    link.txqlen = 5
    link.add_ip("172.16.21.1/24")
    assert link.mtu == 1500 and len(link.ipaddr) == 0, "nothing is seen before the commit"
    assert link.review() == {
        "txqlen": 5,
        "+ipaddr": {("172.16.21.1", 24)},
        "-ipaddr": set(),
        "+ports": set(),
        "-ports": set(),
        "+vlans": set(),
        "-vlans": set(),
    }
    link.drop()
    with pytest.raises(TypeError):
        link.review()


def test_several_transactions(link):
    first, second = link.begin(), link.begin()
    link.mtu = 1400
    assert link.current_tx.uid == first and link.last() is link.current_tx
    assert "mtu" not in link.review(second)
    link.drop(second)
    link.commit(tid=first)
    assert link.mtu == 1400 and link.global_tx == {}


def test_transactions_belong_to_their_thread(db):
    lo = db.interfaces.lo
    lo.mtu = 1400
    seen = []
    thread = threading.Thread(target=lambda: seen.append(lo.current_tx))
    thread.start()
    thread.join()
    assert seen == [None]
    lo.drop()


def test_failed_statement_leaves_no_transaction(link):
    with pytest.raises(ZeroDivisionError):
        with link as i:
            i.mtu = 1400
            _ = 1 / 0
    assert link.current_tx is None
    with link:
        pass
    assert link.mtu == 1500


def test_unset_takes_a_change_back(link):
    link.begin()
    link.mtu = 1400
    link.txqlen = 5
    del link.mtu
    link.unset("txqlen").add_ip("10.0.0.1/24").commit()
    assert link.mtu == 1500 and ("10.0.0.1", 24) in link.ipaddr


def test_commit_sees_what_others_did(netns, link):
    link.begin()
    link.add_ip("172.16.254.2/24").add_ip("172.16.254.3/24")
    ip(netns, "addr", "add", "10.0.0.2/24", "dev", "if0")
    link.commit()
    expected = {("172.16.254.2", 24), ("172.16.254.3", 24), ("10.0.0.2", 24)}
    assert set(link.ipaddr) == expected == addresses(netns, "if0")


def test_snapshot_and_revert(netns, db):
    link = db.create(kind="ifb", ifname="s0").commit()
    with pytest.raises(TypeError):
        link.last_snapshot()
    link.add_ip("172.16.0.1/24").up().commit()
    sid = link.snapshot()
    assert link.last_snapshot_id() == sid
    link.del_ip("172.16.0.1/24").down().commit()
    link.set_ifname("s1").set_mtu(1300).commit()
    assert "s1" in db.interfaces and "s0" not in db.interfaces
    assert db.interfaces.s1 is link and not link.flags & 1 and len(link.ipaddr.ipv4) == 0
    link.revert(sid).commit()
    assert "s0" in db.interfaces and "s1" not in db.interfaces
    assert ("172.16.0.1", 24) in link.ipaddr and link.flags & 1 and link.mtu == 1500
    assert addresses(netns, "s0") == {("172.16.0.1", 24)}


def test_commit_hooks(db):
    link = db.create(kind="ifb", ifname="h0").commit()
    seen = []

    def hook(now, before, transaction):
        seen.append((now["mtu"], before["mtu"], transaction["mtu"]))

    link.register_commit_hook(hook)
    link.set_mtu(1400).commit()
    assert seen == [(1400, 1500, 1400)]
    link.unregister_commit_hook(hook)

    def refuse(*_):
        raise ZeroDivisionError("no")

    link.register_commit_hook(refuse)
    with pytest.raises(ZeroDivisionError) as caught:
        link.add_ip("172.16.21.1/24").set_mtu(1300).commit()
    assert isinstance(caught.value, CommitException)
    assert link.mtu == 1400 and len(link.ipaddr) == 0


# ---- rollback -------------------------------------------------------------------------------------------------


def test_failed_commit_is_rolled_back(netns, link):
    with link as i:
        i.add_ip("172.16.0.1/24")
        i.mtu = 1400
    link.begin()
    link.add_ip("172.16.9.1/24").del_ip("172.16.0.1/24")
    link.mtu = 1300
    link.address = BAD_MAC
    before = dict(link.dump())
    with pytest.raises(CommitException) as caught:
        link.commit()
    error = caught.value
    assert isinstance(error, pyroute2.NetlinkError) and error.code in (errno.EADDRNOTAVAIL, errno.EOPNOTSUPP)
    assert isinstance(error, NetlinkError) and isinstance(error, OSError)
    assert error.debug["rollback"] == [] and error.debug["review"]["mtu"] == 1300
    assert link.mtu == 1400 and link.address == before["address"]
    assert set(link.ipaddr) == {("172.16.0.1", 24)} == addresses(netns, "if0")
    # the transaction is still there, to be corrected
    assert link.current_tx is not None
    del link.address
    link.commit()
    assert link.mtu == 1300 and addresses(netns, "if0") == {("172.16.9.1", 24)}


def test_failed_commit_can_drop_its_transaction(db):
    db.txdrop = True
    link = db.create(kind="ifb", ifname="f0").commit()
    with pytest.raises(CommitException):
        link.set_address(BAD_MAC).commit()
    assert link.current_tx is None


def test_rollback_restores_addresses_and_routes_lost_on_the_way(netns, db, wire):
    wire.add_ip("10.9.0.5/24").commit()  # a secondary: goes with its primary
    db.routes.add(dst="10.1.0.0/24", gateway="10.9.0.7").commit()
    wire.register_commit_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        wire.down().del_ip("10.9.0.1/24").commit()
    assert wire.state == "up"
    assert addresses(netns, "w0") == {("10.9.0.1", 24), ("10.9.0.5", 24)} == set(wire.ipaddr.ipv4)
    assert ip(netns, "route", "show", "10.1.0.0/24")[0]["gateway"] == "10.9.0.7"
    assert db.routes["10.1.0.0/24"].gateway == "10.9.0.7"


def test_interrupted_commit_is_rolled_back(netns, db):
    link = db.create(kind="ifb", ifname="f0").commit()

    def interrupt(*_):
        raise KeyboardInterrupt

    link.register_commit_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        link.set_mtu(1400).add_ip("10.0.0.1/24").commit()
    assert link.mtu == 1500 and addresses(netns, "f0") == set() == set(link.ipaddr)


def test_bad_address_is_refused_and_nothing_stays(link):
    link.begin()
    link.add_ip("10.0.0.1/24")
    link.add_ip("123.456.789.1024/153")
    with pytest.raises(OSError) as caught:
        link.commit()
    assert isinstance(caught.value, CommitException)
    assert len(link.ipaddr) == 0


def test_partial_commit_keeps_what_worked(netns, db):
    link = db.create(kind="ifb", ifname="p0").commit()
    link.partial = True
    link.set_address(BAD_MAC).set_mtu(1400).add_ip("10.0.0.1/24").add_port("nosuch")
    with pytest.raises(PartialCommitException) as caught:
        link.commit()
    assert isinstance(caught.value, CommitException) and len(caught.value.errors) == 2
    link.reload()
    assert link.mtu == 1400 and addresses(netns, "p0") == {("10.0.0.1", 24)}


def test_failures_pickle(db):
    link = db.create(kind="ifb", ifname="p0").commit()
    with pytest.raises(CommitException) as caught:
        link.set_address(BAD_MAC).commit()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, CommitException) and isinstance(copy, pyroute2.NetlinkError)
    assert copy.code == caught.value.code and str(copy) == str(caught.value)


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


# ---- the whole database ---------------------------------------------------------------------------------------


def test_commit_all(netns, moded):
    moded.create(ifname="g1", kind="ifb").add_ip("10.0.0.1/24")
    moded.create(ifname="g2", kind="bridge").add_port("g1")
    assert set(moded.review()["interfaces"]) == {"g1", "g2"}
    assert moded.commit() is moded
    assert moded.interfaces.g1.master == moded.interfaces.g2.index
    with pytest.raises(TypeError):
        moded.review()
    with pytest.raises(TypeError):
        moded.drop()


def test_drop_all(db):
    db.interfaces.lo.mtu = 1400
    db.create(ifname="g1", kind="ifb")
    db.drop()
    assert db.interfaces.lo.current_tx is None


def test_commit_all_in_order_of_priority_and_rolled_back(netns, moded):
    a = moded.create(ifname="a0", kind="ifb").commit()
    if a.current_tx is None:
        a.begin()
    a.set_address(BAD_MAC)
    b = moded.create(ifname="b0", kind="ifb")
    c = moded.create(ifname="c0", kind="ifb")
    b.ipdb_priority = 15  # made first
    a.ipdb_priority = 10  # then this fails
    c.ipdb_priority = 5  # not reached
    watch_b, watch_c = moded.watchdog(ifname="b0"), moded.watchdog(ifname="c0")
    with pytest.raises(pyroute2.NetlinkError) as caught:
        moded.commit()
    assert isinstance(caught.value, CommitException)
    assert (a.ipdb_scope, b.ipdb_scope, c.ipdb_scope) == ("system", "create", "create")
    assert a.address != BAD_MAC
    assert {item["ifname"] for item in ip(netns, "link")} == {"lo", "a0"}
    assert watch_b.wait() and watch_b.is_set
    assert not watch_c.wait(0) and not watch_c.is_set
    assert a.current_tx is None and b.current_tx is None


def test_commit_all_restores_the_removed(netns, moded):
    a = moded.create(ifname="a0", kind="ifb").commit()
    with a:
        a.add_ip("10.0.0.1/24").up()
        a.mtu = 1400
    index, address = a.index, a.address
    if a.current_tx is None:
        a.begin()
    a.remove()
    b = moded.create(ifname="b0", kind="ifb")
    b.set_mtu(1500).set_address(BAD_MAC)
    a.ipdb_priority = 1
    with pytest.raises(CommitException):
        moded.commit()
    assert "a0" in moded.interfaces and b.ipdb_scope == "create"
    assert (a.ipdb_scope, a.index, a.address, a.mtu, a.state) == ("system", index, address, 1400, "up")
    assert addresses(netns, "a0") == {("10.0.0.1", 24)}
    assert {item["ifname"] for item in ip(netns, "link")} == {"lo", "a0"}


def test_dump_and_load(netns, moded):
    with moded.create(kind="bridge", ifname="d0") as i:
        i.add_ip("172.16.0.1/24")
        i.add_ip("172.16.0.2/24")
        i.up()
    backup = json.loads(json.dumps(moded.interfaces.d0.dump()))
    with moded.interfaces.d0 as i:
        i.remove()
    moded.create(kind="bridge", ifname="d1").commit()
    with moded.interfaces.d1 as i:
        i.load(backup)
    assert "d0" in moded.interfaces and "d1" not in moded.interfaces
    assert {("172.16.0.1", 24), ("172.16.0.2", 24)} == addresses(netns, "d0")
    assert moded.interfaces.d0.flags & 1
    dump = moded.dump()
    assert set(dump["interfaces"]) == {"lo", "d0"} and 254 in dump["routes"]


def test_load_makes_what_is_missing(netns, db):
    db.load({"interfaces": {"n0": {"kind": "ifb", "ifname": "n0", "mtu": 1400}, "lo": {"mtu": 1300}}})
    db.commit()
    assert db.interfaces.n0.mtu == 1400 and db.interfaces.lo.mtu == 1300


def test_ensure_rolls_back(db):
    link = db.create(kind="ifb", ifname="z0").commit()

    def unreachable():
        raise ConnectionError("nobody there")

    db.ensure(condition=unreachable)
    assert len(db.ensure("get")) == 1
    with pytest.raises(ConnectionError) as caught:
        link.set_mtu(1400).commit()
    assert isinstance(caught.value, CommitException) and link.mtu == 1500
    db.ensure("reset")
    link.commit()
    assert link.mtu == 1400


# ---- events ---------------------------------------------------------------------------------------------------


def test_views_follow_the_system(netns, db):
    db.interfaces  # noqa: B018 - loads them
    ip(netns, "link", "add", "e0", "type", "ifb")
    assert until(lambda: "e0" in set(db.by_name))
    e0 = db.interfaces.e0
    ip(netns, "link", "set", "e0", "mtu", "1400", "up")
    ip(netns, "addr", "add", "10.0.0.1/24", "dev", "e0")
    assert until(lambda: e0.mtu == 1400 and e0.state == "up" and ("10.0.0.1", 24) in e0.ipaddr)
    ip(netns, "link", "set", "e0", "down")
    ip(netns, "link", "set", "e0", "name", "e1")
    assert until(lambda: "e1" in set(db.by_name) and "e0" not in set(db.by_name))
    assert db.interfaces.e1 is e0
    ip(netns, "addr", "del", "10.0.0.1/24", "dev", "e1")
    assert until(lambda: len(e0.ipaddr) == 0)
    ip(netns, "link", "del", "e1")
    assert until(lambda: "e1" not in set(db.by_name) and e0.ipdb_scope == "detached")


def test_ports_follow_the_system(netns, db):
    bridge = db.create(kind="bridge", ifname="br0").commit()
    port = db.create(kind="ifb", ifname="p0").commit()
    ip(netns, "link", "set", "p0", "master", "br0")
    assert until(lambda: port.index in bridge.ports and port.master == bridge.index)
    ip(netns, "link", "set", "p0", "nomaster")
    assert until(lambda: len(bridge.ports) == 0 and port.master is None)


def test_routes_follow_the_system(netns, db, wire):
    assert "10.1.0.0/24" not in db.routes
    ip(netns, "route", "add", "10.1.0.0/24", "via", "10.9.0.2", "table", "100")
    ip(netns, "route", "add", "10.1.0.0/24", "via", "10.9.0.2")
    assert until(lambda: "10.1.0.0/24" in db.routes and 100 in db.routes.tables)
    ip(netns, "route", "change", "10.1.0.0/24", "via", "10.9.0.3")
    assert until(lambda: db.routes["10.1.0.0/24"].gateway == "10.9.0.3")
    # with the link the kernel drops IPv4 routes and sends nothing about it
    ip(netns, "link", "set", "w0", "down")
    assert until(lambda: len(db.routes.filter({"dst": "10.1.0.0/24"})) == 0)


def test_post_callback_may_commit(netns, db):
    bridge = db.create(kind="bridge", ifname="br0").commit()
    failures = []

    def enslave(ipdb, msg, action):
        if action == "RTM_NEWLINK" and msg.get_attr("IFLA_IFNAME") == "p0" and not msg.get_attr("IFLA_MASTER"):
            try:
                ipdb.interfaces.br0.add_port(ipdb.interfaces[msg["index"]]).commit()
            except Exception as error:
                failures.append(error)

    cuid = db.register_callback(enslave)
    watch = db.watchdog(ifname="p0", master=bridge.index)
    db.create(kind="ifb", ifname="p0").commit()
    assert watch.wait(30), failures
    assert until(lambda: db.interfaces.p0.index in bridge.ports)
    assert db.unregister_callback(cuid) is enslave
    with pytest.raises(KeyError):
        db.unregister_callback(cuid)
    with pytest.raises(KeyError):
        db.register_callback(enslave, mode="other")


def test_pre_callback_may_change_the_message(netns):
    def fake(ipdb, msg, action):
        if action == "RTM_NEWLINK":
            msg["flags"] = 1234

    with IPDB(nl=NetNS(netns), callbacks=[(fake, "pre")]) as db:
        db.create(kind="ifb", ifname="p0").commit()
        assert db.interfaces.p0.flags == 1234


def test_failing_callbacks_harm_nobody(db):
    db.register_callback(lambda *_: 1 / 0)
    db.register_callback(lambda *_: 1 / 0, mode="pre")
    db.create(kind="ifb", ifname="p0").commit()
    assert "p0" in db.interfaces


def test_event_queue(netns, db):
    with pytest.raises(RuntimeError):
        iter(db.eventqueue())
    with db.eventqueue(timeout=10) as events:
        ip(netns, "link", "add", "q0", "type", "ifb")
        for msg in events:
            if msg["event"] == "RTM_NEWLINK" and msg.get_attr("IFLA_IFNAME") == "q0":
                break
    with db.eventqueue(block=False) as events:
        with pytest.raises(queue.Empty):
            while True:
                next(events)


def test_event_loop(netns, db):
    loop = db.eventloop(timeout=10)
    thread = threading.Thread(target=lambda: until(lambda: db._queues) and ip(netns, "link", "add", "q0", "type", "ifb"))
    thread.start()
    assert any(msg["event"] == "RTM_NEWLINK" for msg in loop)
    loop.close()
    thread.join()


def test_frozen_interface_is_put_back(netns, db):
    link = db.create(kind="ifb", ifname="z0").add_ip("172.16.0.1/24").add_ip("172.16.1.1/24").up().commit()
    link.freeze()
    with pytest.raises(RuntimeError):
        link.freeze()
    ip(netns, "addr", "del", "172.16.0.1/24", "dev", "z0")
    ip(netns, "addr", "add", "172.16.5.1/24", "dev", "z0")
    expected = {("172.16.0.1", 24), ("172.16.1.1", 24)}
    assert until(lambda: addresses(netns, "z0") == expected)
    ip(netns, "link", "set", "z0", "down", "mtu", "1400")
    assert until(lambda: link.state == "up" and link.mtu == 1500 and addresses(netns, "z0") == expected)
    link.unfreeze()
    ip(netns, "addr", "del", "172.16.0.1/24", "dev", "z0")
    assert until(lambda: ("172.16.0.1", 24) not in link.ipaddr)


def test_frozen_interface_comes_back_from_removal(netns, db):
    link = db.create(kind="ifb", ifname="z0").add_ip("172.16.0.1/24").up().commit()
    link.freeze()
    ip(netns, "link", "del", "z0")

    def back():
        found = [item for item in ip(netns, "addr") if item["ifname"] == "z0"]
        return bool(found) and "UP" in found[0]["flags"] and any(a.get("local") == "172.16.0.1" for a in found[0]["addr_info"])

    assert until(back)
    link.unfreeze()


def test_lost_events_are_made_good(netns):
    with IPDB(nl=NetNS(netns, rcvbuf=4096)) as db:
        db.interfaces, db.routes, db.rules  # noqa: B018
        with db.exclusive:  # the reader waits, its socket runs over
            lines = [f"link add l{i} type ifb\nlink set l{i} mtu 1400\nlink set l{i} up" for i in range(60)]
            lines += [f"link del l{i}" for i in range(30)]
            lines += [f"route add 10.{i}.0.0/16 dev l{40}" for i in range(200)]
            subprocess.run(["ip", "-n", netns, "-batch", "-"], input="\n".join(lines), text=True, check=True)
        expected = {"lo", *(f"l{i}" for i in range(30, 60))}
        assert until(lambda: set(db.by_name) == expected)
        assert until(lambda: sum(route.dst.startswith("10.") for route in db.routes) == 200)
        db.interfaces.l40.set_mtu(1300).commit()
        assert db.interfaces.l40.mtu == 1300


# ---- routes ---------------------------------------------------------------------------------------------------


def test_route_add_change_remove(netns, db, wire):
    assert "172.16.1.0/24" not in db.routes
    with db.routes.add({"dst": "172.16.1.0/24", "gateway": "10.9.0.2"}) as r:
        assert "172.16.1.0/24" in db.routes and db.routes.keys().count("172.16.1.0/24") == 1
        assert r.ipdb_scope == "create"
    assert db.routes["172.16.1.0/24"] is r and r.oif == wire.index and r.ipdb_scope == "system"
    assert ip(netns, "route", "show", "172.16.1.0/24")[0]["gateway"] == "10.9.0.2"
    with db.routes["172.16.1.0/24"] as route:
        route.gateway = "10.9.0.3"
        route.metrics.mtu = 1400
    assert route is r and r.gateway == "10.9.0.3" and r.metrics.mtu == r["metrics"]["mtu"] == 1400
    shown = ip(netns, "route", "show", "172.16.1.0/24")[0]
    assert shown["gateway"] == "10.9.0.3" and shown["metrics"] == [{"mtu": 1400}]
    with db.routes["172.16.1.0/24"] as route:
        route["metrics"] = {"advmss": 500}
    assert dict(r.metrics) == {"advmss": 500}
    with db.routes["172.16.1.0/24"] as route:
        route.remove()
    assert "172.16.1.0/24" not in db.routes and r.ipdb_scope == "detached"
    assert ip(netns, "route", "show", "172.16.1.0/24") == []


def test_route_spec_as_dictionary_or_keywords(netns, db, wire):
    spec = {"dst": "172.16.1.0/24", "oif": wire.index, "gateway": "10.9.0.60", "metrics": {"mtu": 1400, "advmss": 500}}
    db.routes.add(spec).commit()
    db.routes.add(**{**spec, "dst": "172.16.2.0/24"}).commit()
    db.routes.add(dst="172.16.3.0/24", oif=wire, proto="boot", type="unicast", scope="link").commit()
    db.routes.add(dst="172.16.4.1", gateway="10.9.0.2").commit()
    db.routes.add(dst="172.16.5.0/255.255.255.0", gateway="10.9.0.2").commit()
    for dst in ("172.16.1.0/24", "172.16.2.0/24", "172.16.3.0/24", "172.16.4.1/32", "172.16.5.0/24"):
        assert db.routes[dst].oif == wire.index
    assert db.routes["172.16.4.1"] is db.routes["172.16.4.1/32"]
    assert spec == {
        "dst": "172.16.1.0/24", "oif": wire.index, "gateway": "10.9.0.60", "metrics": {"mtu": 1400, "advmss": 500}
    }
    with pytest.raises(ValueError):
        db.routes.add(gateway="10.9.0.2")
    with pytest.raises(CreateException):
        db.routes.add(dst="172.16.1.0/24", gateway="10.9.0.2")


def test_default_route(netns, db, wire):
    db.routes.add({"dst": "default", "gateway": "10.9.0.2"}).commit()
    assert db.routes["default"].gateway == "10.9.0.2" and "0.0.0.0/0" in db.routes
    with db.routes["default"] as route:
        route.gateway = "10.9.0.3"
    assert ip(netns, "route", "show", "default")[0]["gateway"] == "10.9.0.3"
    db.routes.add(dst="default", gateway="10.9.0.4", priority=200).commit()
    assert db.routes[{"dst": "default", "priority": 200}].gateway == "10.9.0.4"
    del db.routes["default"]
    db.routes["default"].commit()
    assert db.routes["default"].priority == 200


def test_route_tables(netns, db, wire):
    db.routes.add(dst="172.16.1.0/24", gateway="10.9.0.2", table=100, priority=10).commit()
    assert "172.16.1.0/24" not in db.routes
    table = db.routes.tables[100]
    assert db.routes.table[100] is table and len(table) == 1 and table.keys() == ["172.16.1.0/24"]
    route = table["172.16.1.0/24"]
    assert table[{"dst": "172.16.1.0/24", "priority": 10}] is route is table[0]
    (key,) = table.idx.keys()
    assert (key.dst, key.table, key.family, key.priority) == ("172.16.1.0/24", 100, 2, 10)
    assert table[key] is route
    assert 255 in db.routes.tables and len(db.routes.tables[255]) > 0
    assert ip(netns, "route", "show", "table", "100")[0]["metric"] == 10
    big = db.routes.add(dst="172.16.1.0/24", gateway="10.9.0.2", table=5000).commit()
    assert db.routes.tables[5000]["172.16.1.0/24"] is big
    route.remove().commit()
    assert len(table) == 0


def test_route_filter(netns, db, wire):
    for last in range(3):
        db.routes.add(dst=f"172.16.{last}.0/24", gateway="10.9.0.2").commit()
    found = db.routes.filter({"oif": wire.index, "gateway": "10.9.0.2"})
    assert {record["route"].dst for record in found} == {f"172.16.{last}.0/24" for last in range(3)}
    assert all(record["key"].table == 254 for record in found)
    assert len(db.routes.tables[254].filter({"family": 10})) >= 1
    assert len(db.routes.tables[254].filter(lambda record: record["route"].gateway == "10.9.0.2")) == 3
    assert [x for x in db.routes if x["dst"] == "172.16.1.0/24"] == [db.routes["172.16.1.0/24"]]
    with pytest.raises(KeyError):
        _ = db.routes["192.168.77.0/24"]
    with pytest.raises(TypeError):
        db.routes.filter(5)


def test_ipv6_routes(netns, db, wire):
    wire.add_ip("2001:db8::1/64").commit()
    route = db.routes.add(dst="2001:db8:1:0::/64", gateway="2001:db8::2").commit()
    assert db.routes["2001:db8:1::/64"] is route and route.family == 10 and route.priority == 1024
    with route:
        route.gateway = "2001:db8:0::3"
    assert route.gateway == "2001:db8::3"
    hops = [{"gateway": "2001:db8::2"}, {"gateway": "2001:db8::3", "hops": 1}]
    multi = db.routes.add(dst="2001:db8:2::/64", multipath=hops).commit()
    assert len(multi.multipath) == 2
    multi.remove().commit()
    route.remove().commit()
    assert ip(netns, "-6", "route", "show", "2001:db8:1::/64") == []
    assert ip(netns, "-6", "route", "show", "2001:db8:2::/64") == []


def test_multipath(netns, db, wire):
    spec = [{"gateway": "10.9.0.2", "hops": 2}, {"gateway": "10.9.0.3", "hops": 1}, {"gateway": "10.9.0.4"}]
    db.routes.add({"dst": "172.16.232.0/24", "multipath": spec}).commit()
    route = db.routes["172.16.232.0/24"]
    assert [(hop["gateway"], hop["hops"]) for hop in route.multipath] == [
        ("10.9.0.2", 2), ("10.9.0.3", 1), ("10.9.0.4", 0)
    ]
    with route as r:
        r.add_nh({"gateway": "10.9.0.5"})
        r.del_nh({"gateway": "10.9.0.4"})
        assert {hop["gateway"] for hop in r.review()["+multipath"]} == {"10.9.0.5"}
        assert {hop["gateway"] for hop in r.review()["-multipath"]} == {"10.9.0.4"}
    shown = ip(netns, "route", "show", "172.16.232.0/24")[0]["nexthops"]
    assert {(hop["gateway"], hop["weight"]) for hop in shown} == {("10.9.0.2", 3), ("10.9.0.3", 2), ("10.9.0.5", 1)}


def test_plain_route_becomes_multipath_and_back(netns, db, wire):
    db.routes.add({"dst": "172.16.232.0/24", "gateway": "10.9.0.2"}).commit()
    route = db.routes["172.16.232.0/24"].add_nh({"gateway": "10.9.0.3"}).commit()
    assert {hop["gateway"] for hop in route.multipath} == {"10.9.0.2", "10.9.0.3"} and route.gateway is None
    route.del_nh({"gateway": "10.9.0.2"}).commit()
    assert len(route.multipath) == 0 and route.gateway == "10.9.0.3"
    assert ip(netns, "route", "show", "172.16.232.0/24")[0]["gateway"] == "10.9.0.3"
    with pytest.raises(KeyError):
        route.del_nh({"gateway": "10.9.0.3"})


def test_route_to_another_destination(netns, db, wire):
    route = db.routes.add(dst="172.16.1.0/24", gateway="10.9.0.2").commit()
    with route:
        route.dst = "172.16.2.0/24"
    assert db.routes["172.16.2.0/24"] is route and "172.16.1.0/24" not in db.routes
    assert ip(netns, "route", "show", "172.16.1.0/24") == []
    assert ip(netns, "route", "show", "172.16.2.0/24")[0]["gateway"] == "10.9.0.2"


def test_failed_route_is_rolled_back(netns, db, wire):
    route = db.routes.add(dst="172.16.1.0/24", gateway="10.9.0.2").commit()
    with pytest.raises(CommitException) as caught:
        route.set_gateway("203.0.113.1").commit()
    assert isinstance(caught.value, pyroute2.NetlinkError)
    assert route.gateway == "10.9.0.2"
    route.drop()
    new = db.routes.add(dst="172.16.2.0/24", gateway="203.0.113.1")
    with pytest.raises(CommitException):
        new.commit()
    assert new.ipdb_scope == "create" and "172.16.2.0/24" in db.routes
    new.gateway = "10.9.0.2"
    new.commit()
    assert new.ipdb_scope == "system"
    again = db.routes.add(dst="172.16.3.0/24", gateway="203.0.113.1")
    again.remove().commit()
    assert "172.16.3.0/24" not in db.routes


def test_commit_all_rolls_routes_back(netns, db, wire):
    good = db.routes.add(dst="172.16.1.0/24", gateway="10.9.0.2").commit()
    good.remove()
    good.ipdb_priority = 9
    changed = db.routes.add(dst="172.16.2.0/24", gateway="10.9.0.2").commit()
    changed.gateway = "10.9.0.3"
    changed.ipdb_priority = 8
    db.routes.add(dst="172.16.3.0/24", gateway="203.0.113.1")
    with pytest.raises(CommitException):
        db.commit()
    assert db.routes["172.16.1.0/24"] is good and good.ipdb_scope == "system"
    assert changed.gateway == "10.9.0.2"
    assert ip(netns, "route", "show", "172.16.1.0/24")[0]["gateway"] == "10.9.0.2"
    assert ip(netns, "route", "show", "172.16.2.0/24")[0]["gateway"] == "10.9.0.2"


def test_ignored_tables(netns):
    with IPDB(nl=NetNS(netns), ignore_rtables=[255, 100]) as db:
        db.interfaces.lo.up().commit()
        ip(netns, "route", "add", "10.1.0.0/24", "dev", "lo", "table", "100")
        ip(netns, "route", "add", "10.1.0.0/24", "dev", "lo", "table", "101")
        assert until(lambda: 101 in db.routes.tables)
        assert 255 not in db.routes.tables and 100 not in db.routes.tables


def test_routes_of_a_link_that_goes_down_and_comes_back(netns, db, wire):
    db.routes.add(dst="172.16.1.0/24", gateway="10.9.0.2").commit()
    wire.down().commit()
    assert "172.16.1.0/24" not in db.routes
    wire.up().commit()
    db.routes.add(dst="172.16.1.0/24", gateway="10.9.0.2").commit()
    assert "172.16.1.0/24" in db.routes


# ---- rules ----------------------------------------------------------------------------------------------------


def test_rules(netns, db):
    before = len(db.rules)
    rule = db.rules.add({"src": "172.16.1.0/24", "table": 200, "priority": 15000}).commit()
    assert len(db.rules) == before + 1
    assert db.rules[15000] is rule is db.rules[{"src": "172.16.1.0/24", "table": 200}]
    shown = [item for item in ip(netns, "rule") if item["priority"] == 15000]
    assert shown[0]["src"] == "172.16.1.0" and shown[0]["table"] == "200"
    with rule:
        rule.table = 201
        rule.priority = 15001
    assert db.rules[15001] is rule and len(db.rules) == before + 1
    assert [(item["priority"], item["table"]) for item in ip(netns, "rule") if item.get("src") == "172.16.1.0"] == [
        (15001, "201")
    ]
    with pytest.raises(RuntimeError):
        rule.ro.table = 5
    rule.remove().commit()
    assert len(db.rules) == before and rule.ipdb_scope == "detached"
    with pytest.raises(KeyError):
        _ = db.rules[15001]
    ip(netns, "rule", "add", "from", "10.0.0.1", "table", "300", "priority", "400")
    assert until(lambda: len(db.rules) == before + 1)
    ip(netns, "rule", "del", "priority", "400")
    assert until(lambda: len(db.rules) == before)


def test_failed_rule_is_rolled_back(netns, db):
    rule = db.rules.add(src="10.0.0.0/24", table=200, priority=100).commit()
    other = db.rules.add(src="10.0.1.0/24", table=200, priority=101).commit()
    with pytest.raises(CommitException):
        rule.set_src("no address/24").commit()
    rule.drop()
    assert rule.src == "10.0.0.0/24"
    assert {item["priority"] for item in ip(netns, "rule")} >= {100, 101}
    other.remove().commit()
    rule.remove().commit()


# ---- life -----------------------------------------------------------------------------------------------------


def test_release_closes_the_handle_and_ends_the_threads(netns):
    before = set(threading.enumerate())
    handle = NetNS(netns)
    db = IPDB(nl=handle)
    db.register_callback(lambda *_: None)
    lo = db.interfaces.lo
    assert len(set(threading.enumerate()) - before) == 2
    db.release()
    db.release()
    assert set(threading.enumerate()) == before
    assert handle.status["closed"]
    assert len(db.interfaces.keys()) == 0
    with pytest.raises(RuntimeError):
        lo.begin()
    with pytest.raises(RuntimeError):
        lo.snapshot()
    with pytest.raises(RuntimeError):
        db.create(kind="ifb", ifname="x0")


def test_one_handle_under_several_databases(netns):
    handle = NetNS(netns)
    one, two = IPDB(nl=handle), IPDB(nl=handle)
    one.create(kind="ifb", ifname="o0").commit()
    assert "o0" in two.interfaces
    one.release()
    assert not handle.status["closed"]
    two.interfaces.o0.up().commit()
    two.release()
    assert handle.status["closed"]


def test_handle_is_the_one_given(netns):
    handle = NetNS(netns)
    with IPDB(nl=handle) as db:
        assert db.nl is handle and db.interfaces.lo.nl is handle
        handle.link("set", index=1, mtu=1400)
        assert until(lambda: db.interfaces.lo.mtu == 1400)


def test_unreleased_database_warns(netns):
    before = set(threading.enumerate())
    db = IPDB(nl=NetNS(netns))
    assert "lo" in db.interfaces
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del db
        gc.collect()
    assert any(issubclass(item.category, ResourceWarning) for item in caught)
    assert until(lambda: set(threading.enumerate()) == before)


def test_missing_namespace(nsname):
    with pytest.raises(FileNotFoundError):
        IPDB(nl=NetNS(nsname, flags=0))


def test_parts_can_be_left_out(netns):
    with IPDB(nl=NetNS(netns), plugins=["interfaces"]) as db:
        assert "lo" in db.interfaces and len(db.routes) == 0 and len(db.rules) == 0


def test_commit_while_events_are_held_back(db):
    with db.exclusive:
        link = db.create(kind="ifb", ifname="x0").commit()
        link.set_mtu(1400).up().commit()
    assert link.mtu == 1400 and link.state == "up"


def test_iteration_while_interfaces_come_and_go(netns, db):
    stop = threading.Event()

    def churn():
        with NetNS(netns) as ns:
            while not stop.is_set():
                ns.link("add", ifname="c0", kind="ifb")
                ns.link("del", ifname="c0")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(300):
            for key in db.interfaces:
                link = db.interfaces.get(key)
                if link is not None:
                    assert {name: link.get(name) for name in link}
            assert "lo" in list(db.by_name) and db.interfaces.lo.dump() and len(db.ipaddr.items()) >= 0
    finally:
        stop.set()
        thread.join()


def test_failed_construction_leaves_the_handle_to_its_owner(netns):
    with NetNS(netns) as handle:
        with pytest.raises(KeyError):
            IPDB(nl=handle, callbacks=[(print, "never")])
        assert handle.get_links()


def test_threads_commit_side_by_side(netns, db):
    errors = []

    def work(number):
        try:
            for turn in range(5):
                link = db.create(kind="ifb", ifname=f"t{number}").commit()
                link.add_ip(f"10.{number}.{turn}.1/24").up().commit()
                assert set(link.ipaddr.ipv4) == {(f"10.{number}.{turn}.1", 24)} and link.state == "up"
                link.remove().commit()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and set(db.by_name) == {"lo"}


def test_forked_child_leaves_it_alone(netns, db):
    db.interfaces  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            db.create(kind="ifb", ifname="k0")
        except (RuntimeError, OSError):
            db.release()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    db.create(kind="ifb", ifname="k0").commit()


# ---- other handles --------------------------------------------------------------------------------------------


def test_on_pyroute2s_own_handle(netns):
    with IPDB(nl=pyroute2.NetNS(netns)) as db:
        link = db.create(kind="ifb", ifname="y0").add_ip("10.0.0.1/24").up().commit()
        db.routes.add(dst="10.1.0.0/24", gateway="10.0.0.2").commit()
        assert addresses(netns, "y0") == {("10.0.0.1", 24)}
        link.down().commit()
        assert "10.1.0.0/24" not in db.routes
        with pytest.raises(CommitException):
            link.set_address(BAD_MAC).commit()


# ---- transports -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["auto", "direct", "relay"])
def test_every_transport(netns_pair, transport):
    main, other = netns_pair
    with IPDB(nl=NetNS(main, transport=transport)) as db, IPDB(nl=NetNS(other, transport=transport)) as target:
        db.create(kind="veth", ifname="v0", peer="v1").commit()
        with db.interfaces.v1 as link:
            link.net_ns_fd = other
        for here, name, address in ((db, "v0", "10.0.0.1/24"), (target, "v1", "10.0.0.2/24")):
            here.interfaces[name].add_ip(address).up().commit()
            route = here.routes.add(dst="10.1.0.0/24", oif=here.interfaces[name].index).commit()
            with pytest.raises(CommitException):
                here.interfaces[name].set_mtu(10**9).commit()
            here.interfaces[name].drop()
            route.remove().commit()
        ip(main, "link", "set", "v0", "mtu", "1400")
        assert until(lambda: db.interfaces.v0.mtu == 1400)
        db.interfaces.v0.remove().commit()
        assert until(lambda: set(target.by_name) == {"lo"})


UNPRIVILEGED = """
import os, sys
from fastns import NetNS
from fastns.ipdb import IPDB, CommitException
from fastns.proxy import Proxy

name, read_only = sys.argv[1], sys.argv[2] == "True"
with Proxy(read_only=read_only) as proxy:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    with IPDB(nl=NetNS(name, flags=0, proxy=proxy)) as db:
        try:
            with db.create(kind="veth", ifname="u0", peer="u1") as link:
                link.add_ip("10.0.0.1/24").up()
            db.routes.add(dst="10.1.0.0/24", oif=link.index).commit()
            print(sorted(db.by_name), sorted(link.ipaddr.ipv4), "10.1.0.0/24" in db.routes)
        except CommitException as error:
            print(sorted(db.by_name), error.code)
"""


@pytest.mark.parametrize("read_only", [False, True])
@needs_ids
def test_without_privilege_through_a_proxy(netns, read_only):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", UNPRIVILEGED, netns, str(read_only)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    if read_only:
        assert done.stdout == f"['lo', 'u0'] {errno.EPERM}\n"
    else:
        assert done.stdout == "['lo', 'u0', 'u1'] [('10.0.0.1', 24)] True\n"


def test_death_of_the_proxy_is_an_error(netns):
    from fastns.proxy import Proxy

    with Proxy() as proxy:
        db = IPDB(nl=NetNS(netns, proxy=proxy))
        assert "lo" in db.interfaces
        os.kill(proxy.pid, signal.SIGKILL)
        with db.eventqueue(timeout=20) as events:
            with pytest.raises(OSError):
                for _ in events:
                    pass
        with pytest.raises(CommitException):
            db.interfaces.lo.up().commit()
        with pytest.raises(OSError):
            db.create(kind="ifb", ifname="x0")
        db.release()
