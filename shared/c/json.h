/* JSON (RFC 8259), looked through and not decoded.

   Each function returns what follows in the text, or NULL where something else stands. Behind the text are eight NULs
   (see `padded`), which JSON has nowhere: no scan runs over its end. */

#ifndef BARGELINE_JSON_H
#define BARGELINE_JSON_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef const unsigned char *Text;

enum { MOST_DEPTH = 64 };

static inline Text skip_space(Text at) {
    while (*at == ' ' || *at == '\t' || *at == '\r')
        at++;
    return at;
}

#define EACH(byte) (0x0101010101010101u * (byte))

/* The highest bit of those of eight bytes that are zero, and perhaps of some behind the first of them. */
static inline uint64_t zeros(uint64_t word) { return (word - EACH(1)) & ~word & EACH(0x80); }

static inline uint64_t ends_plain(uint64_t word) {
    return zeros(word ^ EACH('"')) | zeros(word ^ EACH('\\')) | zeros(word & EACH(0xE0));
}

/* What of a string stands for itself: no quote, no backslash, no control character. */
static inline Text skip_plain(Text at) {
    uint64_t word, ends;
    for (;; at += sizeof word) {
        memcpy(&word, at, sizeof word);
        if ((ends = ends_plain(word)))
            break;
    }
#if defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    /* Byte by byte, as below, all of a row took a fifth longer: how many there are can mostly not be predicted. */
    return at + __builtin_ctzll(ends) / 8;
#else
    while (*at >= 0x20 && *at != '"' && *at != '\\')
        at++;
    return at;
#endif
}

static inline int is_hex(unsigned char byte) {
    return (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'f');
}

/* What was met in passing. */
enum { ESCAPED = 1, LARGE = 2 };

static inline Text skip_string(Text at, int *seen) {
    if (*at++ != '"')
        return NULL;
    for (;;) {
        at = skip_plain(at);
        if (*at == '"')
            return at + 1;
        if (*at != '\\')
            return NULL;
        *seen |= ESCAPED;
        at++;
        if (*at == 'u') {
            for (int digit = 1; digit <= 4; digit++)
                if (!is_hex(at[digit]))
                    return NULL;
            /* Half of a character beyond 16 bits: whether the other half follows is not looked at here. */
            if ((at[1] | 32) == 'd' && at[2] >= '8')
                return NULL;
            at += 5;
        } else if (*at != 0 && strchr("\"\\/bfnrt", *at)) {
            at++;
        } else {
            return NULL;
        }
    }
}

static inline Text skip_digits(Text at) {
    if (*at < '0' || *at > '9')
        return NULL;
    while (*at >= '0' && *at <= '9')
        at++;
    return at;
}

enum { MOST_DIGITS = 200, MOST_OF_EXPONENT = 2 };

/* A number of very many digits, or with an exponent of more than two, may be larger than a double can be. */
static inline Text skip_number(Text at, int *seen) {
    Text begin = at;
    if (*at == '-')
        at++;
    at = *at == '0' ? at + 1 : skip_digits(at);
    if (at && *at == '.')
        at = skip_digits(at + 1);
    if (at && at - begin > MOST_DIGITS)
        *seen |= LARGE;
    if (at && (*at | 32) == 'e') {
        at++;
        begin = *at == '+' || *at == '-' ? at + 1 : at;
        at = skip_digits(begin);
        if (at && at - begin > MOST_OF_EXPONENT)
            *seen |= LARGE;
    }
    return at;
}

static inline Text skip_word(Text at, const char *word) {
    size_t length = strlen(word);
    return strncmp((const char *)at, word, length) == 0 ? at + length : NULL;
}

static inline Text skip_value(Text at, int depth, int *seen);

static inline Text skip_items(Text at, int depth, unsigned char end, int *seen) {
    if (depth == MOST_DEPTH)
        return NULL;
    at = skip_space(at + 1);
    if (*at == end)
        return at + 1;
    for (;;) {
        if (end == '}') {
            at = skip_string(at, seen);
            if (!at)
                return NULL;
            at = skip_space(at);
            if (*at != ':')
                return NULL;
            at = skip_space(at + 1);
        }
        at = skip_value(at, depth + 1, seen);
        if (!at)
            return NULL;
        at = skip_space(at);
        if (*at == end)
            return at + 1;
        if (*at != ',')
            return NULL;
        at = skip_space(at + 1);
    }
}

static inline Text skip_value(Text at, int depth, int *seen) {
    switch (*at) {
    case '"':
        return skip_string(at, seen);
    case '{':
        return skip_items(at, depth, '}', seen);
    case '[':
        return skip_items(at, depth, ']', seen);
    case 't':
        return skip_word(at, "true");
    case 'f':
        return skip_word(at, "false");
    case 'n':
        return skip_word(at, "null");
    default:
        return skip_number(at, seen);
    }
}

/* The JSON of a value as it stands there; `at` is NULL where there is none. */
typedef struct {
    Text at;
    size_t length;
    int escaped;
} Value;

/* A member that is wanted of an object, and the group of those that are wanted of its own, or -1. One that is not
   `allowed` would change what others mean. */
typedef struct {
    const char *name;
    size_t length;
    int inner, allowed;
} Node;

typedef struct {
    int begin, end;
} Group;

typedef struct {
    const Node *nodes;
    const Group *groups;
} Tree;

static inline int find_node(const Tree *tree, Group group, Text name, size_t length, int *next) {
    for (int tried = group.begin; tried < group.end; tried++) {
        /* Mostly they stand in the order in which they are wanted. */
        int place = *next;
        *next = place + 1 == group.end ? group.begin : place + 1;
        if (tree->nodes[place].length == length && memcmp(tree->nodes[place].name, name, length) == 0)
            return place;
    }
    return -1;
}

static inline Text read_object(Text at, const Tree *tree, int group, Value *values);

/* Note the value of a member. A name that comes twice is unusual, and so is a list whose items may be wanted. */
static inline Text read_member(Text at, const Tree *tree, int place, Value *values) {
    int seen = 0, inner = tree->nodes[place].inner;
    if (values[place].at || !tree->nodes[place].allowed || (inner >= 0 && *at == '['))
        return NULL;
    values[place].at = at;
    Text end = inner >= 0 && *at == '{' ? read_object(at, tree, inner, values) : skip_value(at, 1, &seen);
    if (end)
        values[place] = (Value){at, (size_t)(end - at), seen & ESCAPED};
    return end;
}

/* Note the values of what is wanted of an object, by the places of their nodes. A name that is spelt with escapes is
   unusual. */
static inline Text read_object(Text at, const Tree *tree, int group, Value *values) {
    int next = tree->groups[group].begin, ignored = 0;
    if (*at != '{')
        return NULL;
    at = skip_space(at + 1);
    if (*at == '}')
        return at + 1;
    for (;;) {
        int escaped = 0;
        Text name = at + 1;
        at = skip_string(at, &escaped);
        if (!at || escaped)
            return NULL;
        int place = find_node(tree, tree->groups[group], name, (size_t)(at - 1 - name), &next);
        at = skip_space(at);
        if (*at != ':')
            return NULL;
        at = skip_space(at + 1);
        at = place < 0 ? skip_value(at, 1, &ignored) : read_member(at, tree, place, values);
        if (!at)
            return NULL;
        at = skip_space(at);
        if (*at == '}')
            return at + 1;
        if (*at != ',')
            return NULL;
        at = skip_space(at + 1);
    }
}

static inline int is_null(const Value *value) { return !value->at || *value->at == 'n'; }

static inline int is_text(const Value *value) { return value->at && *value->at == '"'; }

static inline int is_plain(const Value *value) { return is_text(value) && !value->escaped; }

static inline int is_same(const Value *one, const Value *other) {
    return one->length == other->length && memcmp(one->at, other->at, one->length) == 0;
}

#endif
