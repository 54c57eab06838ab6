"""A channel of a proxy, for the tests of the relay."""

from __future__ import annotations

from typing import Iterator

import pytest

from fastns._core import RelayChannel
from fastns.proxy import Proxy


@pytest.fixture
def channel(proxy: Proxy) -> Iterator[RelayChannel]:
    """A channel of `proxy` in the namespace of the session."""
    made = proxy.open()
    yield made
    made.close()
