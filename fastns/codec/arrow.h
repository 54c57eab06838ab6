/* Tables through the Arrow C data and C stream interfaces. No Python here.
 *
 * Numbers, text and bytes are handed out where they are; addresses as text and lists are made on the way. Consumers
 * share the table by reference count, and release it in any thread and without the GIL.
 * The structures: https://arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.html
 */
#ifndef FASTNS_ARROW_H
#define FASTNS_ARROW_H

#include "table.h"

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE
#define ARROW_FLAG_NULLABLE 2

struct ArrowSchema {
    const char *format;
    const char *name;
    const char *metadata;
    int64_t flags;
    int64_t n_children;
    struct ArrowSchema **children;
    struct ArrowSchema *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};
#endif

#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE
struct ArrowArrayStream {
    int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *);
    int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *);
    const char *(*get_last_error)(struct ArrowArrayStream *);
    void (*release)(struct ArrowArrayStream *);
    void *private_data;
};
#endif

/* A store with `count` children of a size behind it, and the pointers to them behind these, all zero: one piece of
 * memory, so that it is there or not. `store` is a multiple of a pointer's size. */
static void *fns_store(size_t store, size_t child, int count)
{
    return calloc(1, store + (size_t)count * (child + sizeof(void *)));
}

struct fns_schema_store {
    char name[32];
    struct ArrowSchema children[];
};

static void fns_schema_release(struct ArrowSchema *schema)
{
    for (int64_t i = 0; i < schema->n_children; i++)
        if (schema->children[i]->release != NULL)
            schema->children[i]->release(schema->children[i]);
    free(schema->private_data);
    schema->release = NULL;
}

static int fns_schema(struct ArrowSchema *schema, const char *format, const char *name, int nullable, int children)
{
    struct fns_schema_store *store = fns_store(sizeof *store, sizeof *schema, children);

    memset(schema, 0, sizeof *schema);
    if (store == NULL)
        return ENOMEM;
    snprintf(store->name, sizeof store->name, "%s", name);
    schema->children = (struct ArrowSchema **)(void *)&store->children[children];
    for (int i = 0; i < children; i++)
        schema->children[i] = &store->children[i];
    schema->format = format;
    schema->name = store->name;
    schema->flags = nullable ? ARROW_FLAG_NULLABLE : 0;
    schema->n_children = children;
    schema->private_data = store;
    schema->release = fns_schema_release;
    return 0;
}

static int fns_schema_attributes(struct ArrowSchema *schema, const char *name, int nullable)
{
    struct ArrowSchema *item;
    int err = fns_schema(schema, "+l", name, nullable, 1);

    if (err)
        return err;
    item = schema->children[0];
    if ((err = fns_schema(item, "+s", "item", 0, 2)))
        return err;
    if ((err = fns_schema(item->children[0], "S", "type", 0, 0)))
        return err;
    return fns_schema(item->children[1], "z", "data", 0, 0);
}

static const char *fns_format(const struct fns_spec *spec, int text)
{
    switch (spec->type) {
    case FNS_STR:
        return "u";
    case FNS_IP:
    case FNS_HW:
        return text ? "u" : "z";
    case FNS_BYTES:
        return "z";
    case FNS_INT:
        return spec->width == 1 ? "c" : spec->width == 2 ? "s" : spec->width == 4 ? "i" : "l";
    default:
        return spec->width == 1 ? "C" : spec->width == 2 ? "S" : spec->width == 4 ? "I" : "L";
    }
}

static int fns_schema_column(struct ArrowSchema *schema, const struct fns_spec *spec, int text)
{
    struct ArrowSchema *item;
    int nullable = spec->field < 0, err;

    if (spec->type == FNS_NESTED)
        return fns_schema_attributes(schema, spec->name, nullable);
    if (spec->type == FNS_HOPS || spec->type == FNS_GROUP) {
        if ((err = fns_schema(schema, "+l", spec->name, nullable, 1)))
            return err;
        item = schema->children[0];
        if (spec->type == FNS_GROUP) {
            if ((err = fns_schema(item, "+s", "item", 0, 2)) || (err = fns_schema(item->children[0], "I", "id", 0, 0)))
                return err;
            return fns_schema(item->children[1], "S", "weight", 0, 0);
        }
        if ((err = fns_schema(item, "+s", "item", 0, 5)) || (err = fns_schema(item->children[0], "i", "oif", 0, 0)) ||
            (err = fns_schema(item->children[1], "C", "hops", 0, 0)) ||
            (err = fns_schema(item->children[2], "C", "flags", 0, 0)) ||
            (err = fns_schema(item->children[3], text ? "u" : "z", "gateway", 1, 0)))
            return err;
        return fns_schema_attributes(item->children[4], "attrs", 0);
    }
    return fns_schema(schema, fns_format(spec, text), spec->name, nullable, 0);
}

/* 0 or an errno; on failure nothing is left. */
static int fns_table_schema(const struct fns_plan *plan, int text, struct ArrowSchema *schema)
{
    int err = fns_schema(schema, "+s", "", 0, plan->columns);

    for (int i = 0; !err && i < plan->columns; i++)
        err = fns_schema_column(schema->children[i], &plan->spec[i], text);
    if (err && schema->release != NULL)
        schema->release(schema);
    return err;
}

struct fns_array_store {
    struct fns_table *table;
    const void *buffers[3];
    void *owned[3];
    struct ArrowArray children[];
};

static void fns_array_release(struct ArrowArray *array)
{
    struct fns_array_store *store = array->private_data;

    for (int64_t i = 0; i < array->n_children; i++)
        if (array->children[i]->release != NULL)
            array->children[i]->release(array->children[i]);
    for (int i = 0; i < 3; i++)
        free(store->owned[i]);
    fns_table_put(store->table);
    free(store);
    array->release = NULL;
}

static struct fns_array_store *fns_array(struct ArrowArray *array, struct fns_table *table, int64_t length, int buffers,
                                         int children)
{
    struct fns_array_store *store = fns_store(sizeof *store, sizeof *array, children);

    memset(array, 0, sizeof *array);
    if (store == NULL)
        return NULL;
    array->children = (struct ArrowArray **)(void *)&store->children[children];
    for (int i = 0; i < children; i++)
        array->children[i] = &store->children[i];
    store->table = table;
    if (table != NULL)
        atomic_fetch_add(&table->refs, 1);
    array->length = length;
    array->n_buffers = buffers;
    array->n_children = children;
    array->buffers = store->buffers;
    array->private_data = store;
    array->release = fns_array_release;
    return store;
}

/* Which rows have a value: for consumers there is no bitmap where all have. */
static void fns_validity(struct ArrowArray *array, struct fns_array_store *store, const uint8_t *valid, int64_t nulls)
{
    array->null_count = nulls;
    store->buffers[0] = nulls ? valid : NULL;
}

static void fns_own(struct fns_array_store *store, int which, void *memory)
{
    store->owned[which] = memory;
    store->buffers[which] = memory;
}

/* Grows; `failed` sticks, so that only the end needs a test. */
struct fns_buffer {
    uint8_t *data;
    size_t used, room;
    int failed;
};

static void fns_push(struct fns_buffer *buffer, const void *data, size_t length)
{
    if (buffer->failed)
        return;
    if (buffer->data == NULL || buffer->room - buffer->used < length) {
        size_t room = buffer->room ? buffer->room * 2 : 256;
        void *more;
        while (room - buffer->used < length)
            room *= 2;
        if (buffer->used + length > INT32_MAX || (more = realloc(buffer->data, room)) == NULL) {
            buffer->failed = 1;
            return;
        }
        buffer->data = more;
        buffer->room = room;
    }
    if (length)
        memcpy(buffer->data + buffer->used, data, length);
    buffer->used += length;
}

static void fns_push32(struct fns_buffer *buffer, size_t value)
{
    int32_t number = (int32_t)value;
    fns_push(buffer, &number, sizeof number);
}

/* Bytes with offsets -> the same as text. */
static int fns_export_text(struct ArrowArray *array, int64_t rows, const int32_t *offsets, const uint8_t *data,
                           const uint8_t *valid, int64_t nulls, struct fns_table *table, int type)
{
    struct fns_array_store *store = fns_array(array, table, rows, 3, 0);
    struct fns_buffer ends = {0}, text = {0};
    char one[FNS_TEXT_MAX];

    if (store == NULL)
        return ENOMEM;
    fns_push32(&ends, 0);
    fns_push(&text, "", 0);
    for (int64_t row = 0; row < rows; row++) {
        size_t length = (size_t)(offsets[row + 1] - offsets[row]);
        if (length || (valid != NULL && fns_bit(valid, row)))
            fns_push(&text, one, fns_address_text(data + offsets[row], length, type, one));
        fns_push32(&ends, text.used);
    }
    fns_validity(array, store, valid, nulls);
    fns_own(store, 1, ends.data);
    fns_own(store, 2, text.data);
    return ends.failed || text.failed ? ENOMEM : 0;
}

/* Bytes that are attributes -> list<struct<type, data>>. */
static int fns_export_attributes(struct ArrowArray *array, int64_t rows, const int32_t *offsets, const uint8_t *data,
                                 const uint8_t *valid, int64_t nulls, struct fns_table *table)
{
    struct fns_array_store *store = fns_array(array, table, rows, 2, 1), *leaf;
    struct fns_buffer ends = {0}, types = {0}, starts = {0}, bytes = {0};
    size_t count = 0;
    int failed;

    if (store == NULL)
        return ENOMEM;
    fns_push32(&ends, 0);
    fns_push32(&starts, 0);
    fns_push(&types, "", 0);
    fns_push(&bytes, "", 0);
    for (int64_t row = 0; row < rows; row++) {
        size_t at = (size_t)offsets[row], end = (size_t)offsets[row + 1], length;
        uint16_t type;
        for (; (length = fns_attr(data, at, end, &type)); at += (length + 3) & ~(size_t)3) {
            fns_push(&types, &type, sizeof type);
            fns_push(&bytes, data + at + 4, length - 4);
            fns_push32(&starts, bytes.used);
            count++;
        }
        fns_push32(&ends, count);
    }
    failed = ends.failed || types.failed || starts.failed || bytes.failed;
    fns_validity(array, store, valid, nulls);
    fns_own(store, 1, ends.data);
    if (fns_array(array->children[0], NULL, (int64_t)count, 1, 2) == NULL) {
        free(types.data);
        free(starts.data);
        free(bytes.data);
        return ENOMEM;
    }
    if ((leaf = fns_array(array->children[0]->children[0], NULL, (int64_t)count, 2, 0)) == NULL) {
        free(types.data);
        failed = 1;
    } else {
        fns_own(leaf, 1, types.data);
    }
    if ((leaf = fns_array(array->children[0]->children[1], NULL, (int64_t)count, 3, 0)) == NULL) {
        free(starts.data);
        free(bytes.data);
        failed = 1;
    } else {
        fns_own(leaf, 1, starts.data);
        fns_own(leaf, 2, bytes.data);
    }
    return failed ? ENOMEM : 0;
}

/* One next hop at `at`: its length, or 0. `gateway` and `size` are those of its gateway, if it has one. */
static size_t fns_hop(const uint8_t *data, size_t at, size_t end, struct rtnexthop *hop, const uint8_t **gateway,
                      size_t *size)
{
    size_t in, one;
    uint16_t type;

    if (at > end || end - at < sizeof *hop)
        return 0;
    memcpy(hop, data + at, sizeof *hop);
    if (hop->rtnh_len < sizeof *hop || hop->rtnh_len > end - at)
        return 0;
    *gateway = NULL;
    *size = 0;
    for (in = at + sizeof *hop; (one = fns_attr(data, in, at + hop->rtnh_len, &type)); in += (one + 3) & ~(size_t)3) {
        if (type == RTA_GATEWAY) {
            *gateway = data + in + 4;
            *size = one - 4;
        } else if (type == RTA_VIA && one >= 6 && *gateway == NULL) {
            *gateway = data + in + 6;
            *size = one - 6;
        }
    }
    return hop->rtnh_len;
}

static int fns_export_hops(struct ArrowArray *array, struct fns_table *table, const struct fns_column *column, int text)
{
    struct fns_array_store *store = fns_array(array, table, table->rows, 2, 1), *leaf;
    struct fns_buffer ends = {0}, oifs = {0}, hops = {0}, flags = {0}, starts = {0}, gateways = {0}, bits = {0},
                      attr_ends = {0}, attrs = {0};
    struct ArrowArray *item;
    int64_t count = 0, absent = 0;
    int err = 0;

    if (store == NULL)
        return ENOMEM;
    fns_push32(&ends, 0);
    fns_push32(&starts, 0);
    fns_push32(&attr_ends, 0);
    fns_push(&oifs, "", 0);
    fns_push(&hops, "", 0);
    fns_push(&flags, "", 0);
    fns_push(&gateways, "", 0);
    fns_push(&attrs, "", 0);
    for (int64_t row = 0; row < table->rows; row++) {
        size_t at = (size_t)column->offsets[row], end = (size_t)column->offsets[row + 1], length, size;
        const uint8_t *gateway;
        struct rtnexthop hop;
        for (; (length = fns_hop(column->data, at, end, &hop, &gateway, &size)); at += (length + 3) & ~(size_t)3) {
            char one[FNS_TEXT_MAX];
            fns_push(&oifs, &hop.rtnh_ifindex, 4);
            fns_push(&hops, &hop.rtnh_hops, 1);
            fns_push(&flags, &hop.rtnh_flags, 1);
            if (count % 8 == 0)
                fns_push(&bits, "", 1);
            if (gateway == NULL)
                absent++;
            else if (!bits.failed)
                fns_bit_set(bits.data, count);
            if (gateway != NULL && text)
                fns_push(&gateways, one, fns_address_text(gateway, size, FNS_IP, one));
            else if (gateway != NULL)
                fns_push(&gateways, gateway, size);
            fns_push32(&starts, gateways.used);
            fns_push(&attrs, column->data + at + sizeof hop, length - sizeof hop);
            fns_push(&attrs, "\0\0\0", (4 - (length & 3)) & 3);
            fns_push32(&attr_ends, attrs.used);
            count++;
        }
        fns_push32(&ends, (size_t)count);
    }
    fns_validity(array, store, column->valid, column->nulls);
    fns_own(store, 1, ends.data);
    item = array->children[0];
    if (fns_array(item, NULL, count, 1, 5) == NULL)
        goto nothing;
    if ((leaf = fns_array(item->children[0], NULL, count, 2, 0)) == NULL)
        goto nothing;
    fns_own(leaf, 1, oifs.data);
    oifs.data = NULL;
    if ((leaf = fns_array(item->children[1], NULL, count, 2, 0)) == NULL)
        goto nothing;
    fns_own(leaf, 1, hops.data);
    hops.data = NULL;
    if ((leaf = fns_array(item->children[2], NULL, count, 2, 0)) == NULL)
        goto nothing;
    fns_own(leaf, 1, flags.data);
    flags.data = NULL;
    if ((leaf = fns_array(item->children[3], NULL, count, 3, 0)) == NULL)
        goto nothing;
    item->children[3]->null_count = absent;
    fns_own(leaf, 0, bits.data);
    fns_own(leaf, 1, starts.data);
    fns_own(leaf, 2, gateways.data);
    bits.data = starts.data = gateways.data = NULL;
    if (!attr_ends.failed && !attrs.failed)
        err = fns_export_attributes(item->children[4], count, (const int32_t *)(void *)attr_ends.data, attrs.data, NULL,
                                    0, NULL);
    if (ends.failed || oifs.failed || hops.failed || flags.failed || starts.failed || gateways.failed || bits.failed ||
        attr_ends.failed || attrs.failed)
        err = ENOMEM;
    free(attr_ends.data);
    free(attrs.data);
    return err;
nothing:
    free(oifs.data);
    free(hops.data);
    free(flags.data);
    free(starts.data);
    free(gateways.data);
    free(bits.data);
    free(attr_ends.data);
    free(attrs.data);
    return ENOMEM;
}

#define FNS_GROUP_SIZE 8  /* struct nexthop_grp: u32 id, u8 weight, u8 weight_high, u16 reserved */

static int fns_export_group(struct ArrowArray *array, struct fns_table *table, const struct fns_column *column)
{
    struct fns_array_store *store = fns_array(array, table, table->rows, 2, 1), *leaf;
    struct fns_buffer ends = {0}, ids = {0}, weights = {0};
    int64_t count = 0;

    if (store == NULL)
        return ENOMEM;
    fns_push32(&ends, 0);
    fns_push(&ids, "", 0);
    fns_push(&weights, "", 0);
    for (int64_t row = 0; row < table->rows; row++) {
        size_t at = (size_t)column->offsets[row], end = (size_t)column->offsets[row + 1];
        for (; end - at >= FNS_GROUP_SIZE; at += FNS_GROUP_SIZE, count++) {
            uint16_t weight = (uint16_t)(column->data[at + 4] | column->data[at + 5] << 8);
            weight++;
            fns_push(&ids, column->data + at, 4);
            fns_push(&weights, &weight, 2);
        }
        fns_push32(&ends, (size_t)count);
    }
    fns_validity(array, store, column->valid, column->nulls);
    fns_own(store, 1, ends.data);
    if (fns_array(array->children[0], NULL, count, 1, 2) == NULL ||
        (leaf = fns_array(array->children[0]->children[0], NULL, count, 2, 0)) == NULL) {
        free(ids.data);
        free(weights.data);
        return ENOMEM;
    }
    fns_own(leaf, 1, ids.data);
    if ((leaf = fns_array(array->children[0]->children[1], NULL, count, 2, 0)) == NULL) {
        free(weights.data);
        return ENOMEM;
    }
    fns_own(leaf, 1, weights.data);
    return ends.failed || ids.failed || weights.failed ? ENOMEM : 0;
}

static int fns_export_column(struct ArrowArray *array, struct fns_table *table, int number, int text)
{
    const struct fns_column *column = &table->column[number];
    const struct fns_spec *spec = &table->plan->spec[number];
    struct fns_array_store *store;

    if (spec->type == FNS_NESTED)
        return fns_export_attributes(array, table->rows, column->offsets, column->data, column->valid, column->nulls,
                                     table);
    if (spec->type == FNS_HOPS)
        return fns_export_hops(array, table, column, text);
    if (spec->type == FNS_GROUP)
        return fns_export_group(array, table, column);
    if (text && (spec->type == FNS_IP || spec->type == FNS_HW))
        return fns_export_text(array, table->rows, column->offsets, column->data, column->valid, column->nulls, table,
                               spec->type);
    if ((store = fns_array(array, table, table->rows, spec->width ? 2 : 3, 0)) == NULL)
        return ENOMEM;
    fns_validity(array, store, column->valid, column->nulls);
    if (spec->width) {
        store->buffers[1] = column->values;
    } else {
        store->buffers[1] = column->offsets;
        store->buffers[2] = column->data;
    }
    return 0;
}

static int fns_table_array(struct fns_table *table, int text, struct ArrowArray *array)
{
    int err = fns_array(array, table, table->rows, 1, table->plan->columns) == NULL ? ENOMEM : 0;

    for (int i = 0; !err && i < table->plan->columns; i++)
        err = fns_export_column(array->children[i], table, i, text);
    if (err && array->release != NULL)
        array->release(array);
    return err;
}

struct fns_stream {
    struct fns_table *table;
    int text, done;
    const char *error;
};

static int fns_stream_schema(struct ArrowArrayStream *stream, struct ArrowSchema *schema)
{
    struct fns_stream *state = stream->private_data;
    int err = fns_table_schema(state->table->plan, state->text, schema);

    state->error = err ? "out of memory" : NULL;
    return err;
}

static int fns_stream_next(struct ArrowArrayStream *stream, struct ArrowArray *array)
{
    struct fns_stream *state = stream->private_data;
    int err = 0;

    if (state->done) {
        memset(array, 0, sizeof *array);
        return 0;
    }
    err = fns_table_array(state->table, state->text, array);
    state->error = err ? "out of memory" : NULL;
    state->done = !err;
    return err;
}

static const char *fns_stream_error(struct ArrowArrayStream *stream)
{
    return ((struct fns_stream *)stream->private_data)->error;
}

static void fns_stream_release(struct ArrowArrayStream *stream)
{
    struct fns_stream *state = stream->private_data;

    fns_table_put(state->table);
    free(state);
    stream->release = NULL;
}

static int fns_table_stream(struct fns_table *table, int text, struct ArrowArrayStream *stream)
{
    struct fns_stream *state = calloc(1, sizeof *state);

    memset(stream, 0, sizeof *stream);
    if (state == NULL)
        return ENOMEM;
    state->table = table;
    state->text = text;
    atomic_fetch_add(&table->refs, 1);
    stream->get_schema = fns_stream_schema;
    stream->get_next = fns_stream_next;
    stream->get_last_error = fns_stream_error;
    stream->release = fns_stream_release;
    stream->private_data = state;
    return 0;
}

#endif
