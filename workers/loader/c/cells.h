/* Cells of COPY's binary format (https://www.postgresql.org/docs/current/sql-copy.html), as the types' receive functions
   take them.

   Each function writes a length of four bytes and the content, and returns 0 for a value that is not its type's. */

#ifndef BARGELINE_CELLS_H
#define BARGELINE_CELLS_H

#include <Python.h>
#include <math.h>

#include "buffer.h"
#include "json.h"

static void put_number(Buffer *buffer, uint64_t number, int size) {
    for (int byte = size - 1; byte >= 0; byte--)
        buffer->bytes[buffer->used++] = (unsigned char)(number >> 8 * byte);
}

/* A cell whose length is known when its content stands there. */
static size_t begin_cell(Buffer *buffer) {
    put_number(buffer, 0, 4);
    return buffer->used;
}

static int end_cell(Buffer *buffer, size_t begin) {
    size_t end = buffer->used;
    buffer->used = begin - 4;
    put_number(buffer, end - begin, 4);
    buffer->used = end;
    return 1;
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
    size_t begin = begin_cell(buffer);
    if (!put_unescaped(buffer, at, end))
        return 0;
    return end_cell(buffer, begin);
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

enum { MOST_OF_NUMERIC = 128, DIGITS = 4 };

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
    int groups[MOST_OF_NUMERIC / DIGITS + 2], first = 0;
    Text end, at = number_in(value, &end), point;
    int negative = *at == '-';
    at += negative;
    point = skip_digits(at);
    if (!point || point > end || end - at > MOST_OF_NUMERIC)
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

static int put_json(Buffer *buffer, const Value *value) {
    put_number(buffer, value->length, 4);
    put_bytes(buffer, value->at, value->length);
    return 1;
}

enum { MOST_MEMBERS = 64 };

/* A member of an object; its name is in quotes. */
typedef struct {
    Text name, value, end;
    size_t name_length;
} Member;

/* jsonb keeps members by the lengths of their names, then by their bytes. */
static int is_behind(const Member *one, const Member *other) {
    if (one->name_length != other->name_length)
        return one->name_length > other->name_length;
    return memcmp(one->name, other->name, one->name_length) > 0;
}

/* The members of an object in jsonb's order, those of one name as they came: how many, or 0 where that is not to be
   had. A name with an escape may be another one's. */
static int order_members(Text at, Member *members) {
    int count = 0, escaped = 0, ignored = 0;
    for (at = skip_space(at + 1); *at != '}'; at = skip_space(at + (*at == ','))) {
        Member member = {at, skip_string(at, &escaped), NULL, 0};
        if (escaped || count == MOST_MEMBERS)
            return 0;
        member.name_length = (size_t)(member.value - at);
        member.value = skip_space(skip_space(member.value) + 1);
        member.end = skip_value(member.value, 1, &ignored);
        at = skip_space(member.end);
        int place = count++;
        for (; place > 0 && is_behind(&members[place - 1], &member); place--)
            members[place] = members[place - 1];
        members[place] = member;
    }
    return count;
}

static void put_ordered(Buffer *buffer, Text at, Text end) {
    Member members[MOST_MEMBERS];
    int count = at < end && *at == '{' ? order_members(at, members) : 0;
    if (count == 0) {
        put_bytes(buffer, at, (size_t)(end - at));
        return;
    }
    for (int place = 0; place < count; place++) {
        const Member *member = &members[place];
        Text inner = *member->value == '{' ? member->value : member->end;
        buffer->bytes[buffer->used++] = place ? ',' : '{';
        put_bytes(buffer, member->name, (size_t)(inner - member->name));
        put_ordered(buffer, inner, member->end);
    }
    buffer->bytes[buffer->used++] = '}';
}

/* PostgreSQL sorts the members of each object: of a click 2.9 µs as they come, 1.6 in its own order. */
static int put_jsonb(Buffer *buffer, const Value *value) {
    size_t begin = begin_cell(buffer);
    put_number(buffer, 1, 1); /* the version of the format */
    put_ordered(buffer, value->at, value->at + value->length);
    return end_cell(buffer, begin);
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
        return put_json(buffer, value);
    case JSONB:
        return put_jsonb(buffer, value);
    case NUMERIC:
        return put_numeric(buffer, value);
    }
    return 0;
}

#endif
