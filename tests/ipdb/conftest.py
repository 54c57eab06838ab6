"""Databases for the tests of IPDB, and the interfaces in them."""

from __future__ import annotations

import pytest

from fastns.ipdb import IPDB
from fastns.iproute import NetNS


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
