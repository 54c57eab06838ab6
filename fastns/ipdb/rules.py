"""IPDB's routing rules."""

from __future__ import annotations

from collections import namedtuple
from socket import AF_INET, AF_INET6
from typing import Any, Protocol

from pyroute2.ipdb import CommitException
from pyroute2.netlink import nlmsg_base
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_NAMES, fibmsg

from fastns.ipdb.records import Database, Record, Transaction, UndoLog
from fastns.ipdb.values import Stable, canonical_destination, message_fields, prefix_length

FWMASK_ALL = 0xFFFFFFFF  # all bits of the mark count, which is what the kernel takes a missing mask for

RuleKey = namedtuple(
    "RuleKey",
    ("action", "table", "priority", "iifname", "oifname", "fwmark", "fwmask", "family", "goto", "tun_id"),
)

rule_dropped = frozenset("attrs header event src_len dst_len res1 res2 __align".split())
rule_arguments = (
    "family table action priority src dst iifname oifname fwmark fwmask goto tun_id tos ip_proto sport_range "
    "dport_range uid_range suppress_prefixlen suppress_ifgroup l3mdev protocol"
).split()


class RuleDatabase(Database, Protocol):
    """What the rules need of their database."""

    @property
    def rules(self) -> Rules: ...


class Rule(Record):
    """A routing rule. The kernel cannot change one: a commit removes the old and adds the new."""

    _known = frozenset({fibmsg.nla2name(row[1]) for row in fibmsg.nla_map} | {row[0] for row in fibmsg.fields})

    _ipdb: RuleDatabase

    @classmethod
    def make_key(cls, rule: Any) -> RuleKey:
        """The key a rule (record, dictionary or message) is kept under."""
        if isinstance(rule, nlmsg_base):
            rule = fields_of_rule(rule)
        values = {field: rule.get(field) or 0 for field in RuleKey._fields}
        values["family"] = int(values["family"])
        if values["fwmark"] and not values["fwmask"]:
            values["fwmask"] = FWMASK_ALL
        return RuleKey(**values)

    def _equal(self, key: str, seen: Any, wanted: Any) -> bool:
        if not seen and not wanted:
            return True
        if key in ("src", "dst"):
            return bool(canonical_destination(seen) == canonical_destination(wanted))
        return super()._equal(key, seen, wanted)

    def load_netlink(self, msg: Any) -> Rule:
        """Change the view itself to what a RTM_NEWRULE message says."""
        with self._ipdb._cond:
            self._load(fields_of_rule(msg))
        return self

    def _load(self, fresh: dict[str, Any]) -> None:
        if dict.get(self, "ipdb_scope") == "locked":
            return
        self.update(fresh)
        self._set_scope("system")

    def _request(self, values: Any = None) -> dict[str, Any]:
        request: dict[str, Any] = {}
        for key in rule_arguments:
            value = values[key] if values is not None and key in values else dict.get(self, key)
            if value is None or (value in (0, FWMASK_ALL) and key not in ("family", "priority", "action")):
                continue
            if key in ("src", "dst") and isinstance(value, str) and "/" in value:
                value, _, length = value.partition("/")
                request[key + "_len"] = prefix_length(length, value)
            request[key] = value
        return request

    def _apply(self, tx: Transaction, undo: UndoLog) -> None:
        ipdb = self._ipdb
        scope = dict.get(tx, "ipdb_scope")
        before = dict(self)
        if self["ipdb_scope"] != "system":
            if scope in ("remove", "shadow"):
                self._forget()
                return
            request = self._request(tx)
            tx._run(ipdb._ask, "rule", "add", **request)
            undo.push(self._set, before, "create")
            undo.push(ipdb._ask, "rule", "del", **request)
            self._wait({**before, **tx})
            return
        changes = tx._changes()
        changes.pop("ipdb_scope", None)
        changes.pop("ipdb_priority", None)
        if changes:
            after = {**before, **changes}
            new = self._request(changes)
            if self.make_key(after) != self.make_key(before) and self.make_key(after) in ipdb.rules:
                raise CommitException("rule priority conflict")
            self._delete(undo, before)
            tx._run(ipdb._ask, "rule", "add", **new)
            undo.push(ipdb._ask, "rule", "del", **new)
            self._wait(after)
        if scope in ("remove", "shadow"):
            self._delete(undo, before)
            if scope == "remove":
                self._forget()
            else:
                with ipdb._cond:
                    self._set_scope("shadow")

    def _delete(self, undo: UndoLog, before: dict[str, Any]) -> None:
        """Remove the rule from the system; taken back, the record has the values of `before` again."""
        ipdb = self._ipdb
        request = self._request()
        with self._locked():
            ipdb._ask("rule", "del", **request)
        ipdb._barrier()  # its message is past while the record is locked
        undo.push(self._set, before, "system")
        undo.push(ipdb._ask, "rule", "add", **request)

    def _set(self, values: dict[str, Any], scope: str) -> None:
        ipdb = self._ipdb
        with ipdb._cond:
            ipdb.rules._forget(self)
            self.clear()
            self.update(values)
            self._set_scope(scope)
            dict.__setitem__(ipdb.rules, self.make_key(self), self)

    def _wait(self, values: dict[str, Any]) -> None:
        ipdb = self._ipdb
        ipdb._barrier()
        with ipdb._cond:
            key = self.make_key(values)
            newcomer = dict.get(ipdb.rules, key)
            ipdb.rules._forget(self)
            if newcomer is not None and newcomer is not self:
                self.update(newcomer)
            self.update({k: v for k, v in values.items() if k != "ipdb_scope"})
            self._set_scope("system")
            dict.__setitem__(ipdb.rules, key, self)

    def _leave(self) -> None:
        self._ipdb.rules._forget(self)

    def _reread(self) -> None:
        pass


def fields_of_rule(msg: Any) -> dict[str, Any]:
    fresh = message_fields(msg, fibmsg, rule_dropped)
    for key in ("src", "dst"):
        if fresh.get(key) is not None:
            fresh[key] = f"{fresh[key]}/{msg[key + '_len']}"
    return fresh


class Rules(Stable):
    """The rules by key; a priority or a dictionary of values finds the first that matches."""

    def __init__(self, ipdb: RuleDatabase) -> None:
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
        return rule._add(lambda: dict.__setitem__(self, rule.make_key(rule), rule))  # type: ignore[no-any-return]

    def load_netlink(self, msg: Any) -> Any:
        """Take over a RTM_NEWRULE or RTM_DELRULE message."""
        with self._ipdb._cond:
            return self._on_rule(msg)

    def _on_rule(self, msg: Any) -> Any:
        fresh = fields_of_rule(msg)
        key = Rule.make_key(fresh)
        rule = dict.get(self, key)
        if msg["event"] == "RTM_DELRULE":
            if rule is not None and rule["ipdb_scope"] == "system":
                dict.__delitem__(self, key)
                rule._set_scope("detached")
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
