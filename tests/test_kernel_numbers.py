"""Numbers and places the columns are found by, pyroute2's and ours, against the headers of the kernel."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from pyroute2.netlink import rtnl

from fastns.schema import ADDITIONS, attribute_number, constant, header_fields
from fastns.table import KINDS

INCLUDE = Path("/usr/include")
FORMATS = {
    "unsigned char": "B",
    "__u8": "B",
    "unsigned short": "H",
    "__u16": "H",
    "unsigned int": "I",
    "unsigned": "I",
    "__u32": "I",
    "int": "i",
    "__s32": "i",
}
STRUCTURES = {
    "link": ("linux/rtnetlink.h", "ifinfomsg", "IFLA_", "linux/if_link.h"),
    "addr": ("linux/if_addr.h", "ifaddrmsg", "IFA_", "linux/if_addr.h"),
    "route": ("linux/rtnetlink.h", "rtmsg", "RTA_", "linux/rtnetlink.h"),
    "rule": ("linux/fib_rules.h", "fib_rule_hdr", "FRA_", "linux/fib_rules.h"),
    "neigh": ("linux/neighbour.h", "ndmsg", "NDA_", "linux/neighbour.h"),
    "fdb": ("linux/neighbour.h", "ndmsg", "NDA_", "linux/neighbour.h"),
    "nexthop": ("linux/nexthop.h", "nhmsg", "NHA_", "linux/nexthop.h"),
}


def header(name):
    path = INCLUDE / name
    if not path.exists():
        pytest.skip(f"kernel: {path} is not here")
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def numbers_of(header_name):
    """The names of a header's enumerations, and of its definitions that are plain numbers."""
    text = header(header_name)
    found = {}
    for name, value in re.findall(r"^#define[ \t]+(\w+)[ \t]+(0x[0-9a-fA-F]+|\d+)[ \t]*$", text, re.M):
        found[name] = int(value, 0)
    text = re.sub(r"^[ \t]*#.*$", "", text, flags=re.M)
    for body in re.findall(r"enum\s*\w*\s*\{(.*?)\}", text, re.DOTALL):
        number = 0
        for item in filter(None, map(str.strip, body.split(","))):
            name, _, value = map(str.strip, item.partition("="))
            if value:
                number = found[value] if value in found else int(value, 0) if value.isdigit() else 0
            found[name] = number
            number += 1
    return found


def structure(name, struct_name):
    """(offset, size, signed) of each member of a structure without holes or arrays."""
    body = re.search(rf"struct {struct_name} \{{(.*?)\}}", header(name), re.DOTALL)[1]
    members, offset = [], 0
    for line in filter(None, map(str.strip, body.split(";"))):
        form = FORMATS[" ".join(line.split()[:-1])]
        size = struct.calcsize(form)
        members.append((offset, size, form.islower()))
        offset += size
    return members


@pytest.mark.parametrize("lacking", ADDITIONS)
def test_additions_are_the_kernel_s(lacking):
    addition = ADDITIONS[lacking]
    kernel = numbers_of(addition.header)
    known = {name: number for name, number in addition.numbers.items() if name in kernel}  # the headers may be older
    assert known
    assert known == {name: kernel[name] for name in known}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_the_kernel_s(kind):
    """Also those that come from pyroute2."""
    header_name, struct_name, prefix, numbers_name = STRUCTURES[kind]
    kernel = {**numbers_of("linux/rtnetlink.h"), **numbers_of(numbers_name)}
    made = KINDS[kind]
    assert [constant(rtnl, name) for name in (made.request, made.answer)] == [
        kernel[name] for name in (made.request, made.answer)
    ]
    levels = [made.message, made.nested and made.nested[1]]
    compared = 0
    for source in made.columns:
        if source.attr in kernel:
            assert source.attr.startswith(prefix)
            assert attribute_number(levels[source.level], source.attr) == kernel[source.attr], source.attr
            compared += 1
    assert compared > len({source.attr for source in made.columns}) / 2
    if made.nested:
        assert attribute_number(made.message, made.nested[0]) == kernel[made.nested[0]]
    members = structure(header_name, struct_name)
    ours = [(f.offset, f.size, f.code.islower()) for f in header_fields(made.message) if f.code not in ("", "x")]
    assert set(ours) <= set(members)
