"""The database: what a user holds, and the commit of everything in it."""

from __future__ import annotations

import errno
import os
import queue
import subprocess
import sys
import threading
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pprint import pprint
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.ipdb import CommitException
from pyroute2.netlink.rtnl import RTMGRP_DEFAULTS, rt_proto

from fastns.ipdb.events import SYNC_TIMEOUT, EventQueue, EventReader, Watchdog, run_callbacks
from fastns.ipdb.exceptions import PartialCommitException, exception_of_both, tolerated
from fastns.ipdb.interfaces import Interfaces, InterfacesByKey
from fastns.ipdb.links import Interface
from fastns.ipdb.records import Transaction, UndoLog
from fastns.ipdb.routes import TABLE_LOCAL, Route, Routes, fields_of_route
from fastns.ipdb.rules import Rules
from fastns.ipdb.values import AddressSet, LinkedSet
from fastns.ipdb.views import PARTS, Views
from fastns.iproute import IPRoute

riders: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()  # handles and the databases on them

late_kinds = ("vlan", "vxlan", "gre", "tuntap", "vti", "vti6", "vrf", "xfrm")
last_kinds = ("bridge", "bond")


class IPDB(Views):
    """The network settings of one namespace: `interfaces`, `ipaddr`, `neighbours`, `routes`, `rules`.

    `nl` is the IPRoute-like object to work through (default: a new `IPRoute` of the current namespace). `mode` says
    how changes begin: "implicit" (the first one starts a transaction), "explicit" (`begin()` does), "direct" (each
    is applied at once). `nl_bind_groups` are the groups of events; `ignore_rtables` the routing tables not to keep;
    `callbacks` functions, or pairs with a mode, for `register_callback()`; `plugins` which parts to keep out of
    "interfaces", "routes", "rules". `restart_on_error` (default: when no `nl` is given) opens a new event stream
    after one has failed. `sources`, `nl_async`, `sndbuf`, `rcvbuf`, `sort_addresses` and
    `deprecation_warning` are accepted; addresses are always in the kernel's order, and of `sources` the `netns` of
    the first is where the database works.

    Each part is loaded when it is first used. `release()`, or leaving the `with` statement, ends the thread and
    closes `nl`, the one given too, when no other database rides on it.

    Raises OSError when the namespace cannot be entered or the event stream cannot be opened.
    """

    __module__ = "fastns.ipdb"  # where users import it from; a pickle has this path

    def __init__(
        self,
        nl: Any = None,
        mode: str = "implicit",
        restart_on_error: bool | None = None,
        nl_async: Any = None,
        sndbuf: int = 1048576,
        rcvbuf: int = 1048576,
        nl_bind_groups: int = RTMGRP_DEFAULTS,
        ignore_rtables: Any = None,
        callbacks: Any = None,
        sort_addresses: bool = False,
        plugins: Any = None,
        sources: Any = None,
        deprecation_warning: bool = False,
        **_: Any,
    ) -> None:
        super().__init__()
        self._pid = os.getpid()
        self.mode = mode
        self.txdrop = False
        self.restart_on_error = nl is None if restart_on_error is None else restart_on_error
        self.nl_bind_groups = nl_bind_groups
        self._plugins = frozenset(plugins or PARTS)
        if ignore_rtables is None:
            ignore_rtables = ()
        self._ignore_rtables = frozenset((ignore_rtables,) if isinstance(ignore_rtables, int) else ignore_rtables)
        self._interfaces = Interfaces(self)
        self._routes = Routes(self)
        self._rules = Rules(self)
        self._callback_thread: threading.Thread | None = None
        self._ensure: list[Callable[[], Any]] = []
        self.fallen: list[Any] = []
        own = nl is None
        if nl is None:
            spec = dict(sources[0]) if sources else {}
            nl = IPRoute(spec.get("netns"), rcvbuf=rcvbuf, sndbuf=sndbuf)
        self.nl = nl
        riders.setdefault(nl, set()).add(id(self))
        try:
            for item in callbacks or ():
                self.register_callback(*(item if isinstance(item, (tuple, list)) else (item,)))
            self._reader = EventReader(self)
        except BaseException:
            if not own:
                riders[nl].add(0)  # it stays the caller's
            self.release()
            if not own:
                riders[nl].discard(0)
            raise

    # parts

    @property
    def exclusive(self) -> Any:
        """The lock of the views: while it is held, no event is taken over."""
        return self._cond

    @property
    def interfaces(self) -> Interfaces:
        """The interfaces by name and index."""
        if "interfaces" not in self._loaded:
            self._load_part("interfaces")
        return self._interfaces

    @property
    def by_name(self) -> Mapping[str, Interface]:
        """The interfaces by name."""
        return InterfacesByKey(self, str)

    @property
    def by_index(self) -> Mapping[int, Interface]:
        """The interfaces by index."""
        return InterfacesByKey(self, int)

    @property
    def ipaddr(self) -> dict[int, AddressSet]:
        """The addresses by interface index."""
        if "interfaces" not in self._loaded:
            self._load_part("interfaces")
        return self._addresses

    @property
    def neighbours(self) -> dict[int, LinkedSet]:
        """The neighbours by interface index."""
        if "interfaces" not in self._loaded:
            self._load_part("interfaces")
        return self._neighbours

    @property
    def routes(self) -> Routes:
        """The routes."""
        if "routes" not in self._loaded:
            self._load_part("routes")
        return self._routes

    @property
    def rules(self) -> Rules:
        """The routing rules."""
        if "rules" not in self._loaded:
            self._load_part("rules")
        return self._rules

    # requests and their results

    def _check(self) -> None:
        if self._stop:
            raise RuntimeError("the database is released")
        if self._pid != os.getpid():
            raise RuntimeError("the database belongs to the parent process: open a new one after fork")
        if self._broken is not None:
            raise exception_of_both(CommitException, self._broken)

    def _routes_by(self, index: int) -> list[dict[str, Any]]:
        """What would make the routes through an interface again."""
        requests = []
        for family in (AF_INET, AF_INET6):
            for msg in self._ask("get_routes", family=family, oif=index):
                fields = fields_of_route(msg)
                if fields["table"] == TABLE_LOCAL or fields.get("proto") == rt_proto["kernel"]:
                    continue
                if fields.get("oif") != index:
                    continue
                route = Route(self, mode="snapshot")
                route._load(fields)
                requests.append(route._request())
        return requests

    def _restore_routes(self, requests: list[dict[str, Any]]) -> None:
        for request in requests:
            with tolerated(errno.EEXIST):
                self._ask("route", "add", **request)

    # callbacks and events for users

    def register_callback(self, callback: Callable[[IPDB, Any, str], Any], mode: str = "post") -> Any:
        """Call `callback(ipdb, msg, action)` for each event; returns an identifier for `unregister_callback()`.

        "post": after the views have been changed, in a thread for callbacks, one event after the other; may commit.
        "pre": before, in the reader's thread; may change the message; must not commit.
        """
        key = uuid.uuid4()
        if mode == "pre":
            self._pre_callbacks[key] = callback
        elif mode == "post":
            self._post_callbacks[key] = callback
            if self._callback_thread is None:
                events: queue.SimpleQueue[Any] = queue.SimpleQueue()
                self._callback_queue = events
                self._callback_thread = threading.Thread(
                    target=run_callbacks,
                    args=(weakref.ref(self, lambda _: events.put(None)), events),
                    name="IPDB cb event loop",
                    daemon=True,
                )
                self._callback_thread.start()
        else:
            raise KeyError("Unknown callback mode")
        return key

    def unregister_callback(self, cuid: Any, mode: str = "post") -> Any:
        """Remove a callback and return it. Raises KeyError when there is none of that identifier."""
        if mode not in ("pre", "post"):
            raise KeyError("Unknown callback mode")
        return (self._pre_callbacks if mode == "pre" else self._post_callbacks).pop(cuid)

    def eventqueue(self, qsize: int = 8192, block: bool = True, timeout: float | None = None) -> EventQueue:
        """A context manager that collects events from its start on; iterating waits for them.

        At most `qsize` are kept. `block` and `timeout` (seconds) as in queue.Queue.get: queue.Empty.
        """
        return EventQueue(self, qsize, block, timeout)

    def eventloop(self, qsize: int = 8192, block: bool = True, timeout: float | None = None) -> Iterator[Any]:
        """The events from now on."""
        with self.eventqueue(qsize, block, timeout) as events:
            yield from events

    def watchdog(self, wdops: str = "RTM_NEWLINK", **kwarg: Any) -> Watchdog:
        """Watch for an event with these values: `wait()` of the result waits for it."""
        return Watchdog(self, wdops, kwarg)

    def ensure(self, cmd: str = "add", reachable: str | None = None, condition: Any = None) -> Any:
        """Checks that every commit must pass, or it is rolled back.

        `ensure("add", reachable="10.0.0.1")` or `ensure("add", condition=callable)` adds one ("reachable" runs ping,
        in the namespace of this process), "reset" removes all, "get" returns and "print" prints them, "run" runs them.
        """
        if cmd == "add":
            if reachable is not None:
                host: str = reachable
                self._ensure.append(lambda: ping(host))
            elif condition is not None:
                self._ensure.append(condition)
        elif cmd == "reset":
            self._ensure = []
        elif cmd == "run":
            for check in self._ensure:
                check()
        elif cmd == "get":
            return self._ensure
        elif cmd == "print":
            pprint(self._ensure, stream=sys.stdout)
        else:
            raise NotImplementedError(cmd)
        return None

    # the whole database

    def create(self, kind: str, ifname: str, reuse: bool = False, **kwarg: Any) -> Any:
        """A new interface with the arguments of `IPRoute.link("add", …)`; its `commit()` makes it.

        Raises CreateException when there is one of that name, unless `reuse`, which then returns that.
        """
        return self.interfaces.add(kind, ifname, reuse, **kwarg)

    def items(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Paths and objects: `("interfaces", name)`, `("routes", table, dst)`."""
        for name in self.by_name:
            yield ("interfaces", name), self.interfaces[name]
        for number, table in tuple(self.routes.tables.items()):
            for key, route in table.items():
                yield ("routes", number, key), route

    def dump(self) -> dict[str, Any]:
        """All objects as nested dictionaries."""
        return self._tree((path, item) for path, item in self.items())

    @staticmethod
    def _tree(items: Iterable[tuple[tuple[Any, ...], Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for path, item in items:
            place = result
            for step in path[:-1]:
                place = place.setdefault(step, {})
            place[path[-1]] = item
        return result

    def load(self, config: dict[str, Any], ptr: Any = None) -> IPDB:
        """Put settings in the shape of `dump()` into transactions; new objects are added."""
        for name, spec in config.get("interfaces", {}).items():
            if name in self.interfaces:
                self.interfaces[name].load(spec)
            else:
                self.create(**spec)
        for number, routes in config.get("routes", {}).items():
            for spec in routes.values():
                table = self.routes.tables.get(number)
                record = table._describe({"dst": spec["dst"]}) if table is not None else None
                if record is not None:
                    record["route"].load(spec)
                else:
                    self.routes.add(spec)
        return self

    def _open_transactions(self) -> list[tuple[Any, Any]]:
        records: list[Any] = [*self.by_name.values()]
        records += [route for table in tuple(self.routes.tables.values()) for route in table]
        records += list(self.rules.values())
        return [(record, record.current_tx) for record in records if record.current_tx is not None]

    def review(self) -> dict[str, Any]:
        """The reviews of all open transactions. Raises TypeError when there is none."""
        result = self._tree(
            (path, item.review()) for path, item in self.items() if item.current_tx is not None
        )
        if not result:
            raise TypeError("no transaction started")
        return result

    def drop(self) -> None:
        """Forget all open transactions. Raises TypeError when there is none."""
        found = self._open_transactions()
        if not found:
            raise TypeError("no transaction started")
        for record, tx in found:
            record.drop(tx.uid)

    def commit(self, transactions: Any = None, phase: int = 1) -> IPDB:
        """Apply all open transactions of this thread, or those given as pairs of object and transaction.

        Those with an `ipdb_priority` come first, the highest before the others; then interfaces, VLANs and tunnels
        after plain ones, bridges and bonds last; then routes and rules. If one fails, all are rolled back and the
        exception of that one is raised. The transactions are closed either way.
        """
        self._check()
        pairs = list(transactions) if transactions is not None else self._open_transactions()

        def rank(pair: tuple[Any, Any]) -> tuple[int, int]:
            record, tx = pair
            priority = tx["ipdb_priority"]
            if priority:
                return 0, -priority
            if not isinstance(record, Interface):
                return 4, 0
            kind = record.get("kind")
            return (2 if kind in late_kinds else 3 if kind in last_kinds else 1), 0

        pairs.sort(key=rank)
        try:
            self._apply(pairs, keep=True)
        except Exception:
            self.fallen = pairs
            raise
        finally:
            for record, tx in pairs:
                if tx.uid in record.global_tx:
                    record.drop(tx.uid)
        return self

    def _apply(self, pairs: list[tuple[Any, Any]], keep: bool = False) -> None:
        """Apply transactions as one: all of them or none."""
        with ExitStack() as locks:
            self._apply_locked(pairs, keep, locks)

    def _apply_locked(self, pairs: list[tuple[Any, Any]], keep: bool, locks: ExitStack) -> None:
        undo = UndoLog()
        errors: list[Exception] = []
        record: Any = None
        reviews = {tx.uid: self._review_of(record, tx) for record, tx in pairs}
        try:
            for record, _ in sorted(pairs, key=lambda pair: id(pair[0])):  # always in one order: no deadlock
                locks.enter_context(record._write_lock)
            for record, tx in pairs:
                if record["ipdb_scope"] in ("detached", "invalid"):
                    if len(pairs) == 1:
                        raise CommitException(f"the object is {record['ipdb_scope']}")
                    continue
                tx.errors.clear()
                record._apply(tx, undo)
                errors.extend(tx.errors)
        except BaseException as cause:
            failures = undo.unwind()
            self._barrier()
            for item, _ in pairs:
                if item["ipdb_scope"] == "system":
                    try:
                        item._reread()
                    except Exception as error:
                        failures.append(error)
            if not isinstance(cause, Exception):
                raise
            raised = exception_of_both(CommitException, cause)
            raised.debug = {"review": reviews[tx.uid], "rollback": failures}  # type: ignore[attr-defined]
            if self.txdrop and not keep and tx.uid in record.global_tx:
                record.drop(tx.uid)
            raise raised from cause
        if not keep:
            for record, tx in pairs:
                if tx.uid in record.global_tx:
                    record.drop(tx.uid)
        if errors:
            partial = PartialCommitException("partial commit error")
            partial.errors = errors
            raise partial

    @staticmethod
    def _review_of(record: Any, tx: Transaction) -> Any:
        return record.review(tx.uid) if tx.uid in record.global_tx else None

    def initdb(self) -> None:
        """Read everything again that is loaded."""
        with self._cond:
            self._resync()
            self._cond.notify_all()

    def release(self) -> None:
        """End the threads, forget everything and close `nl`, unless another database rides on it. Twice is fine.

        Any thread may call it, a signal handler and a finalizer too. Threads that cannot end yet, because the caller
        was interrupted where it holds what they need, or a callback does not return within 5 seconds, end later.
        """
        if self._stop:
            return
        self._stop = True
        if self._pid != os.getpid():
            return
        wait = not self._cond._is_owned()  # type: ignore[attr-defined]  # or the reader may be waiting for this thread
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop(wait)
        thread, self._callback_thread = self._callback_thread, None
        if thread is not None and self._callback_queue is not None:
            self._callback_queue.put(None)
            if wait and thread.is_alive() and threading.current_thread() is not thread:
                thread.join(SYNC_TIMEOUT)
        for source in tuple(self._queues):
            source._put(RuntimeError("the database is released"))
        if wait and self._cond.acquire(timeout=SYNC_TIMEOUT):
            try:
                self._forget()
            finally:
                self._cond.release()
        others = riders.get(self.nl, set())
        others.discard(id(self))
        if not others:
            riders.pop(self.nl, None)
            self.nl.close()

    def _forget(self) -> None:
        self._interfaces.clear()
        self._addresses.clear()
        self._neighbours.clear()
        for table in self._routes.tables.values():
            table.idx.clear()
        dict.clear(self._rules)
        self._cond.notify_all()

    def __enter__(self) -> IPDB:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.release()

    def __del__(self) -> None:
        if "nl" in self.__dict__ and not self._stop and self._pid == os.getpid():
            warnings.warn(f"unreleased {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.release()

    def __repr__(self) -> str:
        return f"<IPDB on {self.nl!r}>"


def ping(host: str) -> None:
    subprocess.run(["ping", "-c", "1", host], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
