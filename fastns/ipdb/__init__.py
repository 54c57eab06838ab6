"""IPDB: a transactional view of interfaces, addresses, neighbours, routes and rules, on any IPRoute-like object.

    with IPDB(nl=NetNS("blue")) as ipdb:
        with ipdb.create(kind="veth", ifname="v0", peer="v1") as v0:
            v0.add_ip("10.0.0.1/24").up()
        ipdb.routes.add(dst="10.1.0.0/24", gateway="10.0.0.2").commit()

The behaviour is the documented one of pyroute2 0.5, the work is done through the object given as `nl`: its
namespace, its transport, its privileges. What is different, and why:

- A transaction holds what was changed and nothing else, so a commit sends only that, and a rollback takes back
  only that: addresses somebody else added in between stay.
- A failed commit raises an exception that is both a `CommitException` and what went wrong (`NetlinkError`,
  `OSError`, `KeyError`, ...): `except` clauses written for either work.
- A name that is not in the view is asked of the kernel before it is a KeyError, so an interface that another
  handle has just moved here is found at once and not when its event has been read.
- One thread reads events; a second one exists only while callbacks are registered. There is no fixed pause
  after a commit.

Threads: every method may be called from any thread; transactions belong to the thread that began them. An
object must not be used in a forked child. Privilege: reading needs none, `commit()` what the kernel asks for
(CAP_NET_ADMIN over the namespace, or a `nl` whose transport has it).

Source: netlink(7), rtnetlink(7), pyroute2 0.5.19's "IPDB guide".
"""

from pyroute2.ipdb import CommitException, CreateException

from fastns.ipdb.database import IPDB
from fastns.ipdb.events import Watchdog as Watchdog
from fastns.ipdb.exceptions import PartialCommitException
from fastns.ipdb.interfaces import Interfaces as Interfaces
from fastns.ipdb.links import Interface as Interface
from fastns.ipdb.records import Transaction as Transaction
from fastns.ipdb.routes import Route as Route
from fastns.ipdb.routes import Routes as Routes
from fastns.ipdb.rules import Rules as Rules
from fastns.ipdb.values import AddressSet as AddressSet
from fastns.ipdb.values import LinkedSet as LinkedSet

__all__ = ["IPDB", "CommitException", "CreateException", "PartialCommitException"]
