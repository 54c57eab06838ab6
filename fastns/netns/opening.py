"""References into open descriptors, and the namespace made where there is none. open(2)'s flags."""

from __future__ import annotations

import errno
import os
import time
from typing import Any, Optional

from fastns import _core
from fastns.netns.reference import (
    Place,
    Ref,
    check_libc,
    descriptor,
    is_bare,
    is_place,
    is_run_dir,
    mockable,
    pid_path,
    place_of,
)


def open_process(path: str) -> _core.Descriptor:
    """A descriptor of the namespace of the process whose `pid_path` this is."""
    return _core.ns_open(path.encode(), path, "open /proc/PID/ns/net")


def open_ref(
    netns: Optional[Ref], flags: int = 0, *, pid: Optional[int] = None, libc: Any = None
) -> _core.Descriptor:
    """An open descriptor of the namespace, and whether the caller has to close it.

        with open_ref("blue") as nsfd:
            ...
        nsfd, owned = open_ref("blue")

    In the first way it is closed at the end of the block if it is to be closed, whatever interrupts the block.

    `flags`: `os.O_CREAT` makes a namespace that is missing, with `os.O_EXCL` it must be missing, as in open(2).
    `pid` gives the namespace of a process instead; `netns` is None then.

    Raises: ValueError for a name that cannot be one, TypeError for what is no reference; FileNotFoundError where
    there is nothing (and no O_CREAT), FileExistsError (O_CREAT | O_EXCL), OSError(EINVAL) for what is no network
    namespace, a dead entry included, OSError(EBADF) for a closed descriptor, PermissionError.
    """
    if pid is not None:
        if netns is not None:
            raise TypeError("a namespace is given by a reference or by pid=, not by both")
        return open_process(pid_path(pid))
    if is_place(netns):
        place = place_of(netns)
        if flags & os.O_CREAT:
            return open_or_create(place, flags, libc)
        return _core.ns_open(place.path, place.ref)
    fd = descriptor(netns)
    _core.ns_check(fd, fd)
    return _core.borrowed(fd)


@mockable
def getnsfd(netns: Ref, flags: int = 0, libc: Any = None, fork: bool = True) -> int:
    """An open descriptor of the namespace: a new one, to be closed by the caller, for a name or a path; the very
    same for a descriptor or file object.

    `flags` as in open(2): os.O_CREAT, os.O_CREAT | os.O_EXCL. `libc` and `fork` are not used. Errors: `open_ref`.
    """
    fd: int = open_ref(netns, flags, libc=libc)[0]
    return fd


def open_or_create(place: Place, flags: int, libc: Any) -> _core.Descriptor:
    exclusive = flags & os.O_EXCL
    for attempt in range(64):
        if not exclusive:
            try:
                return _core.ns_open(place.path, place.ref)
            except FileNotFoundError:
                pass
            except OSError:
                # Perhaps half made by somebody who is about to mount. iproute2 makes the namespace in between.
                if attempt == 63 or not is_fresh(place.path):
                    raise
                time.sleep(0.005)
                continue
        check_libc(libc, "mount")
        try:
            made = make(place, keep=True)
            assert made is not None
            return made
        except FileExistsError:
            if exclusive:
                raise
    raise FileNotFoundError(errno.ENOENT, "made and removed again and again by others", place.ref)


def is_fresh(path: bytes) -> bool:
    """A mount point, nothing mounted on it, and less than a quarter of a second old."""
    try:
        found = os.lstat(path)
    except OSError:
        return True
    return is_bare(found) and -0.25 < time.time() - found.st_ctime < 0.25


def make(place: Place, *, keep: bool = False) -> Optional[_core.Descriptor]:
    """Make a namespace with that name; with `keep` the result is an open descriptor of it."""
    refuse_taken(place)
    return _core.ns_create(place.directory, place.path, is_run_dir(place), keep, place.ref)


def refuse_taken(place: Place) -> None:
    if _core.ns_taken(place.path):  # a namespace made in vain costs more than this look
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), place.ref)
