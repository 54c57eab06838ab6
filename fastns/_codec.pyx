"""Netlink messages: decode, encode, iterate. Knows bytes, no sockets."""

from fastns cimport _linux as lx

include "_plan.pxi"
include "_decode.pxi"
include "_lazy.pxi"
include "_datagram.pxi"
include "_build.pxi"
include "_build_tables.pxi"
include "_build_kinds.pxi"
include "_buffers.pxi"
include "_batch.pxi"
include "_encode_plan.pxi"
include "_encode.pxi"
include "_table.pxi"
