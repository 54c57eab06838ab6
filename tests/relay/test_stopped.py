"""A proxy that is stopped: whoever waits for it hears of it, and goes on with it once it runs again."""

from __future__ import annotations

import errno
import os
import signal
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import pytest
from guard import descriptors
from handwritten import get_link

from fastns import _core
from fastns.proxy import Proxy

pytestmark = pytest.mark.root

SECONDS = 0.2


@contextmanager
def stopped(proxy: Proxy) -> Iterator[None]:
    os.kill(proxy.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(proxy.pid, signal.SIGCONT)


def send_until_full(channel: _core.RelayChannel) -> None:
    while True:
        channel.send(get_link())


WAITS: dict[str, Callable[[Any, Any], Any]] = {
    "open": lambda proxy, _: proxy.open(),
    "stats": lambda proxy, _: proxy.stats(),
    "bind": lambda _, channel: channel.bind(0, 1),
    "getsockname": lambda _, channel: channel.getsockname(),
    "setsockopt": lambda _, channel: channel.setsockopt(_core.SOL_NETLINK, _core.NETLINK_EXT_ACK, 1),
    "getsockopt": lambda _, channel: channel.getsockopt(_core.SOL_NETLINK, _core.NETLINK_EXT_ACK),
    "netns_fd": lambda _, channel: channel.netns_fd(),
    "send": lambda _, channel: send_until_full(channel),
}


@pytest.mark.parametrize("wait", WAITS)
def test_no_wait_is_without_end(proxy, channel, monkeypatch, wait):
    proxy.open().close()  # its ring is kept for the next one
    proxy.stats()
    held = sorted(text.partition(":")[0] for text in descriptors().values())
    with monkeypatch.context() as patch:
        patch.setattr(_core, "ANSWER_TIMEOUT", SECONDS)
        with stopped(proxy):
            for _ in range(2):
                with pytest.raises(TimeoutError, match=f"proxy process {proxy.pid} .*stopped") as caught:
                    WAITS[wait](proxy, channel)
                assert caught.value.errno == errno.ETIMEDOUT
    # what was given up is answered now, before this, with its descriptors
    assert proxy.stats()["channels"] >= 1
    proxy.open().close()
    assert channel.getsockname()[0] != 0
    assert sorted(text.partition(":")[0] for text in descriptors().values()) == held


def test_many_threads_behind_each_other(proxy, monkeypatch):
    monkeypatch.setattr(_core, "ANSWER_TIMEOUT", SECONDS)
    errors = []

    def ask() -> None:
        try:
            proxy.stats()
        except OSError as error:
            errors.append(error.errno)

    with stopped(proxy):
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == [errno.ETIMEDOUT] * 8
    assert proxy.alive
