"""IPDB's routes and rules on real namespaces."""

from __future__ import annotations

import pyroute2
import pytest
from databases import ip, until

from fastns.ipdb import IPDB, CommitException, CreateException
from fastns.iproute import NetNS

pytestmark = pytest.mark.root


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
