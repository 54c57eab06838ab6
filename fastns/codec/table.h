/* Columns filled from netlink messages. No Python here.
 *
 * Storage is as flat as it can be: a column has fixed-width values, or bytes with offsets. Nested attributes,
 * next hops and whatever no column is for stay as the bytes they came in, and are only taken apart on the way out.
 * A table is immutable once it is filled, and shared by reference count.
 */
#ifndef FASTNS_TABLE_H
#define FASTNS_TABLE_H

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum fns_type {
    FNS_UINT = 1,   /* unsigned, native byte order */
    FNS_INT,
    FNS_BE,         /* unsigned, network byte order on the wire */
    FNS_FLAG,       /* an attribute without payload: 1 */
    FNS_STR,        /* text, ends at a zero byte */
    FNS_IP,         /* network address */
    FNS_HW,         /* link layer address; of 4 or 16 bytes: the network address of a tunnel's end */
    FNS_BYTES,
    FNS_NESTED,     /* attributes */
    FNS_HOPS,       /* struct rtnexthop and attributes, repeated */
    FNS_GROUP       /* struct nexthop_grp, repeated */
};

#define FNS_ATTRS 128         /* attribute numbers with columns are below */
#define FNS_LEVELS 2          /* the message's own attributes, and those of one nested one */
#define FNS_COLUMNS 96

struct fns_spec {
    const char *name;
    uint8_t type;
    uint8_t width;            /* 0: bytes with offsets */
    uint8_t level;
    int16_t field;            /* offset in the message's header, -1: none */
    uint8_t field_width;
    int16_t attr;             /* attribute number, -1: none. Wins over the field. */
    uint16_t at;              /* offset in the attribute's payload */
    int16_t next;             /* next column of the same attribute */
};

struct fns_plan {
    _Atomic long refs;
    uint16_t header;          /* size of the message's own header */
    uint16_t message;         /* number of the messages that are rows */
    int16_t inner;            /* attribute that is level 1, -1: none */
    int16_t rest;             /* column of attributes that have none */
    int columns;
    int fields;
    int16_t field[FNS_COLUMNS];  /* the columns that come from the message's header */
    struct fns_spec spec[FNS_COLUMNS];
    int16_t first[FNS_LEVELS][FNS_ATTRS];
};

struct fns_condition {
    int column;
    int is_null;
    uint32_t length;
    uint8_t value[64];
};

/* Most columns of most tables hold nothing at all. They get memory with their first value, or at the end, when it
 * is of zero pages nobody touches. */
struct fns_column {
    uint8_t *values;          /* fixed width */
    int32_t *offsets;
    uint8_t *data;
    size_t used, room;
    uint8_t *valid;           /* bitmap, least significant bit first */
    int64_t nulls;            /* counted by fns_table_finish */
};

struct fns_table {
    _Atomic long refs;
    struct fns_plan *plan;
    int64_t rows, room;
    int texts;                    /* columns of bytes that have memory */
    int16_t text[FNS_COLUMNS];
    uint8_t taken[FNS_COLUMNS / 8];  /* columns that have an attribute of the row being made: the first one counts */
    struct fns_column column[];
};

static inline int fns_bit(const uint8_t *bits, int64_t at)
{
    return bits[at >> 3] >> (at & 7) & 1;
}

static inline void fns_bit_set(uint8_t *bits, int64_t at)
{
    bits[at >> 3] = (uint8_t)(bits[at >> 3] | 1u << (at & 7));
}

static void fns_plan_put(struct fns_plan *plan)
{
    if (plan != NULL && atomic_fetch_sub(&plan->refs, 1) == 1) {
        for (int i = 0; i < plan->columns; i++)
            free((void *)(uintptr_t)plan->spec[i].name);
        free(plan);
    }
}

static struct fns_plan *fns_plan_new(uint16_t header, uint16_t message, int16_t inner)
{
    struct fns_plan *plan = calloc(1, sizeof *plan);

    if (plan == NULL)
        return NULL;
    plan->refs = 1;
    plan->header = header;
    plan->message = message;
    plan->inner = inner;
    plan->rest = -1;
    for (int level = 0; level < FNS_LEVELS; level++)
        for (int i = 0; i < FNS_ATTRS; i++)
            plan->first[level][i] = -1;
    return plan;
}

/* 0, or -1 for a specification that does not fit together. */
static int fns_plan_add(struct fns_plan *plan, const char *name, int type, int width, int level, int field,
                        int field_width, int attr, int at)
{
    struct fns_spec *spec = &plan->spec[plan->columns];

    if (plan->columns == FNS_COLUMNS || width < 0 || width > 8 || level < 0 || level >= FNS_LEVELS ||
        attr >= FNS_ATTRS || field + field_width > plan->header || field_width > width || at < 0 || at > 4096 ||
        (type == FNS_INT && field_width && field_width < width) ||
        (type <= FNS_FLAG) != (width > 0))
        return -1;
    spec->name = strdup(name);
    if (spec->name == NULL)
        return -1;
    spec->type = (uint8_t)type;
    spec->width = (uint8_t)width;
    spec->level = (uint8_t)level;
    spec->field = (int16_t)field;
    spec->field_width = (uint8_t)field_width;
    spec->attr = (int16_t)attr;
    spec->at = (uint16_t)at;
    spec->next = -1;
    if (field >= 0)
        plan->field[plan->fields++] = (int16_t)plan->columns;
    if (attr >= 0) {
        spec->next = plan->first[level][attr];
        plan->first[level][attr] = (int16_t)plan->columns;
    } else if (field < 0) {
        plan->rest = (int16_t)plan->columns;
    }
    plan->columns++;
    return 0;
}

static void fns_column_free(struct fns_column *column)
{
    free(column->values);
    free(column->offsets);
    free(column->data);
    free(column->valid);
}

static void fns_table_put(struct fns_table *table)
{
    if (table == NULL || atomic_fetch_sub(&table->refs, 1) != 1)
        return;
    for (int i = 0; i < table->plan->columns; i++)
        fns_column_free(&table->column[i]);
    fns_plan_put(table->plan);
    free(table);
}

/* Memory for a column that has none, all rows null. */
static int fns_live(struct fns_table *table, int number)
{
    struct fns_column *column = &table->column[number];
    size_t width = table->plan->spec[number].width, room = (size_t)table->room;

    column->valid = calloc((room + 7) / 8, 1);
    if (width) {
        column->values = calloc(room, width);
    } else {
        column->offsets = calloc(room + 1, sizeof(int32_t));
        column->data = malloc(64);
        column->room = 64;
    }
    if (column->valid == NULL || (width ? column->values == NULL : column->offsets == NULL || column->data == NULL)) {
        fns_column_free(column);
        memset(column, 0, sizeof *column);
        return -ENOMEM;
    }
    if (!width)
        table->text[table->texts++] = (int16_t)number;
    return 0;
}

static int fns_grow(void *pointer, size_t old, size_t size)
{
    uint8_t **memory = pointer, *more = realloc(*memory, size);

    if (more == NULL)
        return -ENOMEM;
    memset(more + old, 0, size - old);
    *memory = more;
    return 0;
}

static int fns_grow_rows(struct fns_table *table, int64_t room)
{
    size_t old = (size_t)table->room, size = (size_t)room;

    for (int i = 0; i < table->plan->columns; i++) {
        struct fns_column *column = &table->column[i];
        size_t width = table->plan->spec[i].width;

        if (column->valid == NULL)
            continue;
        /* A bitmap that is longer than it has to be is none the worse, should the next one fail. */
        if (fns_grow(&column->valid, (old + 7) / 8, (size + 7) / 8) ||
            (width ? fns_grow(&column->values, old * width, size * width)
                   : fns_grow(&column->offsets, (old + 1) * sizeof(int32_t), (size + 1) * sizeof(int32_t))))
            return -ENOMEM;
    }
    table->room = room;
    return 0;
}

static struct fns_table *fns_table_new(struct fns_plan *plan, int64_t room)
{
    struct fns_table *table = calloc(1, sizeof *table + (size_t)plan->columns * sizeof(struct fns_column));

    if (table == NULL)
        return NULL;
    table->refs = 1;
    table->plan = plan;
    atomic_fetch_add(&plan->refs, 1);
    table->room = room < 8 ? 8 : (room + 7) & ~(int64_t)7;
    for (int i = 0; i < plan->fields; i++)
        if (fns_live(table, plan->field[i])) {
            fns_table_put(table);
            return NULL;
        }
    return table;
}

static int fns_append(struct fns_column *column, const void *data, size_t length)
{
    if (length > column->room - column->used) {
        size_t room = column->room * 2;
        void *more;
        while (room - column->used < length)
            room *= 2;
        if (column->used + length > INT32_MAX)
            return -EOVERFLOW;
        if ((more = realloc(column->data, room)) == NULL)
            return -ENOMEM;
        column->data = more;
        column->room = room;
    }
    if (length)
        memcpy(column->data + column->used, data, length);
    column->used += length;
    return 0;
}

/* Whether this is UTF-8 that everybody accepts: no surrogates, nothing overlong. */
static int fns_utf8(const uint8_t *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        uint8_t c = text[i++];
        size_t more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : c >= 0xe0 && c < 0xf0 ? 2 : c >= 0xf0 && c < 0xf5 ? 3 : 9;
        if (more > length - i)
            return 0;
        if ((c == 0xe0 && text[i] < 0xa0) || (c == 0xed && text[i] > 0x9f) || (c == 0xf0 && text[i] < 0x90) ||
            (c == 0xf4 && text[i] > 0x8f))
            return 0;
        for (; more; more--)
            if ((text[i++] & 0xc0) != 0x80)
                return 0;
    }
    return 1;
}

/* Put an attribute's payload into the columns that are for it. 1: some column could not take it. */
static int fns_fill(struct fns_table *table, int16_t first, const uint8_t *payload, size_t length)
{
    int64_t row = table->rows;
    int odd = 0;

    for (int i = first; i >= 0; i = table->plan->spec[i].next) {
        const struct fns_spec *spec = &table->plan->spec[i];
        struct fns_column *column = &table->column[i];

        if (column->valid == NULL && fns_live(table, i))
            return -ENOMEM;
        if (fns_bit(table->taken, i)) {
            odd = 1;
            continue;
        }
        if (spec->width) {
            uint8_t *to = column->values + (size_t)row * spec->width;
            if (spec->type == FNS_FLAG) {
                *to = 1;
            } else if (length < (size_t)spec->at + spec->width) {
                odd = 1;
                continue;
            } else if (spec->type == FNS_BE) {
                for (int b = 0; b < spec->width; b++)
                    to[b] = payload[spec->at + spec->width - 1 - b];
            } else {
                memcpy(to, payload + spec->at, spec->width);
            }
        } else {
            const uint8_t *from = payload + spec->at;
            size_t size;
            int err;
            if (length < spec->at) {
                odd = 1;
                continue;
            }
            size = length - spec->at;
            if (spec->type == FNS_STR) {
                const uint8_t *end = size ? memchr(from, 0, size) : NULL;
                if (end != NULL)
                    size = (size_t)(end - from);
            }
            if ((err = fns_append(column, from, size)))
                return err;
            if (spec->type == FNS_STR && !fns_utf8(from, size)) {
                for (size_t i = column->used - size; i < column->used; i++)
                    if (column->data[i] & 0x80)
                        column->data[i] = '?';
                odd = 1;
            }
        }
        fns_bit_set(column->valid, row);
        fns_bit_set(table->taken, i);
    }
    return odd;
}

static int fns_rest(struct fns_table *table, const uint8_t *attr, size_t length)
{
    struct fns_column *column;
    static const uint8_t zero[4];
    int err;

    if (table->plan->rest < 0)
        return 0;
    column = &table->column[table->plan->rest];
    if (column->valid == NULL && fns_live(table, table->plan->rest))
        return -ENOMEM;
    fns_bit_set(column->valid, table->rows);
    if ((err = fns_append(column, attr, length)))
        return err;
    return fns_append(column, zero, (4 - (length & 3)) & 3);
}

/* An attribute at `at`, whole within `end`; its length, or 0. */
static size_t fns_attr(const uint8_t *data, size_t at, size_t end, uint16_t *type)
{
    struct nlattr attr;

    if (at > end || end - at < sizeof attr)
        return 0;
    memcpy(&attr, data + at, sizeof attr);
    if (attr.nla_len < sizeof attr || attr.nla_len > end - at)
        return 0;
    *type = attr.nla_type & NLA_TYPE_MASK;
    return attr.nla_len;
}

/* One attribute of level 0, level 1 inside it included. */
static int fns_take_attr(struct fns_table *table, const uint8_t *data, size_t at, size_t length, uint16_t type)
{
    const struct fns_plan *plan = table->plan;
    int odd = 0;

    if (type == plan->inner) {
        uint16_t sub;
        size_t one;
        for (size_t in = at + 4; (one = fns_attr(data, in, at + length, &sub)); in += (one + 3) & ~(size_t)3) {
            int err = 1;
            if (sub < FNS_ATTRS && plan->first[1][sub] >= 0)
                err = fns_fill(table, plan->first[1][sub], data + in + 4, one - 4);
            if (err < 0)
                return err;
            odd |= err;
        }
    } else if (type < FNS_ATTRS && plan->first[0][type] >= 0) {
        odd = fns_fill(table, plan->first[0][type], data + at + 4, length - 4);
    } else {
        odd = 1;
    }
    return odd > 0 ? fns_rest(table, data + at, length) : odd;
}

static int fns_holds(const struct fns_table *table, const struct fns_condition *condition)
{
    const struct fns_column *column = &table->column[condition->column];
    int64_t row = table->rows;
    size_t width = table->plan->spec[condition->column].width;

    if (column->valid == NULL || !fns_bit(column->valid, row))
        return condition->is_null;
    if (condition->is_null)
        return 0;
    if (width)
        return memcmp(column->values + (size_t)row * width, condition->value, width) == 0;
    return column->used - (size_t)column->offsets[row] == condition->length &&
           memcmp(column->data + column->offsets[row], condition->value, condition->length) == 0;
}

static void fns_undo(struct fns_table *table)
{
    int64_t row = table->rows;

    for (int i = 0; i < table->plan->columns; i++) {
        struct fns_column *column = &table->column[i];
        size_t width = table->plan->spec[i].width;
        if (column->valid == NULL)
            continue;
        column->valid[row >> 3] = (uint8_t)(column->valid[row >> 3] & ~(1u << (row & 7)));
        if (width)
            memset(column->values + (size_t)row * width, 0, width);
        else
            column->used = (size_t)column->offsets[row];
    }
}

/* One message as a row, unless a condition does not hold. 0 or -errno. */
static int fns_row(struct fns_table *table, const uint8_t *data, size_t length, const struct fns_condition *conditions,
                   int count)
{
    const struct fns_plan *plan = table->plan;
    size_t at = NLMSG_HDRLEN + ((plan->header + 3u) & ~3u), one;
    int64_t row = table->rows;
    uint16_t type;
    int err;

    if (length < at)
        return 0;
    if (row == table->room && (err = fns_grow_rows(table, table->room * 2)))
        return err;
    memset(table->taken, 0, sizeof table->taken);
    for (int n = 0; n < plan->fields; n++) {
        int i = plan->field[n];
        const struct fns_spec *spec = &plan->spec[i];
        uint8_t *to = table->column[i].values + (size_t)row * spec->width;
        const uint8_t *from = data + NLMSG_HDRLEN + spec->field;
        if (spec->field_width == 1)
            *to = *from;
        else
            memcpy(to, from, spec->field_width);
        fns_bit_set(table->column[i].valid, row);
    }
    for (; (one = fns_attr(data, at, length, &type)); at += (one + 3) & ~(size_t)3)
        if ((err = fns_take_attr(table, data, at, one, type)) < 0)
            goto undo;
    for (int i = 0; i < count; i++)
        if (!fns_holds(table, &conditions[i])) {
            fns_undo(table);
            return 0;
        }
    for (int n = 0; n < table->texts; n++) {
        struct fns_column *column = &table->column[table->text[n]];
        column->offsets[row + 1] = (int32_t)column->used;
    }
    table->rows++;
    return 0;
undo:
    fns_undo(table);
    return err;
}

static int fns_table_finish(struct fns_table *table)
{
    int64_t bytes = (table->rows + 7) / 8;

    for (int i = 0; i < table->plan->columns; i++) {
        struct fns_column *column = &table->column[i];
        int64_t set = 0, byte = 0;
        if (column->valid == NULL) {
            if (fns_live(table, i))
                return -ENOMEM;
            column->nulls = table->rows;
            continue;
        }
        for (; byte + 8 <= bytes; byte += 8) {
            uint64_t word;
            memcpy(&word, column->valid + byte, sizeof word);
            set += __builtin_popcountll(word);
        }
        for (; byte < bytes; byte++)
            set += __builtin_popcount(column->valid[byte]);
        column->nulls = table->rows - set;
    }
    return 0;
}

/* The rows of these numbers, all of them within the table, as a table of their own. NULL: no memory. */
static struct fns_table *fns_table_take(const struct fns_table *from, const int64_t *rows, int64_t count)
{
    struct fns_table *to = fns_table_new(from->plan, count);

    if (to == NULL)
        return NULL;
    to->rows = count;
    for (int i = 0; i < from->plan->columns; i++) {
        const struct fns_column *in = &from->column[i];
        struct fns_column *out = &to->column[i];
        size_t width = from->plan->spec[i].width;
        if (in->nulls == from->rows)
            continue;
        if (out->valid == NULL && fns_live(to, i)) {
            fns_table_put(to);
            return NULL;
        }
        for (int64_t n = 0; n < count; n++) {
            int64_t row = rows[n];
            if (fns_bit(in->valid, row))
                fns_bit_set(out->valid, n);
            if (width) {
                memcpy(out->values + (size_t)n * width, in->values + (size_t)row * width, width);
            } else {
                size_t length = (size_t)(in->offsets[row + 1] - in->offsets[row]);
                if (fns_append(out, in->data + in->offsets[row], length)) {
                    fns_table_put(to);
                    return NULL;
                }
                out->offsets[n + 1] = (int32_t)out->used;
            }
        }
    }
    if (fns_table_finish(to)) {
        fns_table_put(to);
        return NULL;
    }
    return to;
}

/* ---- text ---------------------------------------------------------------------------------------------------- */

#define FNS_TEXT_MAX 208

static size_t fns_decimal(char *to, unsigned value)
{
    size_t length = 0;

    if (value >= 100)
        to[length++] = (char)('0' + value / 100);
    if (value >= 10)
        to[length++] = (char)('0' + value / 10 % 10);
    to[length++] = (char)('0' + value % 10);
    return length;
}

/* An address as text into FNS_TEXT_MAX bytes; what is too long is cut. The length. */
static size_t fns_address_text(const uint8_t *address, size_t length, int type, char *to)
{
    static const char digits[] = "0123456789abcdef";
    size_t used = 0;

    if (length == 4) {
        for (int i = 0; i < 4; i++) {
            if (i)
                to[used++] = '.';
            used += fns_decimal(to + used, address[i]);
        }
        return used;
    }
    if (length == 16)
        return inet_ntop(AF_INET6, address, to, FNS_TEXT_MAX) ? strlen(to) : 0;
    for (size_t i = 0; i < length && used + 3 < FNS_TEXT_MAX; i++) {
        if (i && type == FNS_HW)
            to[used++] = ':';
        to[used++] = digits[address[i] >> 4];
        to[used++] = digits[address[i] & 15];
    }
    return used;
}

#endif
