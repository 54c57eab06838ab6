"""Netlink messages: decode, encode, iterate. Knows bytes, no sockets."""

from fastns cimport _linux as lx

include "codec/plan.pxi"
include "codec/decode.pxi"
include "codec/lazy.pxi"
include "codec/datagram.pxi"
include "codec/build.pxi"
include "codec/build_tables.pxi"
include "codec/build_kinds.pxi"
include "codec/buffers.pxi"
include "codec/batch.pxi"
include "codec/encode_plan.pxi"
include "codec/encode.pxi"
include "codec/table.pxi"
