"""pyroute2's own request path, up to the bytes it would send."""

from __future__ import annotations

from typing import Any

from pyroute2.iproute.linux import RTNL_API

SEQ = 0x01020304
PID = 0x0A0B0C0D


class Sent(BaseException):
    """Carries the request out of pyroute2's coroutine."""


class _Tags:
    def alloc(self) -> int:
        return SEQ

    def free(self, *argv: Any, **kwarg: Any) -> None:
        pass

    def ensure_tag(self, tag: int) -> None:
        pass

    def free_tag(self, tag: int) -> None:
        pass


class _Marshal:
    seq_map: dict[int, Any] = {}


class Capture(RTNL_API):
    """An AsyncIPRoute as far as requests need one."""

    def __init__(self, echo: bool = False, strict_check: bool = False) -> None:
        self.addr_pool = self.msg_queue = _Tags()
        self.status = {"nlm_echo": echo, "strict_check": strict_check}
        self.epid = PID
        self.marshal = _Marshal()
        self.batch = None
        self.request_proxy = None

    async def setup_endpoint(self) -> None:
        pass

    def send(self, data: bytes) -> None:
        raise Sent(bytes(data))


def request(
    kind: str, command: Any, kwarg: dict[str, Any], echo: bool = False, strict_check: bool = False
) -> bytes | None:
    """The bytes pyroute2 sends; None if it returns without sending; its exception if it raises."""
    coroutine = getattr(Capture(echo, strict_check), kind)(command, **kwarg)
    try:
        coroutine.send(None)
    except Sent as sent:
        return sent.args[0]
    except StopIteration:
        return None
    finally:
        coroutine.close()
    raise AssertionError("suspended without sending")
