"""On the path of every Python that tests start: each proxy is told to the process that runs tests/relay/power, and used
only once it is followed. POWER_SOCKET: where to tell it.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from fastns import _core

real = _core.RelayClient


def told(*args: Any, **kwargs: Any) -> _core.RelayClient:
    client = real(*args, **kwargs)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ["POWER_SOCKET"])
        connection.sendall(b"%d\n" % client.pid)
        connection.recv(1)
    return client


_core.RelayClient = told  # type: ignore[misc, assignment]
