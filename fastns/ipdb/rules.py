"""IPDB's routing rules."""

from __future__ import annotations

from collections import namedtuple
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any

from pyroute2.ipdb import CommitException
from pyroute2.netlink import nlmsg_base
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_NAMES, fibmsg

from fastns.ipdb.records import Record, Transaction, _Journal
from fastns.ipdb.values import Stable, _network, _prefixlen

if TYPE_CHECKING:
    from fastns.ipdb import IPDB


RuleKey = namedtuple(
    "RuleKey",
    ("action", "table", "priority", "iifname", "oifname", "fwmark", "fwmask", "family", "goto", "tun_id"),
)

_rule_dropped = frozenset("attrs header event src_len dst_len res1 res2 __align".split())
_rule_request = (
    "family table action priority src dst iifname oifname fwmark fwmask goto tun_id tos ip_proto sport_range "
    "dport_range uid_range suppress_prefixlen suppress_ifgroup l3mdev protocol"
).split()


class Rule(Record):
    """A routing rule. The kernel cannot change one: a commit removes the old and adds the new."""

    _known = frozenset({fibmsg.nla2name(row[1]) for row in fibmsg.nla_map} | {row[0] for row in fibmsg.fields})

    @classmethod
    def make_key(cls, rule: Any) -> RuleKey:
        """The key a rule (record, dictionary or message) is kept under."""
        if isinstance(rule, nlmsg_base):
            rule = _rule_fields(rule)
        values = [rule.get(field) or 0 for field in RuleKey._fields]
        values[7] = int(values[7])
        if values[5] and not values[6]:
            values[6] = 0xFFFFFFFF
        return RuleKey(*values)

    def _equal(self, key: str, seen: Any, wanted: Any) -> bool:
        if not seen and not wanted:
            return True
        if key in ("src", "dst"):
            return bool(_network(seen) == _network(wanted))
        return super()._equal(key, seen, wanted)

    def load_netlink(self, msg: Any) -> Rule:
        """Change the view itself to what a RTM_NEWRULE message says."""
        with self._lock():
            self._load(_rule_fields(msg))
        return self

    def _load(self, fresh: dict[str, Any]) -> None:
        if dict.get(self, "ipdb_scope") == "locked":
            return
        self.update(fresh)
        dict.__setitem__(self, "ipdb_scope", "system")

    def _request(self, values: Any = None) -> dict[str, Any]:
        request: dict[str, Any] = {}
        for key in _rule_request:
            value = values[key] if values is not None and key in values else dict.get(self, key)
            if value is None or (value in (0, 0xFFFFFFFF) and key not in ("family", "priority", "action")):
                continue
            if key in ("src", "dst") and isinstance(value, str) and "/" in value:
                value, _, length = value.partition("/")
                request[key + "_len"] = _prefixlen(length, value)
            request[key] = value
        return request

    def _apply(self, tx: Transaction, journal: _Journal) -> None:
        ipdb = self._ipdb
        assert ipdb is not None
        scope = dict.get(tx, "ipdb_scope")
        there = self["ipdb_scope"] == "system"
        if not there:
            if scope in ("remove", "shadow"):
                self._forget()
                return
            values = dict(self)
            request = self._request(tx)
            tx._run(ipdb._ask, "rule", "add", **request)
            journal.push(self._set, values, "create")
            journal.push(ipdb._ask, "rule", "del", **request)
            self._wait({**values, **tx})
            return
        before = dict(self)
        changes = tx._changes()
        changes.pop("ipdb_scope", None)
        changes.pop("ipdb_priority", None)
        old = self._request()
        if changes:
            after = {**before, **changes}
            new = self._request(changes)
            if self.make_key(after) != self.make_key(before) and self.make_key(after) in ipdb.rules:
                raise CommitException("rule priority conflict")
            self._delete(old)
            journal.push(self._set, before, "system")
            journal.push(ipdb._ask, "rule", "add", **old)
            tx._run(ipdb._ask, "rule", "add", **new)
            journal.push(ipdb._ask, "rule", "del", **new)
            self._wait(after)
        if scope in ("remove", "shadow"):
            old = self._request()
            self._delete(old)
            journal.push(self._set, before, "system")
            journal.push(ipdb._ask, "rule", "add", **old)
            ipdb._barrier()
            if scope == "remove":
                self._forget()
            else:
                with ipdb._cond:
                    dict.__setitem__(self, "ipdb_scope", "shadow")

    def _delete(self, request: dict[str, Any]) -> None:
        ipdb = self._ipdb
        assert ipdb is not None
        with ipdb._cond:
            dict.__setitem__(self, "ipdb_scope", "locked")
        try:
            ipdb._ask("rule", "del", **request)
        except Exception:
            with ipdb._cond:
                dict.__setitem__(self, "ipdb_scope", "system")
            raise
        ipdb._barrier()  # its message is past while the record is locked

    def _set(self, values: dict[str, Any], scope: str) -> None:
        ipdb = self._ipdb
        assert ipdb is not None
        with ipdb._cond:
            ipdb.rules._forget(self)
            self.clear()
            self.update(values)
            dict.__setitem__(self, "ipdb_scope", scope)
            dict.__setitem__(ipdb.rules, self.make_key(self), self)

    def _wait(self, values: dict[str, Any]) -> None:
        ipdb = self._ipdb
        assert ipdb is not None
        ipdb._barrier()
        with ipdb._cond:
            key = self.make_key(values)
            newcomer = dict.get(ipdb.rules, key)
            ipdb.rules._forget(self)
            if newcomer is not None and newcomer is not self:
                self.update(newcomer)
            self.update({k: v for k, v in values.items() if k != "ipdb_scope"})
            dict.__setitem__(self, "ipdb_scope", "system")
            dict.__setitem__(ipdb.rules, key, self)

    def _forget(self) -> None:
        if self._ipdb is not None:
            with self._ipdb._cond:
                self._ipdb.rules._forget(self)
                super()._forget()

    def _reread(self) -> None:
        pass


def _rule_fields(msg: Any) -> dict[str, Any]:
    fresh: dict[str, Any] = {key: value for key, value in msg.items() if key not in _rule_dropped}
    for cell in msg["attrs"]:
        name = fibmsg.nla2name(cell[0])
        if name not in _rule_dropped:
            fresh[name] = cell[1]
    for key in ("src", "dst"):
        if fresh.get(key) is not None:
            fresh[key] = f"{fresh[key]}/{msg[key + '_len']}"
    return fresh


class Rules(Stable):
    """The rules by key; a priority or a dictionary of values finds the first that matches."""

    def __init__(self, ipdb: IPDB) -> None:
        super().__init__()
        self._ipdb = ipdb

    def __getitem__(self, key: Any) -> Any:
        found = self._find(key)
        if found is None:
            self._ipdb._barrier()
            found = self._find(key)
        if found is None:
            raise KeyError(key)
        return found

    def _find(self, key: Any) -> Any:
        if isinstance(key, tuple):
            return dict.get(self, key)
        for rule in tuple(self.values()):
            if isinstance(key, int):
                if (rule.get("priority") or 0) == key:
                    return rule
            elif isinstance(key, dict) and all(rule._equal(k, rule.get(k), v) for k, v in key.items()):
                return rule
        return None

    def add(self, spec: dict[str, Any] | None = None, **kwarg: Any) -> Rule:
        """A new rule, made by its `commit()`."""
        ipdb = self._ipdb
        ipdb._check()
        spec = {key: value for key, value in {**(spec or {}), **kwarg}.items() if value is not None}
        spec.setdefault("priority", 32000)
        if "action" not in spec:
            if "table" in spec:
                spec["action"] = FR_ACT_NAMES["FR_ACT_TO_TBL"]
            elif "goto" in spec:
                spec["action"] = FR_ACT_NAMES["FR_ACT_GOTO"]
        if "family" not in spec:
            spec["family"] = AF_INET6 if ":" in f"{spec.get('src')}{spec.get('dst')}" else AF_INET
        rule = Rule(ipdb, mode="snapshot")
        rule.update(spec)
        dict.__setitem__(rule, "ipdb_scope", "create")
        rule._mode = ipdb.mode
        with ipdb._cond:
            dict.__setitem__(self, rule.make_key(rule), rule)
        if ipdb.mode == "direct":
            rule._at_once()
        else:
            rule.begin()
        return rule

    def load_netlink(self, msg: Any) -> Any:
        """Take over a RTM_NEWRULE or RTM_DELRULE message."""
        with self._ipdb._cond:
            return self._on_rule(msg)

    def _on_rule(self, msg: Any) -> Any:
        fresh = _rule_fields(msg)
        key = Rule.make_key(fresh)
        rule = dict.get(self, key)
        if msg["event"] == "RTM_DELRULE":
            if rule is not None and rule["ipdb_scope"] == "system":
                dict.__delitem__(self, key)
                dict.__setitem__(rule, "ipdb_scope", "detached")
            return None
        if rule is None:
            rule = Rule(self._ipdb)
            dict.__setitem__(self, key, rule)
        rule._load(fresh)
        return rule

    def _forget(self, rule: Rule) -> None:
        for key, known in tuple(self.items()):
            if known is rule:
                dict.__delitem__(self, key)
