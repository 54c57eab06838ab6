from __future__ import annotations

from typing import Any

from typing_extensions import Buffer

def build(
    kind: str,
    command: object,
    kwarg: dict[str, Any],
    echo: bool = False,
    seq: int = 0,
    pid: int = 0,
    strict_check: bool = False,
) -> bytes | None: ...
def find_fds(data: Buffer, family: int = 0, genl_name: str | None = None) -> list[int]: ...
def split(data: Buffer) -> list[tuple[int, int]]: ...
def patch_header(
    data: Buffer, offset: int, seq: int | None = None, flags: int | None = None, pid: int | None = None
) -> int: ...
def scan_acks(data: Buffer) -> list[tuple[int, int | None, int, int]]: ...
