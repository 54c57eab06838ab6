# Columns: the Python face of table.h and arrow.h.

import sys

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int16_t, int64_t

cdef extern from "codec/arrow.h":
    enum:
        FNS_UINT
        FNS_INT
        FNS_BE
        FNS_FLAG
        FNS_STR
        FNS_IP
        FNS_HW
        FNS_BYTES
        FNS_NESTED
        FNS_HOPS
        FNS_GROUP
        FNS_TEXT_MAX
        FNS_GROUP_SIZE

    struct ArrowSchema:
        void (*release)(ArrowSchema *) noexcept nogil

    struct ArrowArrayStream:
        void (*release)(ArrowArrayStream *) noexcept nogil

    struct fns_spec:
        uint8_t type
        uint8_t width
        int16_t field

    struct fns_plan:
        uint16_t message
        int columns
        fns_spec *spec

    struct fns_condition:
        int column
        int is_null
        uint32_t length
        uint8_t *value

    struct fns_column:
        uint8_t *values
        int32_t *offsets
        uint8_t *data
        uint8_t *valid
        int64_t nulls

    struct fns_table:
        int64_t rows
        fns_column *column

    struct rtnexthop:
        int rtnh_ifindex
        uint8_t rtnh_flags
        uint8_t rtnh_hops

    fns_plan *fns_plan_new(uint16_t header, uint16_t message, int16_t inner) nogil
    int fns_plan_add(fns_plan *plan, const char *name, int type, int width, int level, int field, int field_width,
                     int attr, int at) nogil
    void fns_plan_put(fns_plan *plan) nogil
    fns_table *fns_table_new(fns_plan *plan, int64_t room) nogil
    void fns_table_put(fns_table *table) nogil
    int fns_row(fns_table *table, const uint8_t *data, size_t length, const fns_condition *conditions, int count) nogil
    int fns_table_finish(fns_table *table) nogil
    fns_table *fns_table_take(const fns_table *table, const int64_t *rows, int64_t count) nogil
    int fns_bit(const uint8_t *bits, int64_t at) nogil
    size_t fns_address_text(const uint8_t *address, size_t length, int type, char *to) nogil
    size_t fns_attr(const uint8_t *data, size_t at, size_t end, uint16_t *type) nogil
    size_t fns_hop(const uint8_t *data, size_t at, size_t end, rtnexthop *hop, const uint8_t **gateway, size_t *size) nogil
    int fns_table_schema(const fns_plan *plan, int text, ArrowSchema *schema) nogil
    int fns_table_stream(fns_table *table, int text, ArrowArrayStream *stream) nogil

COLUMN_TYPES = {
    "uint": FNS_UINT, "int": FNS_INT, "be": FNS_BE, "flag": FNS_FLAG, "str": FNS_STR, "ip": FNS_IP, "hw": FNS_HW,
    "bytes": FNS_BYTES, "nested": FNS_NESTED, "hops": FNS_HOPS, "group": FNS_GROUP,
}

cdef enum:
    CONDITIONS_MAX = 16


cdef void release_stream(object capsule) noexcept:
    cdef ArrowArrayStream *stream = <ArrowArrayStream *> PyCapsule_GetPointer(capsule, b"arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


cdef void release_schema(object capsule) noexcept:
    cdef ArrowSchema *schema = <ArrowSchema *> PyCapsule_GetPointer(capsule, b"arrow_schema")
    if schema.release != NULL:
        schema.release(schema)
    free(schema)


@cython.final
@cython.auto_pickle(False)
cdef class ColumnPlan:
    """Which columns the messages of one kind fill: see fastns.table for the form of `columns`."""

    cdef fns_plan *plan
    cdef readonly tuple names
    cdef readonly dict numbers
    cdef readonly str kind

    def __init__(self, str kind, int header, int message, int inner, columns):
        cdef bytes encoded
        if self.plan != NULL:
            raise ValueError("made already")
        self.plan = fns_plan_new(<uint16_t> header, <uint16_t> message, <int16_t> inner)
        if self.plan == NULL:
            raise MemoryError()
        self.kind = kind
        for name, type_name, width, level, field, field_width, attr, at in columns:
            encoded = name.encode()
            if fns_plan_add(self.plan, encoded, COLUMN_TYPES[type_name], width, level, field, field_width, attr, at):
                raise ValueError(f"column {name!r} of {kind!r} does not fit together")
        self.names = tuple([column[0] for column in columns])
        self.numbers = {name: number for number, name in enumerate(self.names)}

    def __dealloc__(self):
        fns_plan_put(self.plan)

    def encode(self, str name, value):
        """The bytes a value has in a column. ValueError, TypeError for what the column cannot hold."""
        cdef fns_spec *spec = &self.plan.spec[<int> self.numbers[name]]
        cdef uint8_t address[16]
        cdef int family
        if spec.width:
            if not isinstance(value, int):
                raise TypeError(f"{name}={value!r}: an integer is wanted")
            try:
                return int(value).to_bytes(spec.width, sys.byteorder, signed=spec.type == FNS_INT)
            except OverflowError:
                raise ValueError(f"{name}={value!r} does not fit the column") from None
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        if not isinstance(value, str):
            raise TypeError(f"{name}={value!r}: text or bytes are wanted")
        if spec.type == FNS_STR:
            return value.encode()
        if spec.type == FNS_HW and value.count(":") and "." not in value and "::" not in value and len(value) % 3 == 2:
            try:
                return bytes.fromhex(value.replace(":", ""))
            except ValueError:
                raise ValueError(f"{name}={value!r} is no address") from None
        if spec.type == FNS_IP or spec.type == FNS_HW:
            text = value.encode()
            if not parse_address(text, len(text), address, &family):
                raise ValueError(f"{name}={value!r} is no address")
            return PyBytes_FromStringAndSize(<char *> address, address_length(family))
        raise TypeError(f"{name}: what is in this column cannot be compared; use a function")


@cython.auto_pickle(False)
cdef class Columns:
    """A dump in columns. `fastns.table.Table` is the subclass that is handed out."""

    cdef fns_table *table
    cdef ColumnPlan plan
    cdef fns_condition conditions[CONDITIONS_MAX]
    cdef int n_conditions
    cdef bint finished

    def __init__(self, ColumnPlan plan, conditions=(), Py_ssize_t room=1024):
        cdef bytes encoded
        cdef fns_condition *condition
        if self.table != NULL:
            raise ValueError("made already")
        if len(conditions) > CONDITIONS_MAX:
            raise ValueError(f"{len(conditions)} filters: {CONDITIONS_MAX} at most")
        self.plan = plan
        for name, value in conditions:
            condition = &self.conditions[self.n_conditions]
            condition.column = plan.numbers[name]
            condition.is_null = value is None
            condition.length = 0
            if value is not None:
                encoded = plan.encode(name, value)
                if len(encoded) > 64:
                    raise ValueError(f"{name}={value!r} is too long")
                condition.length = <uint32_t> len(encoded)
                memcpy(condition.value, <char *> encoded, len(encoded))
            self.n_conditions += 1
        self.table = fns_table_new(plan.plan, max(room, 8))
        if self.table == NULL:
            raise MemoryError()

    def __dealloc__(self):
        fns_table_put(self.table)

    def _feed(self, data, uint32_t seq):
        """Take in one datagram of a dump. What it says of the dump, in DUMP_... bits."""
        cdef Py_buffer view
        cdef lx.nlmsghdr header
        cdef Py_ssize_t offset = 0, length
        cdef int32_t code
        cdef int flags = 0, err
        if self.finished:
            raise ValueError("the table is complete")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while True:
                length = message_at(<const uint8_t *> view.buf, view.len, offset, &header)
                if length <= 0:
                    return flags
                if header.nlmsg_seq == seq:
                    if header.nlmsg_flags & lx.NLM_F_DUMP_INTR:
                        flags |= DUMP_INTERRUPTED
                    if header.nlmsg_type == self.plan.plan.message:
                        err = fns_row(self.table, <const uint8_t *> view.buf + offset, length, self.conditions,
                                      self.n_conditions)
                        if err:
                            raise MemoryError() if err == -lx.ENOMEM else OverflowError("more than 2 GiB in one column")
                        if not header.nlmsg_flags & lx.NLM_F_MULTI:
                            flags |= DUMP_SINGLE
                    elif header.nlmsg_type == lx.NLMSG_ERROR or header.nlmsg_type == lx.NLMSG_DONE:
                        code = 0
                        if length >= <Py_ssize_t> sizeof(lx.nlmsghdr) + 4:
                            memcpy(&code, <const uint8_t *> view.buf + offset + sizeof(lx.nlmsghdr), 4)
                        return flags | (DUMP_FAILED if code < 0 else DUMP_DONE)
                offset += (length + 3) & ~<Py_ssize_t> 3
        finally:
            PyBuffer_Release(&view)

    def _finish(self):
        if fns_table_finish(self.table):
            raise MemoryError()
        self.finished = True

    cdef Columns wrap(self, fns_table *table):
        cdef Columns other
        if table == NULL:
            raise MemoryError()
        other = type(self).__new__(type(self))
        other.table = table
        other.plan = self.plan
        other.finished = True
        return other

    def _take(self, rows):
        """A table of these rows, numbers within range."""
        cdef Py_ssize_t count = len(rows), i
        cdef int64_t *numbers = <int64_t *> malloc(max(count, 1) * sizeof(int64_t))
        if numbers == NULL:
            raise MemoryError()
        try:
            for i in range(count):
                numbers[i] = rows[i]
                if not 0 <= numbers[i] < self.table.rows:
                    raise IndexError(f"row {numbers[i]} of {self.table.rows}")
            return self.wrap(fns_table_take(self.table, numbers, count))
        finally:
            free(numbers)

    @property
    def kind(self):
        """What the rows are: "link", "addr", "route", ..."""
        return self.plan.kind

    @property
    def column_names(self):
        """The names of the columns, in order. Every table of a kind has the same."""
        return list(self.plan.names)

    def __len__(self):
        return self.table.rows

    def column(self, str name):
        """The column of this name. KeyError."""
        return Column(self, self.plan.numbers[name])

    cdef object value(self, int number, int64_t row):
        cdef fns_column *column = &self.table.column[number]
        cdef fns_spec *spec = &self.plan.plan.spec[number]
        cdef const uint8_t *at
        cdef Py_ssize_t length
        cdef char text[FNS_TEXT_MAX]
        if not fns_bit(column.valid, row):
            return None
        if spec.width:
            at = column.values + row * spec.width
            if spec.type == FNS_FLAG:
                return at[0] != 0
            if spec.type == FNS_INT:
                if spec.width == 1:
                    return (<const signed char *> at)[0]
                if spec.width == 2:
                    return (<const short *> at)[0]
                if spec.width == 4:
                    return (<const int32_t *> at)[0]
                return (<const int64_t *> at)[0]
            if spec.width == 1:
                return at[0]
            if spec.width == 2:
                return (<const uint16_t *> at)[0]
            if spec.width == 4:
                return (<const uint32_t *> at)[0]
            return (<const uint64_t *> at)[0]
        at = column.data + column.offsets[row]
        length = column.offsets[row + 1] - column.offsets[row]
        if spec.type == FNS_STR:
            return (<const char *> at)[:length].decode()
        if spec.type == FNS_IP or spec.type == FNS_HW:
            return text[:fns_address_text(at, length, spec.type, text)].decode()
        if spec.type == FNS_NESTED:
            return attribute_list(at, length)
        if spec.type == FNS_HOPS:
            return hop_list(at, length)
        if spec.type == FNS_GROUP:
            return group_list(at, length)
        return PyBytes_FromStringAndSize(<const char *> at, length)

    cdef object raw(self, int number, int64_t row):
        cdef fns_column *column = &self.table.column[number]
        if not fns_bit(column.valid, row):
            return None
        return PyBytes_FromStringAndSize(
            <const char *> column.data + column.offsets[row], column.offsets[row + 1] - column.offsets[row]
        )

    def _row(self, int64_t row):
        """A row as a dictionary."""
        cdef int number = 0
        cdef dict values = {}
        if not 0 <= row < self.table.rows:
            raise IndexError(f"row {row} of {self.table.rows}")
        for name in self.plan.names:
            values[name] = self.value(number, row)
            number += 1
        return values

    def _stream(self, bint text):
        cdef ArrowArrayStream *stream = <ArrowArrayStream *> malloc(sizeof(ArrowArrayStream))
        if stream == NULL or fns_table_stream(self.table, text, stream):
            free(stream)
            raise MemoryError()
        return PyCapsule_New(stream, b"arrow_array_stream", release_stream)

    def _schema(self, bint text):
        cdef ArrowSchema *schema = <ArrowSchema *> malloc(sizeof(ArrowSchema))
        if schema == NULL or fns_table_schema(self.plan.plan, text, schema):
            free(schema)
            raise MemoryError()
        return PyCapsule_New(schema, b"arrow_schema", release_schema)


cdef list attribute_list(const uint8_t *data, size_t end):
    cdef size_t at = 0, length
    cdef uint16_t kind
    cdef list items = []
    while True:
        length = fns_attr(data, at, end, &kind)
        if length == 0:
            return items
        items.append({"type": kind, "data": PyBytes_FromStringAndSize(<const char *> data + at + 4, length - 4)})
        at += (length + 3) & ~<size_t> 3


cdef list hop_list(const uint8_t *data, size_t end):
    cdef size_t at = 0, length, size
    cdef rtnexthop hop
    cdef const uint8_t *gateway
    cdef char text[FNS_TEXT_MAX]
    cdef list items = []
    while True:
        length = fns_hop(data, at, end, &hop, &gateway, &size)
        if length == 0:
            return items
        items.append({
            "oif": hop.rtnh_ifindex,
            "hops": hop.rtnh_hops,
            "flags": hop.rtnh_flags,
            "gateway": None if gateway == NULL else text[:fns_address_text(gateway, size, FNS_IP, text)].decode(),
            "attrs": attribute_list(data + at + sizeof(rtnexthop), length - sizeof(rtnexthop)),
        })
        at += (length + 3) & ~<size_t> 3


cdef list group_list(const uint8_t *data, size_t end):
    cdef size_t at = 0
    cdef uint32_t number
    cdef list items = []
    while end - at >= FNS_GROUP_SIZE:
        memcpy(&number, data + at, 4)
        items.append({"id": number, "weight": (data[at + 4] | data[at + 5] << 8) + 1})
        at += FNS_GROUP_SIZE
    return items


@cython.final
@cython.auto_pickle(False)
cdef class Column:
    """One column of a table: a sequence of Python values, None where a row has nothing.

    A column of integers is also a read-only buffer without copying (`memoryview`, numpy), with 0 for None.
    """

    cdef Columns owner
    cdef int number
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    def __cinit__(self, Columns owner not None, int number):
        if not 0 <= number < owner.plan.plan.columns:
            raise IndexError(number)
        self.owner = owner
        self.number = number

    @property
    def name(self):
        """The name of the column in its table."""
        return self.owner.plan.names[self.number]

    @property
    def null_count(self):
        """How many rows have nothing here."""
        return self.owner.table.column[self.number].nulls

    def __len__(self):
        return self.owner.table.rows

    def __getitem__(self, key):
        cdef int64_t row
        if isinstance(key, slice):
            return [self.owner.value(self.number, row) for row in range(*key.indices(self.owner.table.rows))]
        row = key
        if row < 0:
            row += self.owner.table.rows
        if not 0 <= row < self.owner.table.rows:
            raise IndexError(f"row {key} of {self.owner.table.rows}")
        return self.owner.value(self.number, row)

    def __iter__(self):
        cdef int64_t row
        for row in range(self.owner.table.rows):
            yield self.owner.value(self.number, row)

    def to_list(self):
        """The values as Python objects."""
        cdef int64_t row
        return [self.owner.value(self.number, row) for row in range(self.owner.table.rows)]

    def to_bytes(self):
        """The values as the bytes the kernel sent: addresses, text, attributes. TypeError for integers."""
        cdef int64_t row
        if self.owner.plan.plan.spec[self.number].width:
            raise TypeError(f"{self.name} is a column of integers")
        return [self.owner.raw(self.number, row) for row in range(self.owner.table.rows)]

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        cdef fns_spec *spec = &self.owner.plan.plan.spec[self.number]
        if not spec.width:
            raise BufferError(f"{self.name} is no column of integers")
        if flags & PyBUF_WRITABLE == PyBUF_WRITABLE:
            raise BufferError("a table cannot be changed")
        self.shape[0] = self.owner.table.rows
        self.strides[0] = spec.width
        buffer.buf = self.owner.table.column[self.number].values
        buffer.obj = self
        buffer.len = self.owner.table.rows * spec.width
        buffer.itemsize = spec.width
        buffer.readonly = 1
        buffer.ndim = 1
        if spec.type == FNS_INT:
            buffer.format = "b" if spec.width == 1 else "h" if spec.width == 2 else "i" if spec.width == 4 else "q"
        else:
            buffer.format = "B" if spec.width == 1 else "H" if spec.width == 2 else "I" if spec.width == 4 else "Q"
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL

    def __repr__(self):
        return f"<Column {self.name!r} of {len(self)}>"
