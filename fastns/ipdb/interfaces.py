"""All of IPDB's interfaces, and the mappings by name and by index on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from pyroute2.config import AF_BRIDGE
from pyroute2.ipdb import CreateException
from pyroute2.netlink.rtnl import IFNAMSIZ

from fastns.ipdb.links import Interface, LinkDatabase
from fastns.ipdb.values import Fields


class LoadedDatabase(LinkDatabase, Protocol):
    """What the interfaces need of their database: what each of them needs, and which parts are read already."""

    _loaded: set[str]

    @property
    def interfaces(self) -> Interfaces: ...


class Interfaces(Fields):
    """The interfaces, by name and by index, as items and as attributes.

    A name or index that is not known is looked up in the kernel first, then KeyError.
    """

    def __init__(self, ipdb: LoadedDatabase) -> None:
        super().__init__()
        self._ipdb = ipdb

    def __missing__(self, key: Any) -> Any:
        if self._lookup(key) and dict.__contains__(self, key):
            return dict.__getitem__(self, key)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or (self._lookup(key) and dict.__contains__(self, key))

    def get(self, key: Any, default: Any = None) -> Any:
        try:
            return self[key]
        except KeyError:
            return default

    def _lookup(self, key: Any) -> bool:
        """Ask the kernel for one interface the view does not have."""
        ipdb = self._ipdb
        if isinstance(key, bool) or not isinstance(key, (int, str)) or ipdb._stop:
            return False
        if "interfaces" not in ipdb._loaded:
            return False
        if isinstance(key, str) and (not key or len(key.encode()) >= IFNAMSIZ or "/" in key):
            return False
        if isinstance(key, int) and key < 1:
            return False
        try:
            query = {"index": key} if isinstance(key, int) else {"ifname": key}
            links = ipdb._ask("link", "get", **query)
            if not links:
                return False
            index = links[0]["index"]
            addresses = ipdb._ask("get_addr", index=index)
        except Exception as error:
            if not hasattr(error, "code"):
                raise
            return False
        with ipdb._cond:
            for link in links:
                self._on_link(link)
            for msg in addresses:
                if msg["index"] == index:
                    ipdb._on_address(msg)
            ipdb._cond.notify_all()
        return True

    def add(self, kind: str, ifname: str, reuse: bool = False, **kwarg: Any) -> Any:
        """A new interface, made by its `commit()`. Raises CreateException when there is one of that name."""
        ipdb = self._ipdb
        ipdb._check()
        if ifname in self:
            device = dict.__getitem__(self, ifname)
            if device["ipdb_scope"] != "shadow" and not reuse:
                raise CreateException(f"interface {ifname} exists")
            device.begin()
            device.load({"kind": kind, **kwarg})
            if ipdb.mode == "direct":
                device._at_once()
            return device
        device = Interface(ipdb, mode="snapshot")
        for key, value in kwarg.items():
            plain = device._normal(key, value)
            if (key == "link" or key.endswith("_link")) and not isinstance(plain, int):
                device._deferred[key] = plain
            else:
                dict.__setitem__(device, key, plain)
        dict.__setitem__(device, "kind", kind)
        dict.__setitem__(device, "ifname", ifname)
        return device._add(lambda: self._put(device, ifname))

    # the view; the lock is held in all of these

    def _on_link(self, msg: Any) -> Any:
        index, ifname = msg["index"], msg.get_attr("IFLA_IFNAME")
        device: Any = dict.get(self, index)
        if msg["family"] == AF_BRIDGE:
            if device is not None:
                device._load(msg)
            return device
        if device is None:
            # a record of that name is meant only while it is being made; otherwise the name has a new owner, and the
            # old one gets its own next message or is gone
            named: Any = dict.get(self, ifname) if ifname is not None else None
            if named is not None and named._making:
                dict.pop(self, dict.get(named, "index"), None)
                device = named
            else:
                device = Interface(self._ipdb)
            dict.__setitem__(self, index, device)
        old_master = dict.get(device, "master")
        old_name: Any = dict.get(device, "ifname")
        if device["ipdb_scope"] == "locked":
            return device
        device._load(msg)
        if old_name is not None and old_name != ifname and dict.get(self, old_name) is device:
            dict.__delitem__(self, old_name)
        if ifname is not None:
            dict.__setitem__(self, ifname, device)
        self._port_moved(device, old_master, dict.get(device, "master"))
        return device

    def _port_moved(self, device: Any, old: Any, new: Any) -> None:
        index = device["index"]
        if old != new and old:
            master = dict.get(self, old)
            if master is not None:
                dict.__getitem__(master, "ports").discard(index)
        if new:
            master = dict.get(self, new)
            if master is not None:
                dict.__getitem__(master, "ports").add(index)

    def _off_link(self, msg: Any) -> None:
        device: Any = dict.get(self, msg["index"])
        if device is None:
            return
        if msg["family"] == AF_BRIDGE:
            dict.__getitem__(device, "vlans").raw.clear()
            return
        if device["ipdb_scope"] == "locked":
            device._gone = True
            return
        if device["ipdb_scope"] == "shadow":
            return
        if device._freeze is not None:
            device._set_scope("shadow")
            return
        self._drop(msg["index"])

    def _drop(self, index: int) -> None:
        device: Any = dict.get(self, index)
        if device is not None:
            self._detach(device)
            device._set_scope("detached")

    def _forget_keys(self, device: Any) -> None:
        for key in (dict.get(device, "index"), dict.get(device, "ifname")):
            if key is not None and dict.get(self, key) is device:
                dict.__delitem__(self, key)

    def _detach(self, device: Any) -> None:
        self._port_moved(device, dict.get(device, "master"), None)
        index = dict.get(device, "index")
        self._forget_keys(device)
        self._ipdb._unlink(index)

    def _named(self, ifname: str) -> Any:
        """The interface of that name, without a question to the kernel."""
        return dict.get(self, ifname)

    def _put(self, device: Any, ifname: str) -> None:
        dict.__setitem__(self, ifname, device)

    def _rename(self, device: Any, ifname: str) -> None:
        old = dict.get(device, "ifname")
        if old is not None and dict.get(self, old) is device:
            dict.__delitem__(self, old)
        dict.__setitem__(device, "ifname", ifname)
        dict.__setitem__(self, ifname, device)

    def _reread_vlans(self) -> None:
        messages = self._ipdb._ask("get_vlans")
        with self._ipdb._cond:
            for msg in messages:
                self._on_link(msg)


class InterfacesByKey(Mapping):  # type: ignore[type-arg]
    """The interfaces under one kind of key."""

    def __init__(self, ipdb: LoadedDatabase, kind: type) -> None:
        self._ipdb = ipdb
        self._kind = kind

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, self._kind):
            raise KeyError(key)
        return self._ipdb.interfaces[key]

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key in tuple(self._ipdb.interfaces) if isinstance(key, self._kind)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return repr(dict(self))
