"""What is known of namespaces: their names, processes, ids, and whether they are alive."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple, Optional, Union

from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETNSID
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

from fastns.errors import NLMSGHDR
from fastns.netns import reference
from fastns.netns.names import listnetns
from fastns.netns.opening import open_ref
from fastns.netns.reference import Ref, filename, is_dead, is_place, pid_path, place_of


def names_by_identity(nspath: str) -> dict[tuple[int, int], str]:
    """The names of a run directory by device and inode."""
    names = {}
    for name in listnetns(nspath):
        try:
            found = os.stat(os.path.join(nspath, name))
        except OSError:
            continue  # removed meanwhile, or a dangling link
        names[found.st_dev, found.st_ino] = name
    return names


def process_namespaces() -> Iterator[tuple[int, tuple[int, int]]]:
    """Each process that may be looked at, and the device and inode of its network namespace."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                found = os.stat(f"/proc/{name}/ns/net")
            except OSError:
                continue  # gone, or somebody else's
            yield int(name), (found.st_dev, found.st_ino)


def ns_pids(nspath: Optional[str] = None) -> dict[str, list[int]]:
    """The process ids in each namespace that has a name in the run directory (or in `nspath`) and a process.

    Processes of others are seen with CAP_SYS_PTRACE only.
    """
    names = names_by_identity(nspath or reference.NETNS_RUN_DIR)
    result: dict[str, list[int]] = {}
    for pid, key in process_namespaces():
        if key in names:
            result.setdefault(names[key], []).append(pid)
    return result


def pid_to_ns(pid: int = 1, nspath: Optional[str] = None) -> Optional[str]:
    """The name of the namespace the process `pid` is in; None if it has no name, or there is no such process or no
    right to look at it (CAP_SYS_PTRACE)."""
    try:
        found = os.stat(f"/proc/{pid}/ns/net")
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return None
    return names_by_identity(nspath or reference.NETNS_RUN_DIR).get((found.st_dev, found.st_ino))


def exists(netns: Optional[Ref], *, pid: Optional[int] = None) -> bool:
    """Whether the reference is a network namespace. A dead entry and a closed descriptor are none.

    Raises: ValueError, TypeError as `open_ref`; PermissionError.
    """
    try:
        with open_ref(netns, pid=pid):
            return True
    except OSError as error:
        if isinstance(error, PermissionError):
            raise
        return False


class NetnsInfo(NamedTuple):
    """What is known of a namespace."""

    netns: Union[str, bytes, int]
    """The reference as it was given, the number for a file object."""
    path: Optional[str]
    """Where the name stands; None for a descriptor."""
    alive: bool
    """False for a dead entry: the mount point is there and no namespace on it."""
    device: Optional[int]
    """Device and inode: equal exactly for references to the same namespace. None if dead."""
    inode: Optional[int]
    nsid: Optional[int]
    """The number the calling thread's namespace has for it; None if it has none."""
    pids: tuple[int, ...]
    """The processes in it, as far as one may look (CAP_SYS_PTRACE)."""


def info(netns: Optional[Ref], *, pid: Optional[int] = None) -> NetnsInfo:
    """What is known of the namespace: identity, nsid, processes, mount alive or dead.

    Raises: as `open_ref`, but a dead entry is reported, not refused.
    """
    ref = filename(netns, pid)
    path = pid_path(pid) if pid is not None else None
    if pid is None and is_place(netns):
        path = os.fsdecode(place_of(netns).path)
    try:
        opened = open_ref(netns, pid=pid)
    except OSError:
        if path is None or pid is not None or not is_dead(os.fsencode(path)):
            raise
        return NetnsInfo(ref, path, False, None, None, None, ())
    with opened as nsfd:
        found = os.fstat(nsfd)
        nsid = nsid_of(nsfd)
    key = found.st_dev, found.st_ino
    pids = tuple(sorted(pid for pid, other in process_namespaces() if other == key))
    return NetnsInfo(ref, path, True, found.st_dev, found.st_ino, nsid, pids)


_RTGENMSG = struct.Struct("=B3x")  # family
_NLATTR = struct.Struct("=HH")  # length, type
_VALUE = struct.Struct("=i")  # of each attribute here, and the error number of an NLMSG_ERROR
_NETNSA = {name: kind for kind, (name, _) in enumerate(nsidmsg.nla_map)}


def nsid_of(nsfd: int) -> Optional[int]:
    """The id of the namespace in the calling thread's. rtnetlink(7), linux/net_namespace.h.

    Written by hand: it has a single attribute, for which the codec would be imported.
    """
    fields = _RTGENMSG.pack(socket.AF_UNSPEC) + _NLATTR.pack(_NLATTR.size + _VALUE.size, _NETNSA["NETNSA_FD"])
    request = fields + _VALUE.pack(nsfd)
    header = NLMSGHDR.pack(NLMSGHDR.size + len(request), RTM_GETNSID, NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.sendto(header + request, (0, 0))
        answer = sock.recv(65536)
    _, kind, *_ = NLMSGHDR.unpack_from(answer)
    if kind == NLMSG_ERROR:
        code = -_VALUE.unpack_from(answer, NLMSGHDR.size)[0]
        raise OSError(code, f"RTM_GETNSID: {os.strerror(code)}", nsfd)
    offset = NLMSGHDR.size + _RTGENMSG.size
    while offset + _NLATTR.size + _VALUE.size <= len(answer):
        size, kind = _NLATTR.unpack_from(answer, offset)
        if kind == _NETNSA["NETNSA_NSID"]:
            nsid: int = _VALUE.unpack_from(answer, offset + _NLATTR.size)[0]
            return nsid if nsid >= 0 else None
        offset += max(_NLATTR.size, size + 3 & ~3)
    return None
