"""Mutated netlink datagrams through the whole decoding surface.

    python tests/fuzz/fuzz_decode.py [--seconds 60] [--seed N] [--compare] [FILE...]

Starts from tests/fuzz/corpus and tests/data/captured and mutates for the given time. Meant for a build with
sanitizers (FASTNS_SANITIZE=1, LD_PRELOAD=libasan): a read outside the datagram or a crash ends the process. Also
fails on an exception that decoding must not raise, on a datagram that takes long, and on values that depend on
bytes behind the message. `--compare` looks at each message with pyroute2 too. FILE: only these inputs, once.

Prints the seed; an input that fails is written to the current directory as fuzz-<hash>.bin.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "codec"))

from compare import MARSHALS, Finite, differences, look  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkDecodeError  # noqa: E402
from rawmessages import classes, message  # noqa: E402

from fastns import _codec  # noqa: E402
from fastns.schema import marshal_class, schema  # noqa: E402

TOO_LONG = 10.0  # seconds for one datagram, sanitizers and a busy machine included

INTERESTING = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 19, 20, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF]


class Failure(Exception):
    pass


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        if not out:
            break
        at = rng.randrange(len(out))
        action = rng.randrange(9)
        if action == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            out[at] = rng.randrange(256)
        elif action == 2:  # lengths and types are 16-bit numbers at even places
            at &= ~1
            out[at : at + 2] = struct.pack("=H", rng.choice(INTERESTING))
        elif action == 3:
            at &= ~3
            out[at : at + 4] = struct.pack("=I", rng.choice([*INTERESTING, 0x7FFFFFFF, 0xFFFFFFFF, len(out)]))
        elif action == 4:
            del out[at:]
        elif action == 5:
            del out[at : at + rng.choice([1, 2, 4, 8, 16])]
        elif action == 6:
            out[at:at] = rng.randbytes(rng.choice([1, 2, 4, 8, 16]))
        elif action == 7:
            piece = rng.choice(others)
            start = rng.randrange(len(piece)) & ~3
            out[at & ~3 : at & ~3] = piece[start : start + 4 * rng.randrange(1, 40)]
        else:
            out[at:at] = out[at : at + 4 * rng.randrange(1, 20)]
    return bytes(out[:65536])


def walk(value: Any, depth: int = 0) -> None:
    """Everything a user can do to look at a message."""
    if depth > 40:
        return
    keys = list(value)
    for key in keys:
        value.get(key)
        value[key]
    for slot in value.get("attrs") or [] if "attrs" in value else []:
        found = slot.value
        slot.nla  # noqa: B018
        slot.get_flags()
        try:
            slot[0:2]
        except TypeError:
            pass  # pyroute2's slot fails so for an array that cannot be decoded
        for nested in found if isinstance(found, list) else [found]:
            if hasattr(nested, "get_attr"):
                walk(nested, depth + 1)


def explore(parser: Any, data: bytes) -> None:
    def fresh() -> list[Any]:
        out: list[Any] = []
        try:
            _codec.parse(parser, data, out)
        except NetlinkDecodeError:
            pass
        return out

    names = [
        "family",
        "index",
        "flags",
        "state",
        "event",
        "ifname",
        "dst",
        "table",
        "IFLA_LINKINFO",
        "UNKNOWN",
    ]
    for msg in fresh():
        for key in names:
            for read in (msg.get, msg.get_attr, msg.get_nested, msg.__contains__):
                try:
                    read(key)
                except NetlinkDecodeError:
                    pass
    for msg in fresh():
        try:
            walk(msg)
            dumped(msg)
            repr(msg)
        except NetlinkDecodeError:
            pass
    for read in (_codec.ends_dump, _codec.split, _codec.scan_acks, _codec.find_fds):
        try:
            read(data)
        except ValueError:
            pass
    out: list[Any] = []
    try:
        _codec.parse_dump(parser, data, out, 7)
    except NetlinkDecodeError:
        pass


def dumped(msg: Any) -> Any:
    try:
        return msg.dump()
    except (RecursionError, AttributeError, TypeError, KeyError):
        return None  # pyroute2's dump() is its own affair


def behind(parser: Any, data: bytes, rng: random.Random) -> None:
    """The same bytes must give the same message whatever lies behind them in the buffer."""
    if len(data) < 16:
        return
    size = struct.unpack_from("=I", data)[0]
    if not 16 <= size <= len(data):
        return
    seen = []
    for tail in (b"\0" * 64, b"\xff" * 64):
        out: list[Any] = []
        try:
            _codec.parse(parser, data[:size] + bytes(16) + tail, out)
            seen.append(look(out[0]) if out else None)
        except NetlinkDecodeError as error:
            seen.append(look(out[0]) if out else type(error).__name__)
        except RecursionError:
            return
    found = list(differences(seen[0], seen[1]))
    if found:
        raise Failure(f"depends on what lies behind the message: {found}")


def compare(ours: Any, theirs: Any, data: bytes) -> None:
    if len(data) < 16 or struct.unpack_from("=I", data)[0] < 16:
        return
    alone = data[: struct.unpack_from("=I", data)[0]]
    if len(alone) >= 20 and alone[4:6] == b"\3\0":
        return  # a dump that ended with an error is told from one that did not, here
    finite = Finite(alone)
    try:
        expected = [look(msg) for msg in theirs.parse(finite)]
    except Exception:
        return
    if finite.endless:
        return
    try:
        found = list(differences([look(msg) for msg in ours.parse(alone)], expected))
    except NetlinkDecodeError:
        return
    if found and "errmsg" not in found[0]:
        raise Failure(f"not as pyroute2: {found}")


def corpus() -> list[tuple[int, bytes]]:
    found = []
    for folder in (HERE / "corpus", HERE.parent / "data" / "captured"):
        found += [(int(path.name.split("-")[0]), path.read_bytes()) for path in sorted(folder.glob("*.bin"))]
    return found


def generated(rng: random.Random) -> list[tuple[int, bytes]]:
    """Messages of the classes that the captured ones do not show."""
    found = []
    for family, marshal in MARSHALS.items():
        for kind, cls in marshal.msg_map.items():
            if isinstance(kind, int) and schema(cls).lazy:
                found += [(family, message(rng, cls, kind)) for _ in range(2)]
    return found


def too_long(*_: Any) -> None:
    raise Failure("takes too long")


def main() -> int:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--seconds", type=float, default=float(os.environ.get("FASTNS_FUZZ_SECONDS", "60")))
    parse.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parse.add_argument("--compare", action="store_true")
    parse.add_argument("files", nargs="*", type=Path)
    option = parse.parse_args()
    logging.disable(logging.CRITICAL)
    classes()
    signal.signal(signal.SIGALRM, too_long)
    rng = random.Random(option.seed)
    print(f"fuzz_decode: seed {option.seed}, {option.seconds:.0f} s", flush=True)
    ours = {family: marshal_class(marshal)() for family, marshal in MARSHALS.items()}
    theirs = {family: marshal() for family, marshal in MARSHALS.items()}

    def one(family: int, data: bytes) -> None:
        signal.setitimer(signal.ITIMER_REAL, TOO_LONG)
        try:
            explore(ours[family], data)
            behind(ours[family], data, rng)
            if option.compare:
                compare(ours[family], theirs[family], data)
        except Exception:
            name = Path(f"{family}-fuzz-{hashlib.sha256(data).hexdigest()[:16]}.bin")
            name.write_bytes(data)
            print(f"written: {name}", flush=True)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    if option.files:
        for path in option.files:
            one(int(path.name.split("-")[0]), path.read_bytes())
        return 0
    seeds = corpus() + generated(rng)
    bodies = [data for _, data in seeds if len(data) >= 8]
    done = 0
    for family, data in seeds:
        one(family, data)
    end = time.monotonic() + option.seconds
    while time.monotonic() < end:
        family, data = rng.choice(seeds)
        if len(data) > 4096 and rng.random() < 0.9:
            size = struct.unpack_from("=I", data)[0]
            data = data[: max(16, min(size, 4096))]
        one(family, mutate(rng, data, bodies))
        done += 1
    print(f"fuzz_decode: {done} mutated datagrams")
    return 0


if __name__ == "__main__":
    sys.exit(main())
