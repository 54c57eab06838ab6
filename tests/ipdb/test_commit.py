"""IPDB's transactions: what a commit does, and what one that fails takes back."""

from __future__ import annotations

import errno
import json
import pickle
import threading

import pyroute2
import pytest
from databases import BAD_MAC, addresses, ip

import fastns.ipdb
from fastns.errors import NetlinkError
from fastns.ipdb import IPDB, CommitException, CreateException, PartialCommitException
from fastns.iproute import NetNS

pytestmark = pytest.mark.root


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


@pytest.mark.parametrize("cls", [IPDB, PartialCommitException])
def test_public_classes_pickle_by_the_path_they_are_imported_from(cls):
    assert cls.__module__ == "fastns.ipdb"
    assert pickle.loads(pickle.dumps(cls)) is cls


def test_partial_failures_pickle():
    partial = PartialCommitException("partial commit error")
    partial.errors = [KeyError("port")]
    copy = pickle.loads(pickle.dumps(partial))
    assert type(copy) is PartialCommitException and copy.args == partial.args
    assert [str(error) for error in copy.errors] == ["'port'"]


def test_create_failures_pickle(db):
    with pytest.raises(CreateException) as caught:
        db.create(kind="nokind", ifname="x0").commit()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is type(caught.value) and isinstance(copy, CommitException)
    assert copy.args == caught.value.args


@pytest.mark.parametrize(
    "name",
    [
        "AddressSet",
        "CommitException",
        "CreateException",
        "IPDB",
        "Interface",
        "Interfaces",
        "LinkedSet",
        "PartialCommitException",
        "Route",
        "Routes",
        "Rules",
        "Transaction",
        "Watchdog",
    ],
)
def test_classes_are_importable_from_the_face(name):
    assert isinstance(getattr(fastns.ipdb, name), type)


def test_failures_pickle(db):
    link = db.create(kind="ifb", ifname="p0").commit()
    with pytest.raises(CommitException) as caught:
        link.set_address(BAD_MAC).commit()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, CommitException) and isinstance(copy, pyroute2.NetlinkError)
    assert copy.code == caught.value.code and str(copy) == str(caught.value)


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
