"""An interface of IPDB."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from pyroute2.config import AF_BRIDGE
from pyroute2.ipdb import CommitException, CreateException
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_SECONDARY
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from fastns.ipdb.exceptions import create_failure, tolerated
from fastns.ipdb.link_fields import (
    address_of,
    bridge_port_fields,
    bridge_settable,
    bridge_times,
    fields_of_kind,
    link_dropped,
    link_identity,
    link_readonly,
    link_virtual,
    vlan_info_of,
)
from fastns.ipdb.records import Database, Record, Transaction, UndoLog, log
from fastns.ipdb.values import AddressSet, LinkedSet, address_key, message_fields


class Siblings(Protocol):
    """The interfaces of a database, as one of them sees them."""

    def get(self, key: Any, default: Any = None) -> Any: ...
    def _lookup(self, key: Any) -> bool: ...
    def _named(self, ifname: str) -> Any: ...
    def _rename(self, device: Any, ifname: str) -> None: ...
    def _put(self, device: Any, ifname: str) -> None: ...
    def _forget_keys(self, device: Any) -> None: ...
    def _detach(self, device: Any) -> None: ...
    def _drop(self, index: int) -> None: ...
    def _on_link(self, msg: Any) -> Any: ...
    def _reread_vlans(self) -> None: ...


class LinkDatabase(Database, Protocol):
    """What an interface needs of its database."""

    @property
    def interfaces(self) -> Siblings: ...

    def register_callback(self, callback: Callable[[Any, Any, str], Any]) -> Any: ...
    def unregister_callback(self, cuid: Any) -> Any: ...
    def ensure(self, cmd: str) -> Any: ...
    def _addresses_of(self, index: int) -> AddressSet: ...
    def _neighbours_of(self, index: int) -> LinkedSet: ...
    def _unlink(self, index: int | None) -> None: ...
    def _on_address(self, msg: Any) -> Any: ...
    def _routes_by(self, index: int) -> list[dict[str, Any]]: ...
    def _restore_routes(self, requests: list[dict[str, Any]]) -> None: ...


class Interface(Record):
    """A network interface with its addresses (`ipaddr`), ports (`ports`), VLANs (`vlans`) and neighbours."""

    _sets = ("ipaddr", "ports", "vlans")
    _known = frozenset(
        {ifinfmsg.nla2name(row[0]) for row in ifinfmsg.nla_map}
        | {field for kind in ifinfmsg.ifinfo.data_map for field in fields_of_kind(kind)}
        | {"index", "flags", "state", "kind", "peer", "vlan_id", "vlan_protocol", "vlan_flags", "bond_mode", "family"}
        | {"net_ns_fd", "net_ns_pid", "ifi_type", "neighbours"}
    )

    _ipdb: LinkDatabase

    def __init__(self, ipdb: LinkDatabase, mode: str | None = None) -> None:
        super().__init__(ipdb, mode)
        self._freeze: Any = None
        self._frozen: Any = None
        self._gone = False
        self._making = False
        self._spec: dict[str, Any] = {}
        self._deferred: dict[str, Any] = {}

    def _new_set(self, name: str) -> Any:
        return (AddressSet if name == "ipaddr" else LinkedSet)(changed=self._ipdb._cond)

    def __hash__(self) -> int:  # type: ignore[override]
        return dict.get(self, "index") or id(self)

    @property
    def if_master(self) -> Any:
        """The index of the bridge or bond this interface is a port of, or None."""
        return self.get("master")

    def _equal(self, key: str, seen: Any, wanted: Any) -> bool:
        if key in bridge_times and isinstance(seen, int) and isinstance(wanted, int):
            return abs(seen - wanted) < 5  # kept in jiffies
        if key == "flags" and isinstance(seen, int) and isinstance(wanted, int):
            return bool(seen & wanted & IFF_UP == wanted & IFF_UP)
        if key in ("master", "link") and not seen and not wanted:
            return True
        return super()._equal(key, seen, wanted)

    def _normal(self, key: str, value: Any) -> Any:
        if key.endswith("link") and isinstance(value, Interface):
            return value["index"] or value["ifname"]
        if key == "master" and isinstance(value, Interface):
            return value["index"]
        if key == "vlan_flags" and isinstance(value, dict):
            return value.get("flags", 0)
        return value

    # changing

    def add_ip(
        self,
        ip: str,
        mask: int | str | None = None,
        broadcast: str | None = None,
        anycast: str | None = None,
        scope: int | None = None,
    ) -> Any:
        """Add an address: "a/24", "a/255.255.255.0" or `a, 24`; returns the interface."""
        extra = {"broadcast": broadcast, "anycast": anycast, "scope": scope}
        raw = {name: value for name, value in extra.items() if value is not None}
        return self._alter("ipaddr", address_key(ip, mask), raw)

    def del_ip(self, ip: str, mask: int | str | None = None) -> Any:
        """Remove an address; one that is not there is no error. Returns the interface."""
        return self._alter("ipaddr", address_key(ip, mask), None)

    def add_vlan(self, vlan: Any, flags: Any = None) -> Any:
        """Let a VLAN (number, or dictionary with 'vid') through this bridge port; returns the interface."""
        info = vlan if isinstance(vlan, dict) else {"vid": vlan, "flags": 0}
        return self._alter("vlans", info["vid"], (info, flags))

    def del_vlan(self, vlan: int) -> Any:
        """Take a VLAN from this bridge port; returns the interface."""
        return self._alter("vlans", vlan, None)

    def add_port(self, port: Any) -> Any:
        """Make an interface (object, name or index) a port of this bridge, bond or VRF; returns the interface."""
        return self._alter_port(port, True)

    def del_port(self, port: Any) -> Any:
        """Remove a port; returns the interface."""
        return self._alter_port(port, False)

    def _alter(self, name: str, key: Any, raw: Any) -> Any:
        if self._mode == "snapshot":
            (dict.__getitem__(self, name).discard if raw is None else dict.__getitem__(self, name).add)(key)
            return self

        def put(tx: Transaction) -> None:
            if raw is None:
                tx._exclude(name, key)
            else:
                tx._include(name, key, raw)

        return self._change(put)

    def _alter_port(self, port: Any, add: bool) -> Any:
        index = self._resolve(port)

        def put(tx: Transaction) -> None:
            if not index:  # not there yet: looked up again when the transaction is applied
                tx._later.append(("+ports" if add else "-ports", port))
            elif add:
                tx._include("ports", index)
            else:
                tx._exclude("ports", index)

        return self._change(put)

    def _resolve(self, port: Any) -> Any:
        if isinstance(port, Interface):
            return port.get("index")
        found = self._ipdb.interfaces.get(port)
        return found.get("index") if found is not None else None

    def up(self) -> Any:
        """Bring the interface up; returns it."""
        self["state"] = "up"
        return self

    def down(self) -> Any:
        """Bring the interface down; returns it."""
        self["state"] = "down"
        return self

    def load(self, data: dict[str, Any]) -> Any:
        """Put what `dump()` gave into the transaction. What only the kernel can set is left out."""
        for key, value in data.items():
            if value is None or key in link_readonly or key in ("flags", "ipdb_scope", "ipdb_priority"):
                continue
            if key in ("kind", "link", "peer") and self["ipdb_scope"] == "system":
                continue  # fixed by the creation
            if key == "ipaddr":
                wanted = [(item,) if isinstance(item, str) else tuple(item) for item in value]
                for item in self["ipaddr"]:
                    self.del_ip(*item)
                for item in wanted:
                    self.add_ip(*item)
            elif key == "ports":
                for port in self["ports"]:
                    self.del_port(port)
                for port in value:
                    self.add_port(port)
            elif key == "vlans":
                for vid in self["vlans"]:
                    self.del_vlan(vid)
                for vid in value:
                    if vid != 1:
                        self.add_vlan(vid)
            elif key.startswith("br_") and key not in bridge_settable:
                continue
            else:
                self[key] = value
        return self

    def load_dict(self, data: dict[str, Any]) -> None:
        """Change the view itself, past all transactions."""
        with self._ipdb._cond:
            for key, value in data.items():
                if key not in self._sets:
                    dict.__setitem__(self, key, value)

    def load_netlink(self, msg: Any) -> None:
        """Change the view itself to what a RTM_NEWLINK message says."""
        with self._ipdb._cond:
            self._load(msg)

    def reload(self) -> Any:
        """Ask the kernel for this interface; returns the interface."""
        self._reread()
        return self

    def wait_ip(self, *args: Any, **kwarg: Any) -> bool:
        """See `AddressSet.wait_ip`."""
        return dict.__getitem__(self, "ipaddr").wait_ip(*args, **kwarg)  # type: ignore[no-any-return]

    def freeze(self) -> Any:
        """Put the interface back into its present state whenever anybody changes it; returns it."""
        if self._freeze is not None:
            raise RuntimeError("the interface is frozen already")
        self._frozen = frozen = self.pick()

        def restore(ipdb: Any, msg: Any, action: str) -> None:
            index = msg["ifindex"] if isinstance(msg, ndmsg) else msg.get("index")
            if self._freeze is not None and frozen["index"] == index:
                self._restore(frozen)

        self._freeze = self._ipdb.register_callback(restore)
        return self

    def unfreeze(self) -> Any:
        """End `freeze()`; returns the interface."""
        freeze, self._freeze, self._frozen = self._freeze, None, None
        self._ipdb.unregister_callback(freeze)
        return self

    def _restore(self, target: Record) -> None:
        with self._write_lock:
            tx = Transaction(self)
            tx.partial = True
            try:
                if self["ipdb_scope"] != "system":
                    self._spec = self._portable(target)
                    self._aim(tx, target)
                    self._set_scope("shadow")
                else:
                    self._aim(tx, target)
                self._apply(tx, UndoLog())
            except Exception as error:
                log.warning("%s could not be restored: %s", target["ifname"], error)

    # the view

    def _load(self, msg: Any) -> None:
        """Take over a link message; the lock is held."""
        if dict.get(self, "ipdb_scope") == "locked":
            return
        if msg["family"] == AF_BRIDGE:
            self._load_bridge(msg)
            return
        fresh = message_fields(msg, ifinfmsg, link_dropped)
        info = msg.get_attr("IFLA_LINKINFO")
        if info is not None:
            fresh["kind"] = info.get_attr("IFLA_INFO_KIND")
            data = info.get_attr("IFLA_INFO_DATA")
            if hasattr(data, "get_attr"):
                for cell in data["attrs"]:
                    fresh[ifinfmsg.nla2name(cell[0])] = cell[1]
                if fresh["kind"] == "vlan":
                    fresh["vlan_flags"] = (data.get_attr("IFLA_VLAN_FLAGS") or {}).get("flags", 0)
            slave = info.get_attr("IFLA_INFO_SLAVE_DATA")
            if hasattr(slave, "get_attr"):
                for cell in slave["attrs"]:
                    fresh[ifinfmsg.nla2name(cell[0])] = cell[1]
        if fresh.get("master") == fresh["index"]:
            fresh["master"] = None
        self.update(fresh)
        for key in self:
            if key not in fresh and key not in link_virtual and key != "peer":
                dict.__delitem__(self, key)
        self._set_scope("system")
        dict.__setitem__(self, "ipaddr", self._ipdb._addresses_of(fresh["index"]))
        dict.__setitem__(self, "neighbours", self._ipdb._neighbours_of(fresh["index"]))

    def _load_bridge(self, msg: Any) -> None:
        spec = msg.get_attr("IFLA_AF_SPEC")
        if spec is not None:
            vlans = {vlan["vid"]: vlan for vlan in spec.get_attrs("IFLA_BRIDGE_VLAN_INFO")}
            known = dict.__getitem__(self, "vlans")
            for vid in known:
                if vid not in vlans:
                    known.discard(vid)
            for vid, vlan in vlans.items():
                known.add(vid, (vlan, None))
        info = msg.get_attr("IFLA_PROTINFO")
        if hasattr(info, "get"):
            for cell in info.get("attrs", ()):
                dict.__setitem__(self, cell[0][5:].lower(), cell[1])

    def _reread(self) -> None:
        ipdb = self._ipdb
        index = dict.get(self, "index")
        if not index:
            return
        try:
            links = ipdb._ask("link", "get", index=index)
        except Exception as error:
            if getattr(error, "code", None) != errno.ENODEV:
                raise
            with ipdb._cond:
                ipdb.interfaces._drop(index)
                ipdb._cond.notify_all()
            return
        addresses = ipdb._ask("get_addr", index=index)
        with ipdb._cond:
            for link in links:
                ipdb.interfaces._on_link(link)
            seen = set()
            for msg in addresses:
                if msg["index"] == index:
                    seen.add(ipdb._on_address(msg))
            known = ipdb._addresses_of(index)
            for key in known:
                if key not in seen:
                    known.discard(key)
            ipdb._cond.notify_all()

    def _leave(self) -> None:
        self._ipdb.interfaces._detach(self)

    detach = Record._forget

    def _invalidate(self) -> None:
        self._forget()
        with self._ipdb._cond:
            self.clear()
            self._set_scope("invalid")
        self._mode = "invalid"

    # applying

    def _portable(self, source: Record) -> dict[str, Any]:
        """A request that makes `source` again."""
        kind = source["kind"]
        spec = {key: source[key] for key in link_identity if source.get(key) is not None}
        if kind == "bridge":
            fields: Iterable[str] = bridge_settable
        elif kind == "veth":
            fields = ("peer",)
        else:
            fields = fields_of_kind(kind)
        spec.update((key, source[key]) for key in fields if source.get(key) is not None)
        return spec

    def _restorable(self, target: Record) -> Iterable[str]:
        kind = target["kind"]
        names = {"ifname", "address", "mtu", "txqlen", "ifalias", "state"}
        names |= bridge_settable if kind == "bridge" else fields_of_kind(kind)
        return [key for key in target if key in names]

    def _apply(self, tx: Transaction, undo: UndoLog) -> None:
        ipdb = self._ipdb
        scope = dict.get(tx, "ipdb_scope")
        if self["ipdb_scope"] in ("create", "shadow"):
            if scope == "remove" and self["ipdb_scope"] == "create":
                self._invalidate()
                return
            if scope == "remove":
                self._forget()
                return
            self._make(tx, undo)
        if self["ipdb_scope"] != "system":
            raise CommitException(f"interface {self['ifname']!r} is {self['ipdb_scope']}")
        for sign, port in tx._later:
            index = self._resolve(port)
            if not index:
                tx._fail(KeyError(f"can not resolve port {port}"))
            elif sign == "+ports":
                tx._include("ports", index)
            else:
                tx._exclude("ports", index)
        before = self.pick()
        changes = tx._changes()
        self._apply_vlans(tx, undo)
        self._apply_ports(tx, undo)
        self._apply_values(tx, undo, changes, before)
        self._apply_addresses(tx, undo, before)
        if changes.get("state") == "up":
            self._set_state(tx, undo, "up", before)
        for hook in self._commit_hooks:
            hook(self.dump(), before.dump(), {**self.dump(), **changes})
        move = {key: changes[key] for key in ("net_ns_fd", "net_ns_pid") if changes.get(key) is not None}
        if move:
            self._move(tx, move)
        elif scope in ("remove", "shadow"):
            self._unmake(tx, undo, scope, before)
        ipdb.ensure("run")

    def _make(self, tx: Transaction, undo: UndoLog) -> None:
        """Create the link of a record that is in the database only."""
        ipdb = self._ipdb
        old = dict(self)
        spec = dict(self._spec) if self["ipdb_scope"] == "shadow" else {}
        for source in (self if not spec else {}, tx):
            for key, value in source.items():
                if value is not None and key not in self._sets and key not in link_virtual and key != "neighbours":
                    spec[key] = value
        spec["kind"] = spec.get("kind") or self["kind"]
        for key, value in self._deferred.items():
            index = self._resolve(value)
            if not index:
                raise create_failure(KeyError(f"can not resolve {key} {value}"))
            spec[key] = index
        if not spec.get("index"):
            spec.pop("index", None)
        for key in tuple(spec):
            if key.startswith("brport_") or (key in link_readonly and key not in ("index", "family")):
                del spec[key]
        spec.pop("flags", None)
        spec.pop("state", None)  # goes up last, when everything else is in place
        with ipdb._cond:
            # a first change of name is part of the creation; the message of a new link finds this record by it
            if ipdb.interfaces._named(spec["ifname"]) not in (None, self):
                raise CreateException(f"interface {spec['ifname']} exists")
            ipdb.interfaces._rename(self, spec["ifname"])
            self._making = True
        try:
            made = True
            try:
                ipdb._ask("link", "add", **spec)
            except Exception as error:
                if getattr(error, "code", None) != errno.EEXIST or not self._same_kind(spec):
                    raise create_failure(error) from error
                # loading the module of a kind may make a first device of that name (dummy0, bond0)
                made = False
            if made:
                undo.push(self._undo_make, old, spec["ifname"])
            ipdb._settle(
                lambda: dict.get(self, "ipdb_scope") == "system" and bool(dict.get(self, "index")),
                lambda: ipdb.interfaces._lookup(spec["ifname"]),
            )
        except BaseException:
            with ipdb._cond:
                if self["ipdb_scope"] != "system":
                    ipdb.interfaces._rename(self, old["ifname"])
            raise
        finally:
            self._making = False
        if self["ipdb_scope"] != "system":
            raise create_failure(CommitException(f"interface {spec['ifname']!r} did not appear"))
        for key in spec:
            if key not in ("state",) and key in tx and self._equal(key, self.get(key), spec[key]):
                dict.pop(tx, key, None)

    def _same_kind(self, spec: dict[str, Any]) -> bool:
        if spec["kind"] in ("vlan", "vxlan"):
            return False  # the same number under another name
        try:
            link = self._ipdb._ask("link", "get", ifname=spec["ifname"])[0]
        except Exception:
            return False
        info = link.get_attr("IFLA_LINKINFO")
        return info is not None and info.get_attr("IFLA_INFO_KIND") == spec["kind"]

    def _undo_make(self, old: dict[str, Any], ifname: str) -> None:
        ipdb = self._ipdb
        index = dict.get(self, "index")
        with ipdb._cond:
            self._set_scope("locked")
        if index:
            ipdb._ask("link", "del", index=index)
        else:
            ipdb._ask("link", "del", ifname=ifname)
        ipdb._barrier()
        with ipdb._cond:
            ipdb._unlink(index)
            ipdb.interfaces._forget_keys(self)
            self.clear()
            self.update(old)
            for name in self._sets:
                dict.__setitem__(self, name, self._new_set(name))
            self._set_scope("create")
            ipdb.interfaces._put(self, old["ifname"])

    def _apply_vlans(self, tx: Transaction, undo: UndoLog) -> None:
        ipdb = self._ipdb
        index = self["index"]
        known = dict.__getitem__(self, "vlans")
        gone = [vid for vid in tx._out["vlans"] if vid in known]
        fresh = {vid: raw for vid, raw in tx._in["vlans"].items() if vid not in known}
        for vid in gone:
            tx._run(ipdb._ask, "vlan_filter", "del", index=index, vlan_info=vlan_info_of(known[vid][0]))
            undo.push(ipdb._ask, "vlan_filter", "add", index=index, vlan_info=vlan_info_of(known[vid][0]))
        for info, flags in fresh.values():
            extra = {"vlan_flags": flags} if flags else {}
            tx._run(ipdb._ask, "vlan_filter", "add", index=index, vlan_info=info, **extra)
            undo.push(ipdb._ask, "vlan_filter", "del", index=index, vlan_info=info, **extra)
        if gone or fresh:
            ipdb._settle(
                lambda: all(vid in known for vid in fresh) and not any(vid in known for vid in gone),
                ipdb.interfaces._reread_vlans,
            )

    def _apply_ports(self, tx: Transaction, undo: UndoLog) -> None:
        ipdb = self._ipdb
        known = dict.__getitem__(self, "ports")
        index = self["index"]
        gone = [port for port in tx._out["ports"] if port in known]
        fresh = [port for port in tx._in["ports"] if port not in known]
        for port in gone:
            tx._run(ipdb._ask, "link", "set", index=port, master=0)
            undo.push(ipdb._ask, "link", "set", index=port, master=index)
        for port in fresh:
            old = (ipdb.interfaces.get(port) or {}).get("master") or 0
            tx._run(ipdb._ask, "link", "set", index=port, master=index)
            undo.push(ipdb._ask, "link", "set", index=port, master=old)
        if gone or fresh:

            def reread() -> None:
                for port in [*gone, *fresh]:
                    found = ipdb.interfaces.get(port)
                    if found is not None:
                        found._reread()
                self._reread()

            undo.push(reread)
            if not tx.partial:
                ipdb._settle(
                    lambda: all(port in known for port in fresh) and not any(port in known for port in gone), reread
                )
                if any(port not in known for port in fresh):
                    raise CommitException("master set failed")
                if any(port in known for port in gone):
                    raise CommitException("master unset failed")

    def _apply_values(self, tx: Transaction, undo: UndoLog, changes: dict[str, Any], before: Record) -> None:
        ipdb = self._ipdb
        index, kind = self["index"], self["kind"]
        plain: dict[str, Any] = {}
        special: dict[str, Any] = {}
        port: dict[str, Any] = {}
        kind_fields = fields_of_kind(kind)
        for key, value in changes.items():
            if key in link_virtual or key == "state" or (value is None and key not in ("master", "ifalias")):
                continue
            if key in bridge_port_fields or key.startswith("brport_"):
                port[key[7:]] = value
            elif key in kind_fields or key == "vlan_flags":
                special[key] = value
            elif key == "master":
                plain[key] = value or 0
            else:
                plain[key] = value
        if changes.get("state") == "down":
            self._set_state(tx, undo, "down", before)
        if special:
            old = {key: before[key] for key in special if before[key] is not None}
            tx._run(ipdb._ask, "link", "set", index=index, kind=kind, **special)
            undo.push(ipdb._ask, "link", "set", index=index, kind=kind, **old)
        if plain:
            old = {key: before[key] for key in plain if before[key] is not None or key == "master"}
            for key, empty in (("master", 0), ("ifalias", "")):
                if key in plain and before[key] is None:
                    old[key] = empty
            # one request each: the kernel stops at the first value it refuses and keeps those before it
            for key, value in plain.items():
                tx._run(ipdb._ask, "link", "set", index=index, **{key: value})
                if key in old:
                    undo.push(ipdb._ask, "link", "set", index=index, **{key: old[key]})
        if port:
            old = {key: before["brport_" + key] for key in port if before["brport_" + key] is not None}
            tx._run(ipdb._ask, "brport", "set", index=index, **port)
            undo.push(ipdb._ask, "brport", "set", index=index, **old)
        if (plain or special or port) and not tx.partial:
            wanted = {**plain, **special, **{"brport_" + key: value for key, value in port.items()}}
            ipdb._settle(
                lambda: all(self._equal(key, self.get(key), value) for key, value in wanted.items()), self._reread
            )

    def _set_state(self, tx: Transaction, undo: UndoLog, state: str, before: Record) -> None:
        ipdb = self._ipdb
        index = self["index"]
        if state == "down":
            # the kernel drops the interface's routes without a word
            undo.push(ipdb._restore_routes, ipdb._routes_by(index))
            undo.push(self._restore_addresses, before)
        tx._run(ipdb._ask, "link", "set", index=index, state=state)
        undo.push(ipdb._ask, "link", "set", index=index, state=before["state"] or "down")
        if not tx.partial:
            ipdb._settle(lambda: self.get("state") == state, self._reread)

    def _apply_addresses(self, tx: Transaction, undo: UndoLog, before: Record) -> None:
        ipdb = self._ipdb
        index = self["index"]
        known = dict.__getitem__(self, "ipaddr")
        gone = [key for key in tx._out["ipaddr"] if key in known]
        fresh = {key: raw for key, raw in tx._in["ipaddr"].items() if key not in known}
        if not gone and not fresh:
            return
        kept = [key for key in known if ":" not in key[0] and key not in gone]
        if gone:
            undo.push(ipdb._restore_routes, ipdb._routes_by(index))
            undo.push(self._restore_addresses, before)
        # secondary addresses first: promote_secondaries would bring them back after their primary has gone
        gone.sort(key=lambda key: bool((known.raw.get(key) or {}).get("flags", 0) & IFA_F_SECONDARY), reverse=True)
        for address, length in gone:
            with tolerated(errno.EADDRNOTAVAIL):  # went with its primary
                tx._run(ipdb._ask, "addr", "del", index=index, address=address, prefixlen=length)
        for (address, length), raw in fresh.items():
            extra = {k: v for k, v in (raw or {}).items() if k in ("broadcast", "anycast", "scope") and v is not None}
            with tolerated(errno.EEXIST):
                tx._run(ipdb._ask, "addr", "add", index=index, address=address, prefixlen=length, **extra)
                undo.push(ipdb._ask, "addr", "del", index=index, address=address, prefixlen=length)
        if not tx.partial:
            ipdb._settle(
                lambda: all(key in known for key in fresh) and not any(key in known for key in gone), self._reread
            )
            # with a primary address the kernel removes its secondaries, which nobody has asked for
            lost = [key for key in kept if key not in known]
            if gone and lost:
                self._restore_addresses(before, lost)
                ipdb._settle(lambda: all(key in known for key in lost), self._reread)
            missing = [key for key in fresh if key not in known]
            if missing:
                raise CommitException(f"addresses did not appear: {missing}")

    def _restore_addresses(self, before: Record, keys: Iterable[Any] | None = None) -> None:
        """Add again what went away with others."""
        ipdb = self._ipdb
        index = before["index"]
        there = {(address_of(msg), msg["prefixlen"]) for msg in ipdb._ask("get_addr", index=index)}
        for key in before["ipaddr"] if keys is None else keys:
            if key not in there:
                raw = before["ipaddr"][key] or {}
                extra = {name: raw[name] for name in ("broadcast", "scope") if raw.get(name)}
                with tolerated(errno.EEXIST):
                    ipdb._ask("addr", "add", index=index, address=key[0], prefixlen=key[1], **extra)

    def _move(self, tx: Transaction, where: dict[str, Any]) -> None:
        ipdb = self._ipdb
        index = self["index"]
        with ipdb._cond:
            for key in where:
                dict.pop(self, key, None)
        tx._run(ipdb._ask, "link", "set", index=index, **where)
        ipdb._settle(lambda: self["ipdb_scope"] != "system", self._reread)

    def _unmake(self, tx: Transaction, undo: UndoLog, scope: str, before: Record) -> None:
        ipdb = self._ipdb
        index = self["index"]
        spec = self._portable(before)
        routes = ipdb._routes_by(index)
        self._gone = False
        with self._locked():
            ipdb._ask("link", "del", index=index)

        def gone() -> bool:
            return self._gone

        ipdb._settle(gone, lambda: None)
        with ipdb._cond:
            self._spec = spec
            ipdb.interfaces._detach(self)
            if scope == "shadow":
                ipdb.interfaces._put(self, before["ifname"])
                self._set_scope("shadow")
            else:
                self._set_scope("detached")
        undo.push(self._undo_unmake, before, routes)

    def _undo_unmake(self, before: Record, routes: list[dict[str, Any]]) -> None:
        ipdb = self._ipdb
        with ipdb._cond:
            self._set_scope("shadow")
            ipdb.interfaces._put(self, before["ifname"])
        tx = Transaction(self)
        for key in before["ipaddr"]:
            tx._include("ipaddr", key, before["ipaddr"][key] or {})
        for port in before["ports"]:
            tx._include("ports", port)
        dict.__setitem__(tx, "state", before["state"])
        self._apply(tx, UndoLog())
        ipdb._restore_routes(routes)

