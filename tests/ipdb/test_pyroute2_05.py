"""IPDB next to pyroute2 0.5.19's, in an interpreter that has it (FASTNS_PYROUTE2_05): what it shows, what it sends."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import textwrap

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not os.environ.get("FASTNS_PYROUTE2_05"),
        reason="python: FASTNS_PYROUTE2_05 names no interpreter with pyroute2 0.5.19",
    ),
]


def both(netns_pair, script):
    """What the script prints as JSON, run with fastns and with pyroute2 0.5.19."""
    answers = []
    for name, who in zip(netns_pair, ("ours", "theirs")):
        python = sys.executable if who == "ours" else os.environ["FASTNS_PYROUTE2_05"]
        command = ["ip", "netns", "exec", name, python, "-c", textwrap.dedent(script), who]
        env = {**os.environ, "PYTHONPATH": os.getcwd() if who == "ours" else ""}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout.splitlines()[-1]))
    return answers


SCENARIO = """
import json, logging, sys, time
logging.disable(logging.CRITICAL)
OURS = sys.argv[1] == "ours"
if OURS:
    from fastns.ipdb import IPDB
    from fastns.iproute import IPRoute
    db = IPDB(nl=IPRoute())
else:
    from pyroute2 import IPDB, config
    config.commit_barrier = 0
    db = IPDB()

LINK = "ifname mtu txqlen state kind ipdb_scope ipdb_priority master group num_tx_queues operstate".split()
ROUTE = "dst gateway table family dst_len src_len tos proto scope type priority ipdb_scope prefsrc".split()
out = []

def show(*items):
    out.append(json.loads(json.dumps(items, default=lambda value: sorted(value, key=str))))

def link(i):
    show({key: i[key] for key in LINK}, sorted(i.ipaddr.ipv4), sorted(i.ports))

def route(r):
    show({key: r[key] for key in ROUTE}, dict((k, v) for k, v in r.metrics.items() if v is not None),
         sorted((hop["gateway"], hop["hops"]) for hop in r.multipath))

def adjusted(bridge, mtu):
    # a bridge takes the least mtu of its ports; 0.5.19 may return from the commit before it has read of it
    deadline = time.monotonic() + 5
    while not OURS and bridge.mtu != mtu and time.monotonic() < deadline:
        time.sleep(0.01)
    link(bridge)

try:
    i = db.create(kind="ifb", ifname="zz0")
    show(i.ipdb_scope, i._mode, "zz0" in db.interfaces, i.kind)
    show(sorted(i.review()["+ipaddr"]))
    i.commit()
    link(i)
    i.set_mtu(1400).add_ip("10.9.0.1/24").add_ip("10.9.0.2", 24)
    review = i.review()
    show(review["mtu"], sorted(review["+ipaddr"]), sorted(review["-ipaddr"]), i.mtu, sorted(i.ipaddr))
    i.commit()
    link(i)
    show({key: i.ipaddr["10.9.0.1/24"][key] for key in ("local", "address", "prefixlen", "family", "broadcast")})
    try:
        i.add_ip("10.9.0.3/24")
        i.address = "11:22:33:44:55:66"
        i.commit()
    except Exception as error:
        show("failed", error.code, i.current_tx is not None)
    link(i)
    i.drop()
    i.up().commit()
    link(i)
    r = db.routes.add(dst="10.8.0.0/24", gateway="10.9.0.5", metrics={"mtu": 1300}).commit()
    route(r)
    with db.routes["10.8.0.0/24"] as r:
        r.gateway = "10.9.0.6"
        r.metrics.mtu = 1200
    route(r)
    db.routes.add(dst="10.7.0.0/24", multipath=[{"gateway": "10.9.0.5", "hops": 2}, {"gateway": "10.9.0.6"}]).commit()
    route(db.routes["10.7.0.0/24"])
    with db.routes["10.7.0.0/24"] as r:
        r.add_nh({"gateway": "10.9.0.7"})
        r.del_nh({"gateway": "10.9.0.5"})
    route(r)
    show(sorted(k for k in db.routes.keys() if k.startswith("10.")), sorted(db.routes.tables.keys()))
    show(sorted(x["route"]["dst"] for x in db.routes.filter({"gateway": "10.9.0.6"})))
    show("10.8.0.0/24" in db.routes, "10.80.0.0/24" in db.routes)
    b = db.create(kind="bridge", ifname="br0").add_port(i).commit()
    adjusted(b, 1400)
    show(i.master == b.index, i.if_master == b.index)
    b.del_port("zz0").commit()
    adjusted(b, 1500)
    show(i.master)
    i.down().commit()
    i.ifname = "zz1"
    i.commit()
    show("zz0" in db.interfaces, "zz1" in db.interfaces, db.interfaces["zz1"] is i)
    for what in (lambda: db.create(kind="ifb", ifname="zz1"), lambda: b.current_tx and b.drop(), lambda: b.review(),
                 lambda: b.drop(), lambda: db.interfaces["nosuch"], lambda: db.interfaces.nosuch, lambda: b.ro.up()):
        try:
            show("fine", what())
        except Exception as error:
            show(type(error).__name__)
finally:
    db.release()
print(json.dumps(out))
"""


def test_same_as_pyroute2_05(netns_pair):
    ours, theirs = both(netns_pair, SCENARIO)
    for number, (mine, other) in enumerate(zip(ours, theirs)):
        assert mine == other, number
    assert len(ours) == len(theirs)


# ---- what is sent for kinds this kernel may not have -----------------------------------------------------------

REQUESTS = """
import json, logging, sys
logging.disable(logging.CRITICAL)
sent = []
if sys.argv[1] == "ours":
    from fastns import IPDB, IPRoute

    class Tap:
        def __init__(self, transport):
            self.transport = transport

        def __getattr__(self, name):
            return getattr(self.transport, name)

        def send(self, data, *args, **kwarg):
            sent.append(bytes(data))
            return self.transport.send(data, *args, **kwarg)

    nl = IPRoute(transport="direct")
    nl.asyncore.transport = Tap(nl.asyncore.transport)
else:
    import socket
    from pyroute2 import IPDB, IPRoute, config

    class Tap(socket.socket):
        def sendto(self, data, *args):
            sent.append(bytes(data))
            return super().sendto(data, *args)

    config.SocketBase = Tap
    config.commit_barrier = 0
    nl = IPRoute()

def first(make):
    sent.clear()
    try:
        make()
    except Exception:
        if not sent:
            raise
    # a change: no dump, which pyroute2 0.5 does more of
    return next(data.hex() for data in sent if data[4] % 4 != 2)

db = IPDB(nl=nl)
try:
    db.create(kind="ifb", ifname="p0", index=10).commit()
    out = [first(lambda spec=spec: db.create(**spec).commit()) for spec in LINKS]
    # pyroute2 0.5 sends these after the creation, if that succeeds; fastns at once
    out += [first(lambda spec=spec: (db.create(**spec).commit() if sys.argv[1] == "ours" else nl.link("add", **spec)))
            for spec in BONDS]
    out += [first(lambda spec=spec: db.routes.add(**spec).commit()) for spec in ROUTES]
finally:
    db.release()
print(json.dumps(out))
"""
LINKS = [
    {"kind": "vlan", "ifname": "p0.5", "index": 11, "link": 10, "vlan_id": 5},
    {"kind": "vlan", "ifname": "p0.6", "index": 12, "link": 10, "vlan_id": 6, "vlan_protocol": 0x88A8, "mtu": 1400},
    {"kind": "vlan", "ifname": "p0.7", "index": 13, "link": 10, "vlan_id": 7, "vlan_flags": {"flags": 1, "mask": 1}},
    {"kind": "bond", "ifname": "b0", "index": 20},
    {"kind": "vrf", "ifname": "vrf0", "index": 22, "vrf_table": 42},
    {"kind": "dummy", "ifname": "d0", "index": 23, "address": "02:00:00:00:00:23", "mtu": 1400, "txqlen": 500},
    {
        "kind": "gre", "ifname": "g0", "index": 25, "gre_local": "10.1.0.1", "gre_remote": "10.1.0.2", "gre_ttl": 16,
        "gre_ikey": 10, "gre_okey": 10, "gre_iflags": 32, "gre_oflags": 32,
    },
    {"kind": "gretap", "ifname": "g1", "index": 26, "gre_local": "10.1.0.1", "gre_remote": "10.1.0.2"},
    {"kind": "ipvlan", "ifname": "i0", "index": 27, "link": 10, "ipvlan_mode": 1},
]  # fmt: skip
BONDS = [
    {"kind": "bond", "ifname": "b1", "index": 30, "bond_mode": 1, "bond_miimon": 100},
    {
        "kind": "bond", "ifname": "b2", "index": 31, "bond_mode": 4, "bond_ad_select": 0, "bond_xmit_hash_policy": 1,
        "bond_ad_lacp_rate": 1, "bond_updelay": 0,
    },
]  # fmt: skip
ROUTES = [
    {"dst": "10.3.0.0/24", "gateway": "10.1.0.5", "encap": {"type": "mpls", "labels": "100/200"}},
    {"dst": "10.4.0.0/24", "oif": 10, "encap": {"type": "mpls", "labels": "300"}},
    {"dst": "10.5.0.0/24", "multipath": [
        {"gateway": "10.1.0.5", "encap": {"type": "mpls", "labels": "500"}},
        {"gateway": "10.1.0.6", "encap": {"type": "mpls", "labels": [{"label": 600}, {"label": 700}]}},
    ]},
    {"family": 28, "dst": 0x20, "oif": 10, "via": {"family": 2, "addr": "10.1.0.9"}, "newdst": [0x21, 0x22]},
    {"family": 28, "dst": 0x30, "oif": 10, "newdst": [{"label": 0x31, "bos": 1}]},
    {"family": 28, "dst": [{"label": 0x50, "bos": 1}], "oif": 10, "newdst": [0x51]},
]  # fmt: skip
HEADERS = {16: 16, 24: 12}  # sizes of ifinfomsg and rtmsg
NESTED = {16: {18: {2: {}}}, 24: {22: {}}}  # IFLA_LINKINFO and in it IFLA_INFO_DATA; RTA_ENCAP


def attributes(data, nested):
    """Attributes in no order: number, and value or what is nested in it."""
    found = []
    while len(data) >= 4:
        size, number = struct.unpack_from("=HH", data)
        number &= 0x3FFF  # without NLA_F_NESTED
        value = data[4:size]
        found.append((number, attributes(value, nested[number]) if number in nested else value.hex()))
        data = data[size + 3 & ~3 :]
    return sorted(found, key=repr)


def parse(text):
    data = bytes.fromhex(text)
    kind, flags = struct.unpack_from("=HH", data, 4)
    size = 16 + HEADERS[kind]
    return kind, flags, data[16:size].hex(), attributes(data[size:], NESTED[kind])


def test_what_is_sent_is_what_pyroute2_05_sends(netns_pair):
    """The same messages but for the order of attributes: VLANs, bonds, VRFs, tunnels, routes with MPLS labels."""
    script = f"LINKS, BONDS, ROUTES = {LINKS!r}, {BONDS!r}, {ROUTES!r}\n{REQUESTS}"
    ours, theirs = both(netns_pair, script)
    for spec, mine, other in zip(LINKS + BONDS + ROUTES, ours, theirs):
        assert parse(mine) == parse(other), spec
    assert len(ours) == len(theirs) == len(LINKS + BONDS + ROUTES)
