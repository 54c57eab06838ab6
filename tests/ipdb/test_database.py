"""IPDB on real namespaces: what pyroute2 0.5's "IPDB guide" and the netns page promise."""

from __future__ import annotations

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings

import pyroute2
import pytest
from databases import BAD_MAC, addresses, ip, until
from isolation import needs_ids

from fastns.ipdb import IPDB, CommitException
from fastns.iproute import IPRoute, NetNS

pytestmark = pytest.mark.root


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
