"""What IPDB shows: loaded when it is first asked for, then kept as the events say."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.common import AF_MPLS
from pyroute2.config import AF_BRIDGE
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from fastns.ipdb.events import SYNC_TIMEOUT, EventQueue, EventReader, Watchdog, open_event_stream
from fastns.ipdb.interfaces import Interfaces
from fastns.ipdb.link_fields import address_of
from fastns.ipdb.records import Record, log
from fastns.ipdb.routes import Route, Routes, fields_of_route
from fastns.ipdb.rules import Rules
from fastns.ipdb.values import AddressSet, LinkedSet, Stable

CALLBACKS_WAITING = 8192  # events at most
PARTS = ("interfaces", "routes", "rules")
SETTLE_TIMEOUT = 0.25  # seconds: the longest a commit waits for an event that may not come (a set alias sends none)


class Views:
    """The part of a database that follows the kernel. `_cond` is held whenever something of it changes."""

    nl: Any
    nl_bind_groups: int
    restart_on_error: bool
    _plugins: frozenset[str]
    _interfaces: Interfaces
    _routes: Routes
    _rules: Rules

    def __init__(self) -> None:
        self._stop = False
        self._reader: EventReader | None = None
        self._broken: BaseException | None = None
        self._cond = threading.Condition(threading.RLock())
        self._addresses: dict[int, AddressSet] = Stable()
        self._neighbours: dict[int, LinkedSet] = Stable()
        self._loaded: set[str] = set()
        self._stale: set[int] = set()
        self._pre_callbacks: dict[Any, Any] = {}
        self._post_callbacks: dict[Any, Any] = {}
        self._callback_queue: queue.SimpleQueue[Any] | None = None
        self._queues: set[EventQueue] = set()
        self._watchdogs: set[Watchdog] = set()

    def _ask(self, method: str, *args: Any, **kwarg: Any) -> Any:
        answer = getattr(self.nl, method)(*args, **kwarg)
        return answer if isinstance(answer, (list, tuple)) or answer is None else list(answer)

    def _barrier(self) -> bool:
        reader = self._reader
        if reader is None or reader.is_current() or self._broken is not None:
            return False
        if self._cond._is_owned():  # type: ignore[attr-defined]
            return False  # the reader waits for this very thread
        try:
            return bool(reader.stream.barrier(SYNC_TIMEOUT))
        except OSError:
            return False

    def _settle(self, done: Callable[[], bool], reread: Callable[[], Any]) -> None:
        """Wait until the views show what the kernel has acknowledged.

        Where the events can be followed up to now that is enough. Otherwise wait for them a little; what sends no
        event is asked for.
        """
        if self._barrier():
            with self._cond:
                if done():
                    return
        else:
            reader = self._reader
            with self._cond:
                if self._cond.wait_for(done, 0 if reader is None or reader.is_current() else SETTLE_TIMEOUT):
                    return
        reread()

    def _addresses_of(self, index: int) -> AddressSet:
        found = self._addresses.get(index)
        if found is None:
            found = self._addresses[index] = AddressSet(changed=self._cond)
        return found

    def _neighbours_of(self, index: int) -> LinkedSet:
        found = self._neighbours.get(index)
        if found is None:
            found = self._neighbours[index] = LinkedSet(changed=self._cond)
        return found

    def _unlink(self, index: int | None) -> None:
        if index is not None:
            self._addresses.pop(index, None)
            self._neighbours.pop(index, None)

    def _load_part(self, part: str) -> None:
        """Read one of `PARTS` when it is first used."""
        with self._cond:
            if part in self._loaded or self._stop or part not in self._plugins:
                return
            self._loaded.add(part)
            try:
                self._read(part)
            except BaseException:
                self._loaded.discard(part)
                raise
        self._barrier()

    def _read(self, part: str) -> None:
        if part == "interfaces":
            self._read_links()
        elif part == "routes":
            self._read_routes()
        else:
            self._read_rules()

    def _read_links(self) -> None:
        links = self._ask("get_links")
        for link in links:
            self._interfaces._on_link(link)
        for link in links:  # once more: by now all masters are there
            device = dict.get(self._interfaces, link["index"])
            if device is not None and dict.get(device, "master"):
                self._interfaces._port_moved(device, None, device["master"])
        for msg in self._ask("get_addr"):
            self._on_address(msg)
        for msg in self._ask("get_neighbours"):
            self._on_neighbour(msg)
        for msg in self._ask("get_vlans"):
            self._interfaces._on_link(msg)

    def _read_routes(self) -> None:
        for family in (AF_INET, AF_INET6, AF_MPLS):
            try:
                messages = self._ask("get_routes", family=family)
            except Exception as error:
                if family == AF_MPLS and getattr(error, "code", None) in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                    continue
                raise
            for msg in messages:
                if msg["family"] == family:
                    self._routes._on_route(msg)

    def _read_rules(self) -> None:
        for family in (AF_INET, AF_INET6):
            for msg in self._ask("get_rules", family=family):
                self._rules._on_rule(msg)

    def _on_address(self, msg: Any) -> Any:
        if msg["family"] not in (AF_INET, AF_INET6):
            return None
        key = (address_of(msg) or msg.get_attr("IFA_ADDRESS"), msg["prefixlen"])
        known = self._addresses_of(msg["index"])
        if msg["event"] == "RTM_DELADDR":
            known.discard(key)
            return key
        known.add(
            key,
            {
                "local": msg.get_attr("IFA_LOCAL"),
                "broadcast": msg.get_attr("IFA_BROADCAST"),
                "address": msg.get_attr("IFA_ADDRESS"),
                "flags": msg.get("flags"),
                "prefixlen": msg["prefixlen"],
                "family": msg["family"],
                "scope": msg["scope"],
                "cacheinfo": msg.get_attr("IFA_CACHEINFO"),
            },
        )
        return key

    def _on_neighbour(self, msg: Any) -> None:
        if msg["family"] == AF_BRIDGE or not msg["ifindex"]:
            return
        dst = msg.get_attr("NDA_DST")
        if dst is None:
            return
        known = self._neighbours_of(msg["ifindex"])
        if msg["event"] == "RTM_DELNEIGH":
            known.discard(dst)
        else:
            known.add(dst, {"lladdr": msg.get_attr("NDA_LLADDR")})

    def _serve(self, messages: list[Any], failure: Exception | None) -> bool:
        """Take over what one read has given; False ends the reader."""
        for msg in messages:
            for callback in tuple(self._pre_callbacks.values()):
                try:
                    callback(self, msg, msg["event"])
                except Exception:
                    log.exception("a callback failed")
        with self._cond:
            for msg in messages:
                try:
                    self._take(msg)
                except Exception:
                    log.exception("an event could not be taken over")
            if failure is None and self._stale:
                try:
                    self._sweep_routes()
                except Exception as error:
                    failure = error
            if failure is not None and not self._recover(failure):
                self._broken = failure
            self._cond.notify_all()
        for msg in messages:
            for watchdog in tuple(self._watchdogs):
                watchdog._look(msg)
            for source in tuple(self._queues):
                source._put(msg)
            if self._callback_queue is not None and self._post_callbacks:
                if self._callback_queue.qsize() < CALLBACKS_WAITING:
                    self._callback_queue.put(msg)
                else:
                    log.warning("dropped an event: the callbacks are too slow")
        if self._broken is None:
            return True
        for source in tuple(self._queues):
            source._put(self._broken)
        return False

    def _take(self, msg: Any) -> None:
        event = msg["event"]
        if event in ("RTM_NEWLINK", "RTM_DELLINK"):
            if msg["family"] != AF_BRIDGE and (event == "RTM_DELLINK" or not msg["flags"] & IFF_UP):
                self._stale.add(msg["index"])
            if "interfaces" in self._loaded:
                if event == "RTM_NEWLINK":
                    self._interfaces._on_link(msg)
                else:
                    self._interfaces._off_link(msg)
        elif event in ("RTM_NEWADDR", "RTM_DELADDR"):
            if event == "RTM_DELADDR":
                self._stale.add(msg["index"])
            if "interfaces" in self._loaded:
                self._on_address(msg)
        elif event in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
            if "interfaces" in self._loaded:
                self._on_neighbour(msg)
        elif event in ("RTM_NEWROUTE", "RTM_DELROUTE"):
            if "routes" in self._loaded:
                self._routes._on_route(msg)
        elif event in ("RTM_NEWRULE", "RTM_DELRULE") and "rules" in self._loaded:
            self._rules._on_rule(msg)

    def _sweep_routes(self) -> None:
        """Forget the IPv4 routes the kernel has dropped without a word, with a link going down or an address."""
        stale, self._stale = self._stale, set()
        if "routes" not in self._loaded:
            return
        suspects = [
            record
            for table in tuple(self._routes.tables.values())
            for record in table._records()
            if record["route"]["ipdb_scope"] == "system"
            and record["route"]["family"] == AF_INET
            and (record["route"]["oif"] in stale or len(dict.__getitem__(record["route"], "multipath")))
        ]
        if not suspects:
            return
        there = {Route.make_key(msg): msg for msg in self._ask("get_routes", family=AF_INET)}
        for record in suspects:
            msg = there.get(record["key"])
            if msg is None:
                record["route"]._forget()
            else:
                record["route"]._load(fields_of_route(msg))

    def _recover(self, failure: Exception) -> bool:
        """After lost events read everything again; after another failure open a new stream, where asked for."""
        lost = isinstance(failure, OSError) and failure.errno == errno.ENOBUFS
        if not lost and not self.restart_on_error:
            log.error("the event stream failed: %s", failure)
            return False
        reader = self._reader
        try:
            if not lost and reader is not None:
                log.error("restarting after an error: %s", failure)
                old, reader.stream = reader.stream, open_event_stream(self.nl, self.nl_bind_groups)
                old.close()
            self._resync()
        except Exception as error:
            log.error("could not restart: %s", error)
            return False
        return True

    def _resync(self) -> None:
        """Read everything again that is loaded; records that are still there stay the same objects."""
        if "interfaces" in self._loaded:
            links = {link["index"] for link in self._ask("get_links")}
            for index in [key for key in tuple(self._interfaces) if isinstance(key, int) and key not in links]:
                self._interfaces._drop(index)
            for known in (*self._addresses.values(), *self._neighbours.values()):
                known.raw.clear()
            self._read_links()
        if "routes" in self._loaded:
            old = [record["route"] for table in self._routes.tables.values() for record in table._records()]
            self._reread(old, self._read_routes)
        if "rules" in self._loaded:
            self._reread(list(self._rules.values()), self._read_rules)

    @staticmethod
    def _reread(records: list[Record], read: Callable[[], None]) -> None:
        """Read records again; those the kernel does not tell of any more leave the database."""
        for record in records:
            if record["ipdb_scope"] == "system":
                record._set_scope("gone")
        read()
        for record in records:
            if record["ipdb_scope"] == "gone":
                record._forget()
