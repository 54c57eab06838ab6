"""Opening what a handle talks through: its transports, from the options the user gave."""

from __future__ import annotations

import errno
from functools import partial
from typing import Any, Callable, TypeVar

from pyroute2 import config
from pyroute2.iproute.ipmock import IPEngine
from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP, SOL_NETLINK

import fastns.netns
import fastns.proxy
from fastns._core import NetlinkSocket, borrowed, poll_readable

TRANSPORTS = ("auto", "direct", "relay")
DUMP_POLICIES = ("retry", "raise", "flag")
RCVBUF = 1 << 20
# Room for some 100,000 events, should the receiver get no processor time at all; memory is taken only as they come.
EVENTS_RCVBUF = 64 << 20

T = TypeVar("T")


class PySocket:
    """A transport over a socket-like object of the user (`use_socket=`), or over pyroute2's mock engine."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.of_one_thread = isinstance(sock, IPEngine)  # it answers the thread that sends
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def fileno(self) -> int:
        return int(self.sock.fileno())

    def send(self, data: Any, fds: Any = ()) -> int:
        return int(self.sock.send(data))

    def recv(self, timeout: float | None = None) -> bytes:
        if not poll_readable(self.sock.fileno(), timeout=timeout):
            raise TimeoutError(f"recv: nothing arrived within {timeout} s")
        return bytes(self.sock.recv(1 << 20))

    def bind(self, portid: int = 0, groups: int = 0) -> None:
        self.sock.bind((portid, groups))

    def add_membership(self, group: int) -> None:
        self.sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def drop_membership(self, group: int) -> None:
        self.sock.setsockopt(SOL_NETLINK, NETLINK_DROP_MEMBERSHIP, group)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            if hasattr(self.sock, "close"):
                self.sock.close()


def open_engine(engine: Callable[..., T], options: dict[str, Any]) -> T:
    """Check the options, open the transport of requests and make the engine on it."""
    if options["transport"] not in TRANSPORTS:
        raise ValueError(f"transport {options['transport']!r} is none of {', '.join(TRANSPORTS)}")
    if options["dump_intr"] not in DUMP_POLICIES:
        raise ValueError(f"dump_intr {options['dump_intr']!r} is none of {', '.join(DUMP_POLICIES)}")
    if options["transport"] == "direct" and options["proxy"] is not None:
        raise ValueError("transport 'direct' and a proxy exclude each other")
    if options["fileno"] is not None and (options["netns"] is not None or options["pid"]):
        raise TypeError("fileno and a namespace exclude each other: the socket is open already")
    options["pid"] = options["pid"] or None
    options["target"] = options["target"] or "localhost"
    if config.mock_netlink:
        options["use_socket"] = mock_kernel(options)
    relay = None
    transport: Any
    if options["use_socket"] is not None:
        transport = PySocket(options["use_socket"])
    else:
        relay = choose_relay(options["transport"], options["proxy"])
        transport = open_direct(options) if relay is None else open_relay(relay, options)
    return engine(
        transport,
        open_events=partial(open_events, transport, relay, options),
        open_beside=partial(open_beside, transport, relay, options),
        options=options,
        relayed=relay is not None,
    )


def mock_kernel(options: dict[str, Any]) -> Any:
    kernel = IPEngine()
    if options["netns"] is not None:
        kernel.netns = options["netns"]
    kernel.flags = options["flags"]
    kernel.initdb()
    return kernel


def choose_relay(transport: str, proxy: Any) -> Any:
    if transport == "direct":
        return None
    if proxy is None:
        proxy = fastns.proxy.default()
    if proxy is None and transport == "relay":
        proxy = fastns.proxy.shared()
    return proxy


def open_direct(options: dict[str, Any]) -> NetlinkSocket:
    settings = socket_settings(options)
    reference, pid = options["netns"], options["pid"]
    if options["fileno"] is not None:
        return NetlinkSocket(fileno=options["fileno"], **settings)
    if reference is None and pid is None:
        return NetlinkSocket(**settings)
    with fastns.netns.open_ref(reference, options["flags"], pid=pid, libc=options["libc"]) as nsfd:
        return NetlinkSocket(nsfd, filename=reference if pid is None else pid, **settings)


def open_relay(relay: Any, options: dict[str, Any]) -> Any:
    return relay.open(
        options["netns"],
        flags=options["flags"],
        pid=options["pid"],
        libc=options["libc"],
        **socket_settings(options),
    )


def socket_settings(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "rcvbuf": options["rcvbuf"] or RCVBUF,
        "sndbuf": options["sndbuf"],
        "ext_ack": options["ext_ack"],
        "strict_check": options["strict_check"],
        "all_ns": options["all_ns"],
    }


def open_events(transport: Any, relay: Any, options: dict[str, Any], **more: Any) -> Any:
    """The transport of events, in the namespace `transport` is in: through a proxy unless the handle is direct."""
    settings = {**socket_settings(options), "rcvbuf": options["rcvbuf"] or EVENTS_RCVBUF, **more}
    if relay is None and options["transport"] != "direct" and options["fileno"] is None:
        return open_beside(transport, fastns.proxy.shared(), options, **settings)
    return open_beside(transport, relay, options, **settings)


def open_beside(transport: Any, relay: Any, options: dict[str, Any], **settings: Any) -> Any:
    """One more socket in the namespace `transport` is in: the proxy's, or without one this process's own."""
    if options["use_socket"] is not None:
        raise OSError(errno.EOPNOTSUPP, "a handle on a socket the user gave cannot open another one")
    if relay is None:
        settings.pop("ring_size", None)
    if not isinstance(transport, NetlinkSocket):
        return relay.open(options["netns"], pid=options["pid"], beside=transport, **settings)
    try:
        # Never by the reference: the name may mean another namespace by now.
        opened = transport.netns_fd()
    except PermissionError:
        if options["netns"] is None and options["pid"] is None:
            opened = borrowed(-1)
        else:
            opened = fastns.netns.open_ref(options["netns"], 0, pid=options["pid"])
    with opened as nsfd:
        if relay is None:
            return NetlinkSocket(nsfd, filename=options["netns"], force=True, **settings)
        return relay.open(None if nsfd < 0 else nsfd, **settings)
