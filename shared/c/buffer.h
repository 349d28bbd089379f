/* Bytes that grow. */

#ifndef BARGELINE_BUFFER_H
#define BARGELINE_BUFFER_H

#include <Python.h>

#include "json.h"

typedef struct {
    unsigned char *bytes;
    size_t used, room;
} Buffer;

static inline int reserve(Buffer *buffer, size_t more) {
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

static inline void put_bytes(Buffer *buffer, Text at, size_t length) {
    memcpy(buffer->bytes + buffer->used, at, length);
    buffer->used += length;
}

/* A copy with NULs behind it, so many that eight bytes can be read anywhere. */
static inline Text padded(Buffer *buffer, const char *text, size_t length) {
    if (!reserve(buffer, length + sizeof(uint64_t)))
        return NULL;
    put_bytes(buffer, (Text)text, length);
    memset(buffer->bytes + length, 0, sizeof(uint64_t));
    return buffer->bytes;
}

enum { MOST_KEPT = 1 << 20 };

/* Keep a buffer for the next call: new pages each time were a third of one. A call takes it, so that what runs
   meanwhile finds none. */
static inline Buffer take_buffer(Buffer *kept) {
    Buffer taken = *kept;
    *kept = (Buffer){0};
    return taken;
}

static inline void keep_buffer(Buffer *kept, Buffer *used) {
    if (kept->bytes || used->room > MOST_KEPT)
        PyMem_Free(used->bytes);
    else
        *kept = (Buffer){used->bytes, 0, used->room};
}

#endif
