"""Databases for the tests of IPDB, and the interfaces in them."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from fastns.ipdb import IPDB
from fastns.iproute import NetNS

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
