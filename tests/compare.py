"""What can be seen of a message, as plain data: pyroute2's and ours must look the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator

from pyroute2.netlink import ctrlmsg, nla_slot, nlmsg_base
from pyroute2.netlink.diag import MarshalDiag
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.nfnetlink import nfctsocket, nftsocket
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

CAPTURED = Path(__file__).parent / "data" / "captured"


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


def look(value: Any, depth: int = 0) -> Any:
    """Everything observable about a value, recursively."""
    if depth > 60:
        return "..."
    if isinstance(value, nla_slot):
        return (
            "slot",
            value.name,
            look(value.value, depth + 1),
            value.get_flags(),
            look_message(value.nla, depth + 1),
        )
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


def look_message(msg: Any, depth: int = 0) -> Any:
    return {
        "class": msg.__class__,
        "items": [(key, look(item, depth + 1)) for key, item in msg.items()],
        "length": msg.length,
        "decoded": msg.decoded,
        "array": msg._nla_array,
        "flags": msg._nla_flags,
        "init": msg._nla_init,
        "value": look(msg.value, depth + 1) if msg.value is not msg else "self",
        "bytes": bytes(msg.data[msg.offset : msg.offset + msg.length]),
        "chain": len(msg.chain),
        "parent": msg.parent is None,
        "header": msg.header,
        "getvalue": is_its_value(msg),
        "bool": bool(msg),
    }


def is_its_value(msg: Any) -> Any:
    try:
        return msg.getvalue() is msg
    except TypeError as error:  # pyroute2's for an array that could not be decoded
        return str(error)


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
