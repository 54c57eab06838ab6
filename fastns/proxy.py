"""The proxy process: one small C process that owns netlink sockets in any number of namespaces.

It is forked from this process and needs nothing of it afterwards: requests reach it over a socket, answers and
events come back through a ring of memory both sides map. It keeps the privileges it was forked with, so a program
that drops its own goes on managing namespaces; it receives events while the interpreter is busy; it ends when
this process ends, in whatever way.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
import weakref
from _thread import RLock
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from functools import partial
from socket import NETLINK_ROUTE
from types import TracebackType
from typing import Any, Optional

from fastns import _core
from fastns import netns as netns_module

__all__ = ["Proxy", "close_shared", "default", "shared"]

RING_SIZE = 32 << 20  # pages are used only for what a ring holds
RCVBUF = 8 << 20

# netlink.h. The proxy knows the closed ones by relay/boundary.c; why these, docs/security.md says.
CLOSED_FAMILIES = {0, 4, 6, 12}  # NETLINK_ROUTE, SOCK_DIAG, XFRM, NETFILTER
FAMILY_NAMES = {
    2: "NETLINK_USERSOCK",
    3: "NETLINK_FIREWALL",
    5: "NETLINK_NFLOG",
    7: "NETLINK_SELINUX",
    8: "NETLINK_ISCSI",
    9: "NETLINK_AUDIT",
    10: "NETLINK_FIB_LOOKUP",
    11: "NETLINK_CONNECTOR",
    13: "NETLINK_IP6_FW",
    14: "NETLINK_DNRTMSG",
    15: "NETLINK_KOBJECT_UEVENT",
    16: "NETLINK_GENERIC",
    18: "NETLINK_SCSITRANSPORT",
    19: "NETLINK_ECRYPTFS",
    20: "NETLINK_RDMA",
    21: "NETLINK_CRYPTO",
    22: "NETLINK_SMC",
}

_lock = RLock()
_shared: Optional[Proxy] = None
_defaults: list[Proxy] = []
_clients: weakref.WeakSet[_core.RelayClient] = weakref.WeakSet()
_hooked = False


class Proxy:
    """A proxy process, forked now, with the rights this process has now.

    `netns`: the namespaces it may enter, a reference or an iterable of them; None: any. A name in the run directory
    stands for whatever namespace has it when it is used, resolved by the proxy; a path, descriptor or process for the
    namespace it means now, which lives on as long as the proxy. Everything else is refused with EACCES, also where a
    request names another namespace by descriptor, process or namespace id.
    `read_only`: the proxy gives CAP_NET_ADMIN away, so the kernel answers changes with EPERM.
    `families`: netlink families, as numbers; None: NETLINK_ROUTE where `netns` is given or `read_only`, else any. With
    either of these no others than 0, 4, 6 and 12 (NETLINK_ROUTE, SOCK_DIAG, XFRM, NETFILTER) can be had: ValueError.
    A request that was sent is done, also when its channel, the proxy or this process ends before the proxy reads it.
    `max_channels` bounds the handles open at a time (1 to 65535). `default=True`: handles with `transport="auto"`
    use this proxy while it is alive.

    Of its rights the process keeps CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_BROADCAST (where it has and needs them);
    no other descriptor, no memory of this process, no terminal, no user whose files it could open, and only the system
    calls its work takes. See docs/security.md.

    Threads may share it. In a forked child it is unusable (OSError EBADF) and close() touches only the child's
    copy. The process is not seen by `os.wait()` and sends no SIGCHLD; close() reaps it.

    Raises: OSError naming the step of the start that failed (EAGAIN, ENOMEM: no process; EMFILE: no descriptor; EINVAL:
    children of this thread go to another PID namespace; ENOSYS: a policy, and no seccomp to keep it with).
    Source: clone(2), socketpair(2), unix(7), capabilities(7), landlock(7), seccomp(2).
    """

    def __init__(
        self,
        netns: Any = None,
        read_only: bool = False,
        families: Optional[Iterable[int]] = None,
        *,
        max_channels: int = 4096,
        default: bool = False,
    ) -> None:
        _hook()
        _core.reap_abandoned()
        mask = _families_mask(families, netns is not None or read_only)
        with ExitStack() as stack:
            self._client = _core.RelayClient(
                os.fsencode(netns_module.NETNS_RUN_DIR),
                max_channels,
                bool(read_only),
                mask,
                None if netns is None else _allowed(netns, stack),
                _remember,
            )
        self.pid = self._client.pid
        if default:
            _defaults.append(self)

    @property
    def alive(self) -> bool:
        """Whether the process serves. False after close(), in a forked child, and when it ended by itself."""
        return self._client.alive

    @property
    def status(self) -> Optional[int]:
        """The wait(2) status once the process has been found dead or was closed, else None."""
        return self._client.status

    def open(
        self,
        ref: Any = None,
        *,
        flags: int = 0,
        pid: Optional[int] = None,
        libc: Any = None,
        family: int = NETLINK_ROUTE,
        rcvbuf: int = 0,
        sndbuf: int = 0,
        groups: int = 0,
        portid: int = 0,
        ext_ack: bool = True,
        strict_check: bool = False,
        all_ns: bool = False,
        cap_ack: bool = False,
        ring_size: int = 0,
        beside: Optional[_core.RelayChannel] = None,
    ) -> _core.RelayChannel:
        """A netlink socket in a namespace, owned by the proxy. None is the calling thread's namespace.

        A plain name is resolved by the proxy, with its rights; paths, descriptors and `pid` by this process.
        `flags`: as for `NetNS`. `rcvbuf`, `sndbuf`: bytes, beyond the system's limits where the proxy may; 0: 8 MiB
        and the kernel's default. `ring_size`: bytes kept for what this process has not read yet, rounded up to a
        power of two; 0: 32 MiB. `beside`: a channel of this proxy, in whose namespace the new one is opened instead
        of where `ref` says.

        Raises: OSError with the reference as `filename`: ENOENT, EPERM (setns(2): CAP_SYS_ADMIN over the
        namespace), EINVAL (no network namespace), EPROTONOSUPPORT (family), EMFILE (descriptors or `max_channels`),
        ENOMEM, EACCES (not within the proxy's policy); ProxyError when the process is gone; TimeoutError, which names
        its pid, when it has not answered within half a minute. What it says later is thrown away.
        """
        open_channel = partial(
            self._client.open,
            filename=ref if pid is None else pid,
            family=family,
            rcvbuf=rcvbuf or RCVBUF,
            sndbuf=sndbuf or 0,
            groups=groups,
            portid=portid,
            ring_size=ring_size or RING_SIZE,
            ext_ack=bool(ext_ack),
            strict_check=bool(strict_check),
            all_ns=bool(all_ns),
            cap_ack=bool(cap_ack),
        )
        if beside is not None:
            return open_channel(None, -1, beside=beside)
        if pid is None and not flags & os.O_EXCL and isinstance(ref, (str, bytes)) and _is_name(ref):
            try:
                return open_channel(os.fsencode(ref), -1)
            except OSError as error:
                # Nothing there, or half made by somebody who is about to mount: the long way makes or explains it.
                if error.errno != errno.EINVAL and (error.errno != errno.ENOENT or not flags & os.O_CREAT):
                    raise
        if pid is None and ref is None:
            opened = _core.ns_self()
        else:
            opened = netns_module.open_ref(ref, flags, pid=pid, libc=libc)
        with opened as nsfd:
            return open_channel(None, nsfd)

    def stats(self) -> dict[str, int]:
        """Counters since the start: channels now, opened, requests, datagrams, bytes, overruns, refused, ...

        Raises: ProxyError, TimeoutError as `open`.
        """
        return self._client.stats()

    def close(self) -> None:
        """End the process and reap it. Handles that use it get ProxyError. Twice is fine."""
        # No lock, as for all that notes proxies: a signal handler may close one in the middle of anything.
        with suppress(ValueError):
            _defaults.remove(self)
        self._client.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def __del__(self) -> None:
        client = getattr(self, "_client", None)
        if client is None or client.closed:
            return
        if client.alive and self is not _shared and not sys.is_finalizing():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
        client.close()

    def __repr__(self) -> str:
        return f"<fastns.Proxy pid={self._client.pid} {'alive' if self.alive else 'closed'}>"


def _remember(client: _core.RelayClient) -> None:
    """A forked child lets its copies of the connections go, or a proxy would not see its caller's end. Before there is one:
    a child may be forked by another thread at any moment."""
    _clients.add(client)


def _hook() -> None:
    """Before the lock is first taken: a child forked while another thread holds it needs a new one."""
    global _hooked
    if not _hooked:
        os.register_at_fork(after_in_child=_after_fork)  # twice, should two threads meet here, does no harm
        _hooked = True


def _after_fork() -> None:
    global _lock, _shared
    _lock = RLock()  # a thread that does not exist here may have held it
    _shared = None
    _defaults.clear()
    for client in list(_clients):
        client.close()
    _clients.clear()


def _families_mask(families: Optional[Iterable[int]], closed: bool) -> int:
    """`closed`: of the families whose requests the proxy can judge, only; it checks that again."""
    if families is None:
        return 1 << NETLINK_ROUTE if closed else 0xFFFFFFFF
    mask = 0
    for family in families:
        if not 0 <= family < 32:
            raise ValueError(f"{family!r} is no netlink family")
        if closed and family not in CLOSED_FAMILIES:
            name = FAMILY_NAMES.get(family, "unknown")
            raise ValueError(
                f"netlink family {family} ({name}) cannot be had with a list of namespaces or read_only: "
                "what these hold back could be done or seen through it"
            )
        mask |= 1 << family
    return mask


def _allowed(netns: Any, stack: ExitStack) -> list[tuple[Optional[bytes], int]]:
    """The list as the proxy takes it: names, and descriptors that `stack` closes."""
    single = isinstance(netns, (str, bytes, int)) or hasattr(netns, "fileno") or not isinstance(netns, Iterable)
    allowed: list[tuple[Optional[bytes], int]] = []
    for ref in (netns,) if single else netns:
        if isinstance(ref, (str, bytes)) and _is_name(ref):
            allowed.append((os.fsencode(ref), -1))
            continue
        allowed.append((None, stack.enter_context(netns_module.open_ref(ref))))
    return allowed


def _is_name(ref: Any) -> bool:
    name = os.fsencode(ref)
    return 0 < len(name) <= 255 and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def shared() -> Proxy:
    """The one proxy of this Python process: forked at first need, again when it died and in a forked child."""
    global _shared
    _hook()
    with _lock:
        if _shared is None or not _shared.alive:
            if _shared is not None:
                _shared._client.close()
            _shared = Proxy()
        return _shared


def close_shared() -> None:
    """End the shared proxy, if there is one; the next need forks another."""
    global _shared
    proxy, _shared = _shared, None
    if proxy is not None:
        proxy.close()
    _core.reap_abandoned(1000)


def default() -> Optional[Proxy]:
    """The living `Proxy(default=True)` made last, or None."""
    for proxy in reversed(tuple(_defaults)):
        if proxy.alive:
            return proxy
        with suppress(ValueError):
            _defaults.remove(proxy)
    return None
