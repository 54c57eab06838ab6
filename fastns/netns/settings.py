"""The settings of a namespace: what stands below /proc/sys/net. sysctl(8)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Optional, TypeVar, Union, cast

from fastns import _core
from fastns.netns.entering import run_in
from fastns.netns.opening import open_ref
from fastns.netns.reference import Ref, filename

T = TypeVar("T")


class Sysctl:
    """The settings below /proc/sys/net of a namespace, by name: see `sysctl`."""

    def __init__(self, netns: Ref) -> None:
        self._netns = netns
        self._ref = filename(netns)

    @staticmethod
    def _path(name: str) -> bytes:
        """As sysctl(8) reads names: the separator that comes first separates, the other one is part of a name."""
        if not isinstance(name, str):
            raise TypeError(f"the name of a setting is a string: {name!r}")
        dot, slash = name.find("."), name.find("/")
        if dot >= 0 and (slash < 0 or dot < slash):
            name_parts = [part.replace("/", ".") for part in name.split(".")]
        else:
            name_parts = name.split("/")
        if (
            len(name_parts) < 2
            or name_parts[0] != "net"
            or "\0" in name
            or any(part in ("", ".", "..") for part in name_parts)
        ):
            raise ValueError(f"not a setting below net: {name!r}")
        return os.fsencode("/proc/sys/" + "/".join(name_parts))

    def _inside(self, call: Callable[..., T], name: str, *args: bytes) -> T:
        with open_ref(self._netns) as nsfd:
            try:
                return call(nsfd, *args, self._ref)
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror} ({name})", self._ref) from None

    def __getitem__(self, name: str) -> str:
        """The value, without the newline at its end. Raises: FileNotFoundError, PermissionError; as `open_ref`."""
        return self._inside(_core.sysctl_read, name, self._path(name)).decode().rstrip("\n")

    def __setitem__(self, name: str, value: Union[str, bytes, int]) -> None:
        """Set it. Privilege: CAP_NET_ADMIN over the namespace.

        Raises: FileNotFoundError, PermissionError, OSError(EINVAL) for a value the kernel refuses; as `open_ref`.
        """
        path = self._path(name)
        if isinstance(value, int):
            data = str(int(value)).encode()
        elif isinstance(value, (str, bytes)):
            data = os.fsencode(value)
        else:
            raise TypeError(f"the value of a setting is a string or a number: {value!r}")
        if not data.endswith(b"\n"):
            data += b"\n"
        self._inside(_core.sysctl_write, name, path, data)

    def __contains__(self, name: object) -> bool:
        try:
            self[cast("str", name)]
        except (ValueError, TypeError, FileNotFoundError, IsADirectoryError):
            return False
        except OSError as error:
            # There, and only to be written, or only with more privilege.
            return error.errno in (errno.EACCES, errno.EPERM, errno.EIO)
        return True

    def get(self, name: str, default: Optional[str] = None) -> Optional[str]:
        """The value, or `default` where the namespace has no such setting. Errors otherwise as for reading."""
        try:
            return self[name]
        except FileNotFoundError:
            return default

    def __iter__(self) -> Iterator[str]:
        """Every name, "." between the parts and "/" for a dot inside one."""
        return iter(run_in(self._netns, _sysctl_names))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._ref!r})"


def _sysctl_names() -> list[str]:
    names = []
    # Each thread's own view; /proc/sys would give the same, it is looked up by the thread that asks.
    for directory, _, files in os.walk("/proc/sys/net"):
        parts = directory.split("/")[3:]
        names += [".".join(part.replace(".", "/") for part in (*parts, file)) for file in files]
    return sorted(names)


def sysctl(netns: Ref) -> Sysctl:
    """The settings below /proc/sys/net of the namespace: `sysctl("blue")["net.ipv4.ip_forward"] = 1`.

    Reads give strings. Names are those of sysctl(8), with "." or "/" between the parts, and stay below `net`.
    Each access opens the reference anew and runs inside the namespace, the caller's thread stays where it is.
    """
    return Sysctl(netns)
