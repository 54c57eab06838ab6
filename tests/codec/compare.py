"""What can be seen of a message, as plain data: pyroute2's and ours must look the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

from pyroute2.netlink import ctrlmsg, nla_slot, nlmsg_base
from pyroute2.netlink.diag import MarshalDiag
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.nfnetlink import nfctsocket, nftsocket
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

CAPTURED = Path(__file__).parent / "captured"


class MarshalGeneric(Marshal):
    msg_map = {16: ctrlmsg}


class MarshalNetfilter(Marshal):
    msg_map = {
        **{(10 << 8) | key: cls for key, cls in nftsocket.AsyncNFTSocket.policy.items()},
        **{(1 << 8) | key: nfctsocket.nfct_msg for key in range(3)},
    }


MARSHALS = {0: MarshalRtnl, 4: MarshalDiag, 12: MarshalNetfilter, 16: MarshalGeneric}


def captured() -> Iterator[tuple[str, type[Marshal], bytes]]:
    for path in sorted(CAPTURED.glob("*.bin")):
        yield path.stem, MARSHALS[int(path.name.split("-")[0])], path.read_bytes()


class Finite(bytes):
    """The bytes for pyroute2 to decode. It reads the header of an array's element of length 0 again and again, and
    looks for RTA_ENCAP_TYPE behind an attribute of length 0: here both end, and `endless` tells of the array, for
    which pyroute2 then has no answer to compare with."""

    endless = False

    def __getitem__(self, key: Any) -> Any:
        if type(key) is slice and key.stop is not None and key.stop - (key.start or 0) <= 4:
            seen = self.__dict__.setdefault("seen", {})
            seen[key.start] = seen.get(key.start, 0) + 1
            if seen[key.start] > 300:
                self.endless = self.endless or key.stop - key.start == 4
                raise ValueError("read for ever")
        return bytes.__getitem__(self, key)


PLAIN = {str, int, bytes, bool, float, type(None)}


def look(value: Any, depth: int = 0) -> Any:
    """Everything observable about a value, recursively."""
    if type(value) in PLAIN:
        return value
    if depth > 60:
        return "..."
    if isinstance(value, nla_slot):
        return "slot", value.name, look_value(value, depth), value.get_flags(), look_message(value.nla, depth + 1)
    if isinstance(value, nlmsg_base):
        return look_message(value, depth + 1)
    if isinstance(value, dict):
        return {key: look(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(look(item, depth + 1) for item in value)]
    if isinstance(value, Exception):
        # ours are richer subclasses of pyroute2's
        return ("error", [str(item) for item in value.args])
    return value


def look_value(slot: nla_slot, depth: int) -> Any:
    """What is the attribute itself, or its elements, is looked at there."""
    value, nla = slot.value, slot.nla
    if value is nla:
        return "itself"
    if type(value) is list and type(nla.value) is list and len(value) == len(nla.value):
        return [number if one is own else look(one, depth + 1) for number, (one, own) in enumerate(zip(value, nla.value))]
    return look(value, depth + 1)


def look_message(msg: Any, depth: int = 0) -> Any:
    value = msg.value
    return (
        msg.__class__,
        [(key, look(item, depth + 1)) for key, item in msg.items()],
        msg.length,
        msg.decoded,
        msg._nla_array,
        msg._nla_flags,
        msg._nla_init,
        "self" if value is msg else "item" if is_item(msg, value) else look(value, depth + 1),
        bytes(msg.data[msg.offset : msg.offset + msg.length]),
        len(msg.chain),
        msg.parent is None,
        msg.header,
        is_its_value(msg),
        bool(msg),
    )


def is_item(msg: Any, value: Any) -> bool:
    """Whether the elements of an array are those that `items` has."""
    return type(value) is list and value is dict.get(msg, "value")


def is_its_value(msg: Any) -> Any:
    try:
        return msg.getvalue() is msg
    except TypeError as error:  # pyroute2's for an array that could not be decoded
        return str(error)


def same(ours: Any, theirs: Any, path: str = "") -> None:
    """Fail where two looks differ. What is written alike is alike, and comparing that is quick."""
    if repr(ours) != repr(theirs):
        found = list(differences(ours, theirs, path))
        assert not found, found


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Where two looks differ, for a readable failure."""
    if type(ours) is not type(theirs):
        yield f"{path}: {ours!r:.200} is not {theirs!r:.200}"
    elif isinstance(ours, (list, tuple)):
        if len(ours) != len(theirs):
            yield f"{path}: {len(ours)} items, not {len(theirs)}: {ours!r:.300} {theirs!r:.300}"
        for index, (one, other) in enumerate(zip(ours, theirs)):
            yield from differences(one, other, f"{path}/{index}")
    elif isinstance(ours, dict):
        if list(ours) != list(theirs):
            yield f"{path}: keys {list(ours)}, not {list(theirs)}"
            return
        for key in ours:
            yield from differences(ours[key], theirs[key], f"{path}/{key}")
    elif ours != theirs:
        yield f"{path}: {ours!r:.200} is not {theirs!r:.200}"
