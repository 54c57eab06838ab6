"""IPDB's routes."""

from __future__ import annotations

import errno
from collections import namedtuple
from collections.abc import Iterator
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any, Protocol

from pyroute2.common import AF_MPLS
from pyroute2.ipdb import CommitException, CreateException
from pyroute2.netlink import nlmsg_base, rtnl
from pyroute2.netlink.rtnl import encap_type, rt_proto, rt_scope, rt_type
from pyroute2.netlink.rtnl.rtmsg import IP6_RT_PRIO_USER, LWTUNNEL_ENCAP_MPLS, rtmsg

from fastns.ipdb.exceptions import tolerated
from fastns.ipdb.links import Interface
from fastns.ipdb.records import Database, NestedFields, Record, Transaction, UndoLog
from fastns.ipdb.values import NextHopSet, canonical_destination, canonical_encap, labels_text, message_fields
from fastns.schema import constant

TABLE_MAIN = constant(rtnl, "RT_TABLE_MAIN")
TABLE_LOCAL = constant(rtnl, "RT_TABLE_LOCAL")
RTM_F_CLONED = constant(rtnl, "RTM_F_CLONED")  # a cached copy, not a route

RouteKey = namedtuple("RouteKey", ("dst", "table", "family", "priority", "tos"))

route_dropped = frozenset("attrs header event cacheinfo __align".split())
route_arguments = (
    "family dst table priority tos scope type proto oif iif gateway prefsrc src via newdst encap encap_type flow "
    "metrics multipath pref ttl_propagate mark nh_id"
).split()


class RouteDatabase(Database, Protocol):
    """What the routes need of their database."""

    _ignore_rtables: frozenset[int]

    @property
    def routes(self) -> Routes: ...


class Route(Record):
    """A route. `metrics` and `encap` are dictionaries of their own, `multipath` is the set of next hops."""

    _sets = ("multipath",)
    _nested = ("metrics", "encap", "via")
    _known = frozenset(
        {rtmsg.nla2name(row[0]) for row in rtmsg.nla_map} | {row[0] for row in rtmsg.fields} | {"removal"}
    ) - {"unspec"}

    _ipdb: RouteDatabase

    def __init__(self, ipdb: RouteDatabase, mode: str | None = None) -> None:
        super().__init__(ipdb, mode)
        for name in self._nested[:2]:
            dict.__setitem__(self, name, NestedFields(self, name))

    def _new_set(self, name: str) -> Any:
        return NextHopSet(changed=self._ipdb._cond)

    @classmethod
    def make_key(cls, route: Any) -> Any:
        """The key a route (record, dictionary or message) is kept under in its table."""
        if isinstance(route, nlmsg_base):
            route = fields_of_route(route)
        family = int(route.get("family") or AF_INET)
        if family == AF_MPLS:
            return route.get("dst")
        return RouteKey(
            canonical_destination(route.get("dst") or "default"),
            route.get("table") or TABLE_MAIN,
            family,
            route.get("priority") or None,
            (route.get("tos") or 0) if family == AF_INET else None,
        )

    def _equal(self, key: str, seen: Any, wanted: Any) -> bool:
        if key in ("metrics", "encap"):
            return without_none(seen) == without_none(wanted)
        if key in ("dst", "src"):
            return bool(canonical_destination(seen) == canonical_destination(wanted))
        if key in ("gateway", "prefsrc") and isinstance(seen, str) and isinstance(wanted, str):
            try:
                return ip_address(seen) == ip_address(wanted)
            except ValueError:
                return False
        if not seen and not wanted:
            return True
        return super()._equal(key, seen, wanted)

    def _normal(self, key: str, value: Any) -> Any:
        return canonical_route_value(key, value)

    def __setitem__(self, key: Any, value: Any) -> None:
        if key == "multipath" and self._mode != "snapshot":

            def put(tx: Transaction) -> None:
                wanted = NextHopSet(value)
                for hop in dict.__getitem__(self, "multipath"):
                    if hop not in wanted:
                        tx._exclude("multipath", NextHopSet._key(hop))
                for hop in wanted:
                    tx._include("multipath", NextHopSet._key(hop), hop)

            self._change(put)
            return
        super().__setitem__(key, value)

    def add_nh(self, hop: dict[str, Any]) -> Any:
        """Add a next hop; a plain route becomes a multipath one with its own gateway first. Returns the route."""

        def put(tx: Transaction) -> None:
            if not len(tx["multipath"]):
                first = {key: tx[key] for key in ("oif", "gateway", "newdst", "via") if tx[key]}
                encap = without_none(tx["encap"])
                if encap:
                    first["encap"] = encap
                if first:
                    tx._later.append(("first", first))
            tx._later.append(("add", dict(hop)))

        return self._change(put)

    def del_nh(self, hop: dict[str, Any]) -> Any:
        """Remove a next hop; with one left the route is a plain one again. Returns the route.

        Raises KeyError when the route has no such next hop.
        """

        def put(tx: Transaction) -> None:
            hops = self._hops(tx)
            if not len(hops):
                raise KeyError("attempt to delete nexthop from non-multipath route")
            hops.remove(hop)
            tx._later.append(("del", dict(hop)))

        return self._change(put)

    def _hops(self, tx: Transaction) -> NextHopSet:
        """The next hops the route shall have."""
        hops = NextHopSet(dict.__getitem__(self, "multipath"))
        for key, hop in tx._in["multipath"].items():
            hops.add(hop if hop is not None else {"gateway": key.gateway, "oif": key.oif})
        for key in tx._out["multipath"]:
            hops.discard(key)
        for what, hop in tx._later:
            if what == "first":
                if not len(hops):
                    hops.add(hop)
            elif what == "add":
                hops.add(hop)
            else:
                hops.discard(hop)
        return hops

    def review(self, tid: Any = None) -> dict[str, Any]:
        tx = self.last() if tid is None else self.global_tx[tid]
        later, tx._later = tx._later, []
        try:
            result = super().review(tx.uid)
        finally:
            tx._later = later
        before = NextHopSet(dict.__getitem__(self, "multipath"))
        after = self._hops(tx)
        result["+multipath"] = NextHopSet(hop for hop in after if hop not in before)
        if self["ipdb_scope"] != "create":
            result["-multipath"] = NextHopSet(hop for hop in before if hop not in after)
        return result

    def load_netlink(self, msg: Any) -> None:
        """Change the view itself to what a RTM_NEWROUTE message says."""
        with self._ipdb._cond:
            self._load(fields_of_route(msg))

    def _load(self, fresh: dict[str, Any]) -> None:
        if dict.get(self, "ipdb_scope") == "locked":
            return
        for key in tuple(self):
            if key not in fresh and key not in ("ipdb_scope", "ipdb_priority"):
                dict.__delitem__(self, key)
        for key, value in fresh.items():
            dict.__setitem__(self, key, self._wrap(key, value))
        self._set_scope("system")

    def _request(self, values: Any = None) -> dict[str, Any]:
        """The arguments of a request that makes this route, `values` overlaid."""
        request: dict[str, Any] = {}
        for key in route_arguments:
            value = values[key] if values is not None and key in values else dict.get(self, key)
            if isinstance(value, NextHopSet):
                value = [{k: v for k, v in hop.items() if v is not None} for hop in value]
            elif isinstance(value, (NestedFields, dict)):
                value = without_none(value)
            if value is None or (value == 0 and key in ("priority", "tos", "flow")) or value in ({}, []):
                continue
            request[key] = value
        if "encap" in request:
            request.pop("encap_type", None)
        if request.get("multipath"):
            for key in ("gateway", "oif", "via"):
                request.pop(key, None)
        if request.get("family") == AF_MPLS:
            for key in ("table", "priority", "tos", "metrics", "prefsrc"):
                request.pop(key, None)
        return request

    def _aim(self, tx: Transaction, target: Record) -> None:
        for key in route_arguments:
            if key != "multipath" and not self._equal(key, self[key], target[key]):
                value = target[key]
                dict.__setitem__(tx, key, dict(value) if isinstance(value, NestedFields) else value)
        hops = target["multipath"]
        for hop in self["multipath"]:
            if hop not in hops:
                tx._later.append(("del", hop))
        for hop in hops:
            tx._later.append(("add", hop))

    def _apply(self, tx: Transaction, undo: UndoLog) -> None:
        scope = dict.get(tx, "ipdb_scope")
        there = self["ipdb_scope"] == "system"
        if not there:
            if scope in ("remove", "shadow"):
                self._forget()
                return
            self._make(tx, undo)
        else:
            before = self.pick()
            changes = tx._changes()
            changes.pop("ipdb_scope", None)
            changes.pop("ipdb_priority", None)
            hops = self._hops(tx)
            if changes or hops != dict.__getitem__(self, "multipath"):
                self._replace(tx, undo, before, changes, hops)
            for hook in self._commit_hooks:
                hook(self.dump(), before.dump(), {**self.dump(), **changes})
        if there and scope in ("remove", "shadow"):
            self._unmake(tx, undo, scope)

    def _make(self, tx: Transaction, undo: UndoLog) -> None:
        ipdb = self._ipdb
        old_key = self.make_key(self)
        request = self._request({**tx, "multipath": self._hops(tx)})
        self._single(request)
        shadow = dict(self)
        undo.push(self._restore_scope, "create", shadow)
        with ipdb._cond:
            # from here on the message about the new route finds this record
            ipdb.routes._move(self, old_key, request)
            self.update({key: self._wrap(key, value) for key, value in request.items()})
        try:
            tx._run(ipdb._ask, "route", "add", **request)
        except Exception:
            with ipdb._cond:
                ipdb.routes._move(self, self.make_key(request), shadow)
            raise
        undo.push(self._delete, request)
        self._wait(request)

    def _wrap(self, key: str, value: Any) -> Any:
        if key in self._nested:
            return NestedFields(self, key, value)
        if key == "multipath":
            return NextHopSet(value, self._ipdb._cond)
        return value

    @staticmethod
    def _single(request: dict[str, Any]) -> None:
        """A multipath route of one hop is a plain route to the kernel."""
        hops = request.get("multipath")
        if hops and len(hops) == 1:
            del request["multipath"]
            for key in ("gateway", "oif", "via", "newdst", "encap"):
                if hops[0].get(key):
                    request[key] = hops[0][key]

    def _restore_scope(self, scope: str, values: dict[str, Any]) -> None:
        ipdb = self._ipdb
        with ipdb._cond:
            key = self.make_key(self)
            self.clear()
            self.update(values)
            self._set_scope(scope)
            ipdb.routes._move(self, key, values)

    def _replace(
        self, tx: Transaction, undo: UndoLog, before: Record, changes: dict[str, Any], hops: NextHopSet
    ) -> None:
        ipdb = self._ipdb
        old = self._request()
        new = self._request({**changes, "multipath": hops})
        self._single(new)
        if len(hops) < 2 and not len(hops) and not changes.get("gateway") and len(before["multipath"]):
            new.pop("multipath", None)
        old_key, new_key = self.make_key(old), self.make_key(new)
        if old_key == new_key:
            tx._run(ipdb._ask, "route", "replace", **new)
            undo.push(ipdb._ask, "route", "replace", **old)
        else:
            if ipdb.routes._known(new):
                raise CommitException("route idx conflict")
            self._rekey(old_key, new)  # first, so that the message about the new route finds this record
            undo.push(self._rekey, new_key, old)
            tx._run(ipdb._ask, "route", "add", **new)
            undo.push(self._delete, new)
            self._delete(old)
            undo.push(ipdb._ask, "route", "add", **old)
        undo.push(self._reread)
        self._wait(new)

    def _rekey(self, key: Any, values: dict[str, Any]) -> None:
        with self._ipdb._cond:
            self._ipdb.routes._move(self, key, values)

    def _wait(self, request: dict[str, Any]) -> None:
        ipdb = self._ipdb

        def done() -> bool:
            if dict.get(self, "ipdb_scope") != "system":
                return False
            for key, value in request.items():
                if key == "multipath":
                    if len(dict.__getitem__(self, "multipath")) != len(value):
                        return False
                elif key not in ("encap", "type", "proto", "scope") and not self._equal(key, self[key], value):
                    return False
            return "multipath" in request or not len(dict.__getitem__(self, "multipath"))

        ipdb._settle(done, self._reread)

    def _delete(self, request: dict[str, Any]) -> None:
        # neither gateways nor metrics: what is asked for must be found though its next hops have changed meanwhile
        keys = ("family", "dst", "table", "priority", "tos", "scope", "type")
        spec = {key: request[key] for key in keys if key in request}
        if request.get("family") == AF_MPLS:
            spec = {"family": AF_MPLS, "dst": request["dst"]}
        self._ipdb._ask("route", "del", **spec)

    def _unmake(self, tx: Transaction, undo: UndoLog, scope: str) -> None:
        ipdb = self._ipdb
        request = self._request()
        values = dict(self)
        with tolerated(errno.ESRCH), self._locked():
            self._delete(request)
        ipdb._barrier()
        with ipdb._cond:
            if scope == "shadow":
                self._set_scope("shadow")
            else:
                self._forget()
        undo.push(self._undo_unmake, request, values)

    def _undo_unmake(self, request: dict[str, Any], values: dict[str, Any]) -> None:
        ipdb = self._ipdb
        with ipdb._cond:
            self._set_scope("shadow")
            ipdb.routes._move(self, None, values)
        ipdb._ask("route", "add", **request)
        self._wait(request)

    def _reread(self) -> None:
        ipdb = self._ipdb
        if dict.get(self, "family") == AF_MPLS:
            query: dict[str, Any] = {"family": AF_MPLS}
        else:
            query = {"family": int(self["family"] or AF_INET), "table": self["table"] or TABLE_MAIN}
        key = self.make_key(self)
        for msg in ipdb._ask("get_routes", **query):
            if self.make_key(msg) == key:
                with ipdb._cond:
                    if self["ipdb_scope"] in ("create", "shadow", "system"):
                        self._load(fields_of_route(msg))
                        ipdb._cond.notify_all()
                return

    def _leave(self) -> None:
        self._ipdb.routes._forget(self)

    detach = Record._forget


def without_none(values: Any) -> dict[str, Any]:
    return {key: value for key, value in (values or {}).items() if value is not None}


def canonical_route_value(key: str, value: Any) -> Any:
    """A value of a route as the kernel spells it."""
    names = {"type": rt_type, "proto": rt_proto, "scope": rt_scope, "encap_type": encap_type}.get(key)
    if names is not None and isinstance(value, str):
        return names.get(value, value)
    if key == "dst":
        return canonical_destination(value)
    if key in ("oif", "iif") and isinstance(value, Interface):
        return value["index"]
    return canonical_encap(value) if key == "encap" else value


def fields_of_route(msg: Any) -> dict[str, Any]:
    """The fields of a RTM_NEWROUTE message, or of one of its next hops."""
    fresh = message_fields(msg, rtmsg, route_dropped)
    mpls = fresh.get("family") == AF_MPLS
    top = "dst_len" in fresh
    if top:
        dst = fresh.get("dst")
        if mpls:
            fresh["dst"] = dst[0]["label"] if dst else dst
        else:
            fresh["dst"] = f"{dst}/{fresh['dst_len']}" if dst is not None else "default"
        if fresh.get("src") is not None:
            fresh["src"] = f"{fresh['src']}/{fresh['src_len']}"
        fresh["table"] = fresh.get("table") or TABLE_MAIN
        metrics = fresh.get("metrics")
        fresh["metrics"] = (
            {rtmsg.metrics.nla2name(cell[0]): cell[1] for cell in metrics["attrs"]} if metrics is not None else {}
        )
        fresh["multipath"] = [fields_of_route(hop) for hop in fresh.get("multipath") or ()]
    encap = fresh.pop("encap", None)
    kind = fresh.pop("encap_type", None)
    if hasattr(encap, "get_attr") and encap.get_attr("MPLS_IPTUNNEL_DST"):
        fresh["encap"] = {"type": kind or LWTUNNEL_ENCAP_MPLS, "labels": labels_text(encap.get_attr("MPLS_IPTUNNEL_DST"))}
    elif encap is not None:
        fresh["encap"] = {"type": kind, "value": encap}
    elif top:
        fresh["encap"] = {}
    newdst = fresh.get("newdst")
    if isinstance(newdst, (list, tuple)):
        fresh["newdst"] = [item["label"] if isinstance(item, dict) else item for item in newdst]
    return fresh


class RoutingTable:
    """One routing table. `idx` maps keys to `{"key": key, "route": route}`."""

    def __init__(self, ipdb: RouteDatabase, number: Any = TABLE_MAIN) -> None:
        self._ipdb = ipdb
        self._number = number
        self.idx: dict[Any, dict[str, Any]] = {}

    def _records(self) -> list[dict[str, Any]]:
        with self._ipdb._cond:
            return list(self.idx.values())

    def __len__(self) -> int:
        return len(self.idx)

    def __iter__(self) -> Iterator[Route]:
        return iter([record["route"] for record in self._records()])

    def __repr__(self) -> str:
        return repr(list(self))

    def keys(self, key: str = "dst") -> list[Any]:
        """The destinations of all routes."""
        return [route[key] for route in self]

    def items(self) -> Iterator[tuple[Any, Route]]:
        """Pairs of destination and route."""
        for route in self:
            yield route["dst"], route

    def filter(self, target: Any, oneshot: bool = False) -> list[dict[str, Any]]:
        """The `{"key": …, "route": …}` of all routes for which `target` holds: a destination, a dictionary of
        values, or a function of such a dictionary.
        """
        if callable(target):
            return [record for record in self._records() if target(record)]
        if isinstance(target, str):
            target = {"dst": target}
        if not isinstance(target, dict):
            raise TypeError(f"target type not supported: {type(target)}")
        wanted = {key: canonical_route_value(key, value) for key, value in target.items()}
        result = []
        for record in self._records():
            route = record["route"]
            if all(key in route and route._equal(key, route[key], value) for key, value in wanted.items()):
                result.append(record)
                if oneshot:
                    break
        return result

    def describe(self, target: Any, forward: bool = False) -> dict[str, Any]:
        """The first `{"key": …, "route": …}` for a destination, key, position, message or dictionary of values.

        Raises KeyError when there is none.
        """
        found = self._describe(target)
        if found is None:
            self._ipdb._barrier()
            found = self._describe(target)
        if found is None:
            raise KeyError(f"record not found: {target!r}")
        return found

    def _describe(self, target: Any) -> dict[str, Any] | None:
        if isinstance(target, int):
            records = self._records()
            return records[target] if target < len(records) else None
        if isinstance(target, (tuple, list)):
            return self.idx.get(RouteKey(*target))
        if isinstance(target, nlmsg_base):
            return self.idx.get(Route.make_key(target))
        if isinstance(target, str):  # the usual keys first
            dst = canonical_destination(target)
            for family, priority, tos in ((AF_INET, None, 0), (AF_INET6, IP6_RT_PRIO_USER, None)):
                record = self.idx.get(RouteKey(dst, self._number, int(family), priority, tos))
                if record is not None:
                    return record
        found = self.filter(target, oneshot=True)
        return found[0] if found else None

    def __getitem__(self, target: Any) -> Route:
        return self.describe(target)["route"]  # type: ignore[no-any-return]

    def __contains__(self, target: object) -> bool:
        try:
            self.describe(target)
        except KeyError:
            return False
        return True


class MPLSTable(RoutingTable):
    """The MPLS routes, by label."""

    def _describe(self, target: Any) -> dict[str, Any] | None:
        if isinstance(target, int):
            return self.idx.get(target)
        return super()._describe(target)


class Routes:
    """The routes: items are those of the main table, `tables[n]` has the others."""

    def __init__(self, ipdb: RouteDatabase) -> None:
        self._ipdb = ipdb
        self.tables: dict[Any, RoutingTable] = {TABLE_MAIN: RoutingTable(ipdb)}

    @property
    def table(self) -> dict[Any, RoutingTable]:
        """The same as `tables`."""
        return self.tables

    def add(self, spec: dict[str, Any] | None = None, **kwarg: Any) -> Route:
        """A new route, made by its `commit()`. `table`, `family` and, for IPv6, `priority` have the usual defaults.

        Raises ValueError without `dst`, CreateException when there is a route of that key.
        """
        ipdb = self._ipdb
        ipdb._check()
        spec = {key: canonical_route_value(key, value) for key, value in {**(spec or {}), **kwarg}.items() if value is not None}
        dst, gateway = spec.get("dst"), spec.get("gateway") or ""
        if dst is None or dst == "":
            raise ValueError("dst not specified")
        if "family" not in spec:
            six = ":" in str(dst) or ":" in gateway
            hops = spec.get("multipath") or ()
            six = six or any(":" in (hop.get("gateway") or "") for hop in hops)
            spec["family"] = AF_INET6 if six else AF_INET
        spec["family"] = int(spec["family"])
        if spec["family"] != AF_MPLS:
            spec.setdefault("table", TABLE_MAIN)
            spec.setdefault("tos", 0)
            spec.setdefault("scope", 0)
            if spec["family"] == AF_INET6:
                spec.setdefault("priority", IP6_RT_PRIO_USER)
        route = Route(ipdb, mode="snapshot")
        for key, value in spec.items():
            if key == "multipath":
                for hop in value:
                    dict.__getitem__(route, "multipath").add(hop)
            else:
                dict.__setitem__(route, key, route._wrap(key, value))

        def enter() -> None:
            if self._known(route):
                raise CreateException(f"route exists: {route.make_key(route)}")
            self._move(route, None, route)

        return route._add(enter)  # type: ignore[no-any-return]

    def _table(self, values: Any) -> RoutingTable:
        number = "mpls" if values.get("family") == AF_MPLS else values.get("table") or TABLE_MAIN
        table = self.tables.get(number)
        if table is None:
            table = self.tables[number] = (MPLSTable if number == "mpls" else RoutingTable)(
                self._ipdb, number
            )
        return table

    def _known(self, values: Any) -> bool:
        record = self._table(values).idx.get(Route.make_key(values))
        return record is not None and record["route"]["ipdb_scope"] in ("system", "create")

    def _move(self, route: Route, old_key: Any, values: Any) -> None:
        if old_key is not None:
            for table in self.tables.values():
                record = table.idx.get(old_key)
                if record is not None and record["route"] is route:
                    del table.idx[old_key]
        key = Route.make_key(values)
        self._table(values).idx[key] = {"key": key, "route": route}

    def _forget(self, route: Route) -> None:
        for table in self.tables.values():
            for key, record in tuple(table.idx.items()):
                if record["route"] is route:
                    del table.idx[key]

    def load_netlink(self, msg: Any) -> None:
        """Take over a RTM_NEWROUTE or RTM_DELROUTE message."""
        with self._ipdb._cond:
            self._on_route(msg)

    def _on_route(self, msg: Any) -> Any:
        if msg["family"] not in (AF_INET, AF_INET6, AF_MPLS):
            return None
        fresh = fields_of_route(msg)
        number = "mpls" if fresh["family"] == AF_MPLS else fresh["table"]
        if number in self._ipdb._ignore_rtables or fresh.get("flags", 0) & RTM_F_CLONED:
            return None
        key = Route.make_key(fresh)
        table = self._table(fresh)
        record = table.idx.get(key)
        if msg["event"] == "RTM_DELROUTE":
            if record is not None:
                self._off_route(table, key, record["route"], fresh)
            return None
        if record is None:
            record = table.idx[key] = {"key": key, "route": Route(self._ipdb)}
        record["route"]._load(fresh)
        return record["route"]

    def _off_route(self, table: RoutingTable, key: Any, route: Route, gone: dict[str, Any]) -> None:
        if route["ipdb_scope"] != "system":
            return
        if len(dict.__getitem__(route, "multipath")) and not gone["multipath"] and gone["family"] == AF_INET6:
            # one hop of several
            dict.__getitem__(route, "multipath").discard(gone)
            if len(dict.__getitem__(route, "multipath")):
                return
        elif not gone["multipath"] and not (
            route._equal("gateway", route["gateway"], gone.get("gateway"))
            and route._equal("oif", route["oif"], gone.get("oif"))
        ):
            return  # another one under the same key (ip route append)
        del table.idx[key]
        route._set_scope("detached")

    def filter(self, target: Any) -> list[dict[str, Any]]:
        """`RoutingTable.filter()` over all tables."""
        return [record for table in tuple(self.tables.values()) for record in table.filter(target)]

    def describe(self, spec: Any, table: Any = TABLE_MAIN) -> dict[str, Any]:
        """See `RoutingTable.describe`."""
        return self.tables[table].describe(spec)

    def get(self, dst: Any, table: Any = None) -> Route:
        """The route to `dst` in a table, the main one by default. Raises KeyError."""
        if table is None and isinstance(dst, dict):
            table = dst.get("table")
        return self.tables[table or TABLE_MAIN][dst]

    def keys(self, table: Any = TABLE_MAIN, family: int = 0) -> list[Any]:
        """The destinations in a table."""
        return [route["dst"] for route in self.tables[table] if not family or route["family"] == family]

    def has_key(self, key: Any, table: Any = TABLE_MAIN) -> bool:
        """Whether a table has a route to `key`."""
        return key in self.tables[table]

    def remove(self, route: Any, table: Any = None) -> Any:
        """Mark a route for removal; returns it."""
        if isinstance(route, Route):
            return route.remove()
        return self.tables[table or TABLE_MAIN][route].remove()

    def __contains__(self, key: object) -> bool:
        return key in self.tables[TABLE_MAIN]

    def __iter__(self) -> Iterator[Route]:
        return iter(self.tables[TABLE_MAIN])

    def __len__(self) -> int:
        return len(self.tables[TABLE_MAIN])

    def __getitem__(self, key: Any) -> Route:
        return self.get(key)

    def __setitem__(self, key: Any, value: dict[str, Any]) -> None:
        if key != value["dst"]:
            raise ValueError("dst doesn't match key")
        self.add(value)

    def __delitem__(self, key: Any) -> None:
        self.remove(key)

    def __repr__(self) -> str:
        return repr(self.tables[TABLE_MAIN])
