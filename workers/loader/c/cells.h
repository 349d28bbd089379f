/* Cells of COPY's binary format (https://www.postgresql.org/docs/current/sql-copy.html), as the types' receive functions
   take them.

   Each function writes a length of four bytes and the content, and returns 0 for a value that is not its type's. */

#ifndef BARGELINE_CELLS_H
#define BARGELINE_CELLS_H

#include <Python.h>
#include <math.h>

#include "json.h"

typedef struct {
    unsigned char *bytes;
    size_t used, room;
} Buffer;

static int reserve(Buffer *buffer, size_t more) {
    if (buffer->room - buffer->used >= more)
        return 1;
    size_t room = 2 * buffer->room + more;
    unsigned char *bytes = PyMem_Realloc(buffer->bytes, room);
    if (!bytes) {
        PyErr_NoMemory();
        return 0;
    }
    buffer->bytes = bytes;
    buffer->room = room;
    return 1;
}

static void put_number(Buffer *buffer, uint64_t number, int size) {
    for (int byte = size - 1; byte >= 0; byte--)
        buffer->bytes[buffer->used++] = (unsigned char)(number >> 8 * byte);
}

static void put_bytes(Buffer *buffer, Text at, size_t length) {
    memcpy(buffer->bytes + buffer->used, at, length);
    buffer->used += length;
}

static unsigned nibble(unsigned char digit) { return (unsigned)(digit <= '9' ? digit - '0' : (digit | 32) - 'a' + 10); }

/* A character that is written as four hexadecimal digits, as UTF-8; not NUL, which no text of PostgreSQL holds. */
static int put_character(Buffer *buffer, Text digits) {
    unsigned code = nibble(digits[0]) << 12 | nibble(digits[1]) << 8 | nibble(digits[2]) << 4 | nibble(digits[3]);
    if (code == 0)
        return 0;
    if (code < 0x80) {
        put_number(buffer, code, 1);
    } else if (code < 0x800) {
        put_number(buffer, 0xC080 | (code << 2 & 0x1F00) | (code & 0x3F), 2);
    } else {
        put_number(buffer, 0xE08080 | (code << 4 & 0xF0000) | (code << 2 & 0x3F00) | (code & 0x3F), 3);
    }
    return 1;
}

static int put_unescaped(Buffer *buffer, Text at, Text end) {
    static const char codes[] = "bfnrt", characters[] = "\b\f\n\r\t";
    while (at < end) {
        if (*at != '\\') {
            put_number(buffer, *at++, 1);
            continue;
        }
        at++;
        if (*at == 'u') {
            if (!put_character(buffer, at + 1))
                return 0;
            at += 5;
            continue;
        }
        const char *code = strchr(codes, *at);
        put_number(buffer, code ? (unsigned char)characters[code - codes] : *at, 1);
        at++;
    }
    return 1;
}

static int put_text(Buffer *buffer, const Value *value) {
    if (!is_text(value))
        return 0;
    Text at = value->at + 1, end = value->at + value->length - 1;
    if (!value->escaped) {
        put_number(buffer, (uint64_t)(end - at), 4);
        put_bytes(buffer, at, (size_t)(end - at));
        return 1;
    }
    size_t length_at = buffer->used, cell_end;
    put_number(buffer, 0, 4);
    if (!put_unescaped(buffer, at, end))
        return 0;
    cell_end = buffer->used;
    buffer->used = length_at;
    put_number(buffer, cell_end - length_at - 4, 4);
    buffer->used = cell_end;
    return 1;
}

/* Of 36 characters, hyphens in their usual places. */
static int put_uuid(Buffer *buffer, const Value *value) {
    if (!is_plain(value) || value->length != 38)
        return 0;
    put_number(buffer, 16, 4);
    Text at = value->at + 1;
    for (int place = 0; place < 36; place++) {
        if (place == 8 || place == 13 || place == 18 || place == 23) {
            if (at[place] != '-')
                return 0;
            continue;
        }
        if (!is_hex(at[place]) || !is_hex(at[place + 1]))
            return 0;
        buffer->bytes[buffer->used++] = (unsigned char)(nibble(at[place]) << 4 | nibble(at[place + 1]));
        place++;
    }
    return 1;
}

static int put_boolean(Buffer *buffer, const Value *value) {
    if (*value->at != 't' && *value->at != 'f')
        return 0;
    put_number(buffer, 1, 4);
    put_number(buffer, *value->at == 't', 1);
    return 1;
}

/* The characters of a number, which may stand in a string, as money mostly does. */
static Text number_in(const Value *value, Text *end) {
    int quote = is_plain(value);
    *end = value->at + value->length - quote;
    return value->at + quote;
}

/* Of at most 18 digits; what is longer, or has a fraction or an exponent, is PostgreSQL's to judge. */
static int put_integer(Buffer *buffer, const Value *value, int size) {
    Text end, at = number_in(value, &end);
    int negative = *at == '-';
    int64_t number = 0;
    at += negative;
    if (at == end || end - at > 18)
        return 0;
    for (; at < end; at++) {
        if (*at < '0' || *at > '9')
            return 0;
        number = 10 * number + (*at - '0');
    }
    if (negative)
        number = -number;
    int64_t most = size == 8 ? INT64_MAX : ((int64_t)1 << (8 * size - 1)) - 1;
    if (number > most || number < -most - 1)
        return 0;
    put_number(buffer, (uint64_t)size, 4);
    put_number(buffer, (uint64_t)number, size);
    return 1;
}

enum { MOST_DIGITS = 128, DIGITS = 4 };

/* Groups of four digits, each group a number, with as many zeros in front and behind as that takes: how many groups. */
static int group_digits(Text at, Text point, Text end, int *groups) {
    int count = 0, place = (int)((DIGITS - (point - at) % DIGITS) % DIGITS);
    groups[0] = 0;
    for (; at < end; at++) {
        if (at == point)
            continue;
        groups[count] = 10 * groups[count] + (*at - '0');
        if (++place == DIGITS) {
            groups[++count] = 0;
            place = 0;
        }
    }
    if (place == 0)
        return count;
    for (; place < DIGITS; place++)
        groups[count] *= 10;
    return count + 1;
}

/* Digits to the base of 10,000, the weight of the first, the sign, and how many decimal places are shown. */
static int put_numeric(Buffer *buffer, const Value *value) {
    int groups[MOST_DIGITS / DIGITS + 2], first = 0;
    Text end, at = number_in(value, &end), point;
    int negative = *at == '-';
    at += negative;
    point = skip_digits(at);
    if (!point || point > end || end - at > MOST_DIGITS)
        return 0;
    if (point < end && (*point != '.' || skip_digits(point + 1) != end))
        return 0;
    int places = point < end ? (int)(end - point) - 1 : 0;
    int count = group_digits(at, point, end, groups), weight = (int)(point - at + DIGITS - 1) / DIGITS - 1;
    while (count > first && groups[count - 1] == 0)
        count--;
    while (count > first && groups[first] == 0) {
        first++;
        weight--;
    }
    if (count == first)
        weight = negative = 0;
    put_number(buffer, (uint64_t)(8 + 2 * (count - first)), 4);
    put_number(buffer, (uint64_t)(count - first), 2);
    put_number(buffer, (uint64_t)(int64_t)weight, 2);
    put_number(buffer, negative ? 0x4000 : 0, 2);
    put_number(buffer, (uint64_t)places, 2);
    for (; first < count; first++)
        put_number(buffer, (uint64_t)groups[first], 2);
    return 1;
}

static int put_eight(Buffer *buffer, uint64_t bits) {
    put_number(buffer, 8, 4);
    put_number(buffer, bits, 8);
    return 1;
}

static int put_double(Buffer *buffer, const Value *value) {
    char text[64];
    if ((*value->at != '-' && (*value->at < '0' || *value->at > '9')) || value->length >= sizeof text)
        return 0;
    memcpy(text, value->at, value->length);
    text[value->length] = 0;
    double number = PyOS_string_to_double(text, NULL, NULL);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    /* PostgreSQL refuses what is too large, or so small that it becomes zero. */
    if (isinf(number) || (number == 0 && strpbrk(text, "-123456789")))
        return 0;
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return put_eight(buffer, bits);
}

static int put_json(Buffer *buffer, const Value *value, int is_binary) {
    put_number(buffer, value->length + (size_t)is_binary, 4);
    if (is_binary)
        put_number(buffer, 1, 1); /* the version of the format of jsonb */
    put_bytes(buffer, value->at, value->length);
    return 1;
}

/* As in native.py. */
enum { TEXT, UUID, BOOLEAN, SMALLINT, INTEGER, BIGINT, DOUBLE, JSON, JSONB, MOMENT, NUMERIC };

static void put_null(Buffer *buffer) { put_number(buffer, UINT32_MAX, 4); }

static int put_cell(Buffer *buffer, int type, const Value *value) {
    switch (type) {
    case TEXT:
        return put_text(buffer, value);
    case UUID:
        return put_uuid(buffer, value);
    case BOOLEAN:
        return put_boolean(buffer, value);
    case SMALLINT:
        return put_integer(buffer, value, 2);
    case INTEGER:
        return put_integer(buffer, value, 4);
    case BIGINT:
        return put_integer(buffer, value, 8);
    case DOUBLE:
        return put_double(buffer, value);
    case JSON:
        return put_json(buffer, value, 0);
    case JSONB:
        return put_json(buffer, value, 1);
    case NUMERIC:
        return put_numeric(buffer, value);
    }
    return 0;
}

#endif
