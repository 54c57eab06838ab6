"""IPDB follows its namespace, and tells those who ask."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading

import pyroute2
import pytest
from databases import addresses, ip, until
from handwritten import ended, settle
from pyroute2.netlink import rtnl
from pyroute2.netlink.rtnl import RTMGRP_DEFAULTS

from fastns.errors import ProxyError
from fastns.ipdb import IPDB
from fastns.iproute import NetNS
from fastns.schema import constant

pytestmark = pytest.mark.root


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


def test_a_link_message_with_a_notification_s_number(netns, db):
    """Enslaving a veth of another MTU: IFLA_EVENT of the bridge's message is no event of ours."""
    told = []
    db.register_callback(lambda ipdb, msg, action: told.append((action, msg)))
    with NetNS(netns) as ns, ns.monitor() as monitor:
        ip(netns, "link", "add", "br0", "type", "bridge")
        ip(netns, "link", "add", "v0", "mtu", "1400", "type", "veth", "peer", "name", "v1")
        ip(netns, "link", "set", "v0", "master", "br0")
        numbered = next(msg for msg in monitor if msg["event"] == "RTM_NEWLINK" and msg.get_attr("IFLA_EVENT"))
    assert numbered.get_attr("IFLA_IFNAME") == "br0"
    assert until(lambda: any(msg.get_attr("IFLA_EVENT") for _, msg in told if msg["event"] == "RTM_NEWLINK"))
    assert {action for action, _ in told} <= {"RTM_NEWLINK", "RTM_NEWNEIGH", "RTM_DELNEIGH"}
    assert until(lambda: db.interfaces.br0.mtu == 1400 and db._barrier())
    watch = db.watchdog(ifname="br0", flags=1234)
    numbered["flags"] = 1234
    db._serve([numbered], None)
    assert watch.is_set
    assert db.interfaces.br0.flags == 1234
    watch.cancel()


@pytest.mark.parametrize("make", [NetNS, pyroute2.NetNS])
def test_messages_of_any_type_have_their_action(netns, make):
    """Next hops, which nothing here is made of, and filter chains: pyroute2 has no event for them."""
    told = []
    groups = RTMGRP_DEFAULTS | 1 << (constant(rtnl, "RTNLGRP_NEXTHOP") - 1)
    with IPDB(nl=make(netns), nl_bind_groups=groups) as db:
        db.create(kind="ifb", ifname="p0").up().commit()
        db.register_callback(lambda ipdb, msg, action: told.append(action), mode="pre")
        watch = db.watchdog("RTM_NEWNEXTHOP")
        with db.eventqueue(timeout=10) as events:
            ip(netns, "nexthop", "add", "id", "5", "dev", "p0")
            subprocess.run(["tc", "-n", netns, "qdisc", "add", "dev", "p0", "clsact"], check=True)
            words = "filter add dev p0 ingress protocol ip u32 match u32 0 0 flowid 1:1"
            subprocess.run(["tc", "-n", netns, *words.split()], check=True)
            seen = [next(msg for msg in events if "NEXTHOP" in msg["event"])["event"]]
            seen += [next(msg for msg in events if "CHAIN" in msg["event"])["event"]]
        assert watch.wait(10)
        assert seen == ["RTM_NEWNEXTHOP", "RTM_NEWCHAIN"]
        assert set(seen) <= set(told)
        assert None not in told


def test_what_came_before_a_failure_is_delivered_first(netns, db):
    """The proxy that receives dies: its last events, then the failure, then the same for every request."""
    seen = []
    db.register_callback(lambda ipdb, msg, action: seen.append(msg), mode="pre")
    stream = db._reader.stream
    proxy = stream.transport.client
    with db.eventqueue(timeout=10) as events:
        with db.exclusive:  # the reader waits
            for number in range(20):
                ip(netns, "link", "add", f"l{number}", "type", "ifb")
            settle(proxy)
            os.kill(proxy.pid, signal.SIGKILL)
            assert ended(proxy.pid)
        names = set()
        with pytest.raises(ProxyError):
            while True:
                names.add(next(events).get_attr("IFLA_IFNAME"))
    assert {f"l{number}" for number in range(20)} <= names
    with pytest.raises(ProxyError):
        db.create(kind="ifb", ifname="late").commit()


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
