"""One line for `fastns load`, word by word as `ip` takes it: numbers, addresses, names of tables and devices."""

from __future__ import annotations

import socket
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Lookup = Callable[[str], int]

INET, INET6 = int(socket.AF_INET), int(socket.AF_INET6)
BITS = {INET: 32, INET6: 128}


class Words:
    """The words of a line, taken one after the other."""

    def __init__(self, words: list[str], lookup: Lookup) -> None:
        self.words = words
        self.at = 0
        self.lookup = lookup

    def more(self) -> bool:
        return self.at < len(self.words)

    def take(self, after: str) -> str:
        """The next word, which belongs to the one named."""
        if self.at == len(self.words):
            raise ValueError(f"{after}: the value is missing")
        self.at += 1
        return self.words[self.at - 1]

    def peek(self) -> str | None:
        return self.words[self.at] if self.more() else None

    def number(self, after: str, limit: int = 1 << 32) -> int:
        return number(self.take(after), after, limit)

    def device(self, after: str) -> int:
        return self.lookup(self.take(after))

    def named(self, after: str, names: dict[str, int], file: str = "", limit: int = 256) -> int:
        """A number by its name: one of those given, or of iproute2's file."""
        word = self.take(after)
        if word in names:
            return names[word]
        if word[:1].isdigit():
            return number(word, after, limit)
        found = rt_file(file).get(word) if file else None
        if found is None:
            raise ValueError(f"{after}: {word!r} is not known")
        return found

    def switch(self, after: str) -> bool:
        return {"on": True, "off": False}[self.one_of(after, ["on", "off"])]

    def one_of(self, after: str, names: list[str]) -> str:
        word = self.take(after)
        if word not in names:
            raise ValueError(f"{after}: {word!r} is none of {', '.join(names)}")
        return word

    def command(self, what: str, names: list[str]) -> str:
        """The command, or the beginning of it."""
        word = self.take(what)
        for name in names:
            if name.startswith(word):
                return name
        raise ValueError(f"{what}: {word!r} is none of {', '.join(names)}")

    def unknown(self, word: str, what: str) -> NoReturn:
        raise ValueError(f"{what}: {word!r} is not known here")


@cache
def rt_file(name: str) -> dict[str, int]:
    """The names of a file of iproute2, empty where there is none."""
    from pyroute2.netlink import rt_files

    try:
        return dict(getattr(rt_files, name)().name2id)
    except (OSError, ValueError):
        return {}


def number(word: str, what: str, limit: int = 1 << 32) -> int:
    try:
        value = int(word, 0)
    except ValueError:
        raise ValueError(f"{what}: {word!r} is no number") from None
    if not 0 <= value < limit:
        raise ValueError(f"{what}: {word} is not between 0 and {limit - 1}")
    return value


class Prefix(NamedTuple):
    family: int  # 0: any
    address: str | None  # None: the default
    length: int | None  # None: not given


def address(word: str, what: str, family: int = 0) -> tuple[int, str]:
    """Family and text of an address, "10.1" being 10.1.0.0 as for `ip`."""
    found = INET6 if ":" in word else INET
    if family and found != family:
        raise ValueError(f"{what}: {word!r} is an address of the other family")
    text = word + ".0" * (3 - word.count(".")) if found == INET else word
    try:
        socket.inet_pton(found, text)
    except (OSError, ValueError):
        raise ValueError(f"{what}: {word!r} is no address") from None
    return found, text


def prefix(word: str, what: str, family: int = 0) -> Prefix:
    if word in ("default", "any", "all"):
        return Prefix(family, None, 0)
    text, slash, length = word.partition("/")
    family, text = address(text, what, family)
    if not slash:
        return Prefix(family, text, None)
    if family == INET and "." in length:
        mask = int.from_bytes(socket.inet_pton(INET, address(length, what, INET)[1]), "big")
        bits = bin(mask).count("1")
        if mask != (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF:
            raise ValueError(f"{what}: {length!r} is no network mask")
        return Prefix(family, text, bits)
    return Prefix(family, text, number(length, what, BITS[family] + 1))
