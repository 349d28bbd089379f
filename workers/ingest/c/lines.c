/* Whether lines are what they mostly are: JSON objects.

   `are_objects` says so of lines that lines.py would take as they stand, for a fifth of what that costs. Of anything
   unusual it says no, and lines.py looks again: it has to be right where it says yes, tests/unit/test_native_lines.py.
   UTF-8 is the caller's to check. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "buffer.h"
#include "json.h"

/* Each from brace to brace, with nothing around it. */
static int read_lines(Text at, Text end, Py_ssize_t count) {
    int seen = 0;
    for (Py_ssize_t place = 0; place < count; place++) {
        if (place && *at++ != '\n')
            return 0;
        if (*at != '{' || !(at = skip_value(at, 1, &seen)))
            return 0;
    }
    return !(seen & LARGE) && (at == end || (*at == '\n' && at + 1 == end));
}

static PyObject *are_objects(PyObject *module, PyObject *arguments) {
    static Buffer spare;
    const char *lines;
    Py_ssize_t length, count;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y#n", &lines, &length, &count))
        return NULL;
    Buffer buffer = take_buffer(&spare);
    Text text = padded(&buffer, lines, (size_t)length);
    PyObject *result = text ? PyBool_FromLong(read_lines(text, text + length, count)) : NULL;
    keep_buffer(&spare, &buffer);
    return result;
}

static PyMethodDef methods[] = {
    {"are_objects", are_objects, METH_VARARGS, "are_objects(lines, count): whether so many lines are objects as usual"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_lines", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__lines(void) { return PyModule_Create(&definition); }
