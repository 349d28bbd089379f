/* Lines into events, as long as they are what they mostly are: JSON objects.

   `envelopes` makes of them what lines.py would make, for a sixth of what that costs. Where anything is unusual it makes
   nothing, and lines.py looks again: it has to be right where it does, tests/unit/test_native_lines.py. UTF-8 is the
   caller's to check. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "buffer.h"
#include "json.h"

enum { ID_LENGTH = 36, HASH_BITS = 42, LOW_BITS = 62 - HASH_BITS };

#define BEFORE_ID "{\"id\":\""
#define BEHIND_DATA "}\n"

/* What all events of a batch share. */
typedef struct {
    uint64_t source, offset;
    const char *attributes;
    Py_ssize_t attributes_length;
} Shared;

static unsigned char *put(unsigned char *at, const void *bytes, size_t length) {
    memcpy(at, bytes, length);
    return at + length;
}

static unsigned char *put_hex(unsigned char *at, uint64_t value, int digits) {
    for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4)
        *at++ = (unsigned char)"0123456789abcdef"[value >> shift & 15];
    return at;
}

/* UUIDv8 of [source, 32 bits][position, 48 bits][content, 42 bits], as `SourceIds` of shared/events.py makes it. */
static unsigned char *put_id(unsigned char *at, uint64_t source, uint64_t position, uint64_t hash) {
    uint64_t high = source << (48 - LOW_BITS) | position >> LOW_BITS;
    uint64_t low = (position & ((1u << LOW_BITS) - 1)) << HASH_BITS | hash >> (64 - HASH_BITS);
    at = put_hex(at, high >> 28, 8);
    *at++ = '-';
    at = put_hex(at, high >> 12 & 0xFFFF, 4);
    *at++ = '-';
    at = put_hex(at, 0x8000 | (high & 0xFFF), 4);
    *at++ = '-';
    at = put_hex(at, 0x8000 | low >> 48, 4);
    *at++ = '-';
    return put_hex(at, low & 0xFFFFFFFFFFFF, 12);
}

/* Events of lines from brace to brace with nothing around them; returns what follows them, or NULL where any line is
   something else. */
static unsigned char *put_events(unsigned char *to, const Shared *shared, Text lines, Text end, PyObject *hashes) {
    Text at = lines;
    int seen = 0;
    for (Py_ssize_t place = 0; place < PyList_GET_SIZE(hashes); place++) {
        if (place && *at++ != '\n')
            return NULL;
        Text line = at;
        if (*at != '{' || !(at = skip_value(at, 1, &seen)))
            return NULL;
        uint64_t hash = PyLong_AsUnsignedLongLong(PyList_GET_ITEM(hashes, place));
        if (hash == (uint64_t)-1 && PyErr_Occurred())
            return NULL;
        to = put(to, BEFORE_ID, sizeof BEFORE_ID - 1);
        to = put_id(to, shared->source, shared->offset + (uint64_t)(line - lines), hash);
        to = put(to, shared->attributes, (size_t)shared->attributes_length);
        to = put(to, line, (size_t)(at - line));
        to = put(to, BEHIND_DATA, sizeof BEHIND_DATA - 1);
    }
    return !(seen & LARGE) && (at == end || (*at == '\n' && at + 1 == end)) ? to : NULL;
}

static PyObject *envelopes(PyObject *module, PyObject *arguments) {
    static Buffer spare;
    const char *lines;
    Py_ssize_t length;
    unsigned long long source, offset;
    PyObject *hashes;
    Shared shared;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y#O!KKy#", &lines, &length, &PyList_Type, &hashes, &source, &offset,
                          &shared.attributes, &shared.attributes_length))
        return NULL;
    shared.source = source;
    shared.offset = offset;
    size_t around = sizeof BEFORE_ID - 1 + ID_LENGTH + (size_t)shared.attributes_length + sizeof BEHIND_DATA - 1;
    /* Some more than is needed: newlines between lines are none in data. */
    PyObject *events = PyBytes_FromStringAndSize(NULL, length + PyList_GET_SIZE(hashes) * (Py_ssize_t)around);
    if (!events)
        return NULL;
    Buffer buffer = take_buffer(&spare);
    Text text = padded(&buffer, lines, (size_t)length);
    unsigned char *begin = (unsigned char *)PyBytes_AS_STRING(events);
    unsigned char *end = text ? put_events(begin, &shared, text, text + length, hashes) : NULL;
    keep_buffer(&spare, &buffer);
    if (end) {
        _PyBytes_Resize(&events, end - begin);
        return events;
    }
    Py_DECREF(events);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"envelopes", envelopes, METH_VARARGS,
     "envelopes(lines, hashes, source, offset, attributes): events of lines that are objects as usual, or None"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_lines", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__lines(void) { return PyModule_Create(&definition); }
