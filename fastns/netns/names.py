"""Names in the run directory: made, removed, listed. ip-netns(8)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional, Union

from fastns import _core
from fastns.netns import reference
from fastns.netns.opening import make, open_process, refuse_taken
from fastns.netns.reference import Ref, check_libc, is_run_dir, mockable, pid_path, place_of


def _get_netnspath(name: Union[str, bytes]) -> bytes:
    """The path of a name, or of a path, as bytes."""
    return place_of(name).path


def _create(netns: Ref, libc: Any = None, pid: Optional[int] = None) -> None:
    """`create`, or with `pid` `attach`. Unlike pyroute2's it leaves the calling thread where it is."""
    check_libc(libc, "mount")
    if isinstance(pid, str) and pid.isdecimal():
        pid = int(pid)
    place = place_of(netns)
    if pid is None:
        make(place)
        return
    path = pid_path(pid)
    refuse_taken(place)
    with open_process(path) as nsfd:
        _core.ns_bind(nsfd, place.directory, place.path, is_run_dir(place), place.ref)


@mockable
def create(netns: Ref, libc: Any = None) -> None:
    """Create a network namespace under a name in the run directory, or at a path.

    Works from any thread and next to `ip netns add`; the calling thread stays in its namespace. Nothing is left
    behind on failure. The run directory becomes a shared mount, as `ip netns add` makes it; the directory of a
    path elsewhere is made if it is missing and otherwise left as it is. `libc` is not used.

    Privilege: CAP_SYS_ADMIN, and write access to the directory.
    Raises: FileExistsError if the name is taken, by a dead entry too; PermissionError; OSError(ENOSPC) at the
    kernel's limit of network namespaces (user.max_net_namespaces) or of mounts (fs.mount-max);
    AttributeError if `libc` is no libc object.
    """
    _create(netns, libc)


@mockable
def attach(netns: Ref, pid: int, libc: Any = None) -> None:
    """Give the network namespace of the process `pid` a name, as if it had been made by `create`.

    Privilege and errors as for `create`, and CAP_SYS_PTRACE over the process.
    Raises also: FileNotFoundError if there is no such process.
    """
    if pid is None:
        raise TypeError("a process id is an integer: None")
    _create(netns, libc, pid)


@mockable
def remove(netns: Ref, libc: Any = None) -> None:
    """Remove a network namespace's name: unmount it and delete its mount point.

    The namespace itself ends with its last user (process, socket, descriptor or other name). Only a network
    namespace's mount is ever unmounted. A dead entry, the mount point alone, is deleted as well: in the run
    directory an empty file, elsewhere an empty file without permission bits, as `create` makes them.

    Privilege: CAP_SYS_ADMIN over the mount namespace, and write access to the directory.
    Raises: FileNotFoundError; OSError(EINVAL) for anything that is no namespace, which is left untouched, symbolic
    links included; PermissionError; AttributeError if `libc` is no libc object.
    """
    check_libc(libc, "umount2")
    place = place_of(netns)
    _core.ns_unbind(place.directory, place.path, is_run_dir(place), place.ref)


def create_many(names: Iterable[Ref], workers: int = 2) -> None:
    """`create` for each name, `workers` at a time. All are tried; then the first error is raised, its `failures` all
    of them by name."""
    for_each(create, names, workers)


def remove_many(names: Iterable[Ref], workers: int = 2) -> None:
    """`remove` for each name. Errors as `create_many`."""
    for_each(remove, names, workers)


def for_each(func: Callable[[Any], None], names: Iterable[Any], workers: int) -> None:
    with ThreadPoolExecutor(max(workers, 1)) as executor:
        futures = {name: executor.submit(func, name) for name in names}
    failures = {name: error for name, future in futures.items() if (error := future.exception())}
    for error in failures.values():
        error.failures = failures  # type: ignore[attr-defined]
        raise error


def listnetns(nspath: Optional[str] = None) -> list[str]:
    """The names in the run directory (or in the directory `nspath`), in no order, dead entries included.

    A directory that does not exist holds no names. Raises: PermissionError, NotADirectoryError.
    """
    try:
        return os.listdir(nspath or reference.NETNS_RUN_DIR)
    except FileNotFoundError:
        return []
