/* Clean entries of the usual kind into rows of COPY's binary format, in one pass over their JSON.

   `rows` makes of an entry what rows.py makes of it step by step, at a third of the cost, or nothing: whatever is not
   just as it mostly is (a number for a text, a key twice, no JSON) makes it return None, and rows.py decides. So it has
   to be right about what it takes, and need not know what becomes of the rest. tests/integration/test_native_rows.py
   compares both in PostgreSQL, tests/unit/test_native.py on damaged input. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "buffer.h"
#include "cells.h"
#include "json.h"

/* The first nodes of a plan, and its first group; those of the data come behind them. */
enum { ID, TYPE, SOURCE, TIME, KEY, DATA, ATTRIBUTES };
enum { MOST_NODES = 256, MOST_COLUMNS = 256 };
/* Changes with what native.py passes and gets: it takes no other. */
enum { VERSION = 1 };

typedef struct {
    int node, type;
} Column;

/* What a table takes of events of a type: nodes, columns, and for each rollup the nodes that it counts by. */
typedef struct {
    Node nodes[MOST_NODES];
    Group groups[MOST_NODES];
    int node_count, group_count, column_count;
    Column columns[MOST_COLUMNS];
    PyObject *rollups; /* a tuple of tuples of places of nodes, borrowed */
} Plan;

static int refuse(const char *why) {
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, why);
    return 0;
}

static int read_nodes(PyObject *given, Plan *plan) {
    for (int place = 0; place < plan->node_count; place++) {
        Node *node = &plan->nodes[place];
        Py_ssize_t length;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(given, place), "y#ii", &node->name, &length, &node->inner, &node->allowed))
            return 0;
        node->length = (size_t)length;
        if (node->inner < -1 || node->inner >= plan->group_count)
            return refuse("no such group");
    }
    return 1;
}

static int read_groups(PyObject *given, Plan *plan) {
    for (int place = 0; place < plan->group_count; place++) {
        Group *group = &plan->groups[place];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(given, place), "ii", &group->begin, &group->end))
            return 0;
        if (group->begin < 0 || group->begin > group->end || group->end > plan->node_count)
            return refuse("no such nodes");
    }
    return 1;
}

static int read_columns(PyObject *given, Plan *plan) {
    for (int place = 0; place < plan->column_count; place++) {
        Column *column = &plan->columns[place];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(given, place), "ii", &column->node, &column->type))
            return 0;
        if (column->node < 0 || column->node >= plan->node_count)
            return refuse("no such node");
    }
    return 1;
}

static int read_plan(PyObject *given, Plan *plan) {
    PyObject *nodes, *groups, *columns;
    PyTypeObject *tuple = &PyTuple_Type;
    if (!PyArg_ParseTuple(given, "O!O!O!O!", tuple, &nodes, tuple, &groups, tuple, &columns, tuple, &plan->rollups))
        return 0;
    Py_ssize_t node_count = PyTuple_GET_SIZE(nodes), group_count = PyTuple_GET_SIZE(groups);
    if (node_count > MOST_NODES || group_count > MOST_NODES || PyTuple_GET_SIZE(columns) > MOST_COLUMNS)
        return refuse("too many nodes or columns");
    if (node_count < ATTRIBUTES || group_count == 0)
        return refuse("no attributes");
    plan->node_count = (int)node_count;
    plan->group_count = (int)group_count;
    plan->column_count = (int)PyTuple_GET_SIZE(columns);
    for (Py_ssize_t place = 0; place < PyTuple_GET_SIZE(plan->rollups); place++)
        if (!PyTuple_Check(PyTuple_GET_ITEM(plan->rollups, place)))
            return refuse("no tuple of nodes");
    return read_nodes(nodes, plan) && read_groups(groups, plan) && read_columns(columns, plan);
}

/* Whether a number from a rollup is a node's. */
static int read_place(PyObject *number, const Plan *plan) {
    long place = PyLong_AsLong(number);
    if (place < 0 || place >= plan->node_count) {
        refuse("no such node");
        return -1;
    }
    return (int)place;
}

/* The values of an event in a line: 1, or 0 where anything is unusual. */
static int read_event(Text *line, const Plan *plan, Value *values) {
    memset(values, 0, sizeof(Value) * (size_t)plan->node_count);
    Tree tree = {plan->nodes, plan->groups};
    Text at = read_object(*line, &tree, 0, values);
    if (!at)
        return 0;
    at = skip_space(at);
    if (*at != '\n' && *at != 0)
        return 0;
    for (int attribute = ID; attribute <= TIME; attribute++)
        if (!is_plain(&values[attribute]))
            return 0;
    if (!is_null(&values[KEY]) && !is_plain(&values[KEY]))
        return 0;
    if (!values[DATA].at || *values[DATA].at != '{')
        return 0;
    *line = at;
    return 1;
}

/* What the caller asks for. */
typedef struct {
    Text body;
    Py_ssize_t length, count;
    Value kind; /* the type that all events have; nothing where any will do */
    PyObject *moment_of; /* tells of the JSON of a time, and whether it is the event's, its microseconds since 2000 */
    Plan plan;
} Task;

/* 1, or 0 for what is no time, or, with an exception, where telling it failed. */
static int read_moment(const Task *task, const Value *value, int is_of_event, int64_t *moment) {
    PyObject *told = PyObject_CallFunction(task->moment_of, "y#i", value->at, (Py_ssize_t)value->length, is_of_event);
    if (!told)
        return 0;
    *moment = told == Py_None ? 0 : PyLong_AsLongLong(told);
    int is_moment = told != Py_None && !PyErr_Occurred();
    Py_DECREF(told);
    return is_moment;
}

static int write_cell(Buffer *buffer, const Task *task, Column column, const Value *value, int64_t time) {
    int64_t moment = time;
    if (is_null(value)) {
        put_null(buffer);
        return 1;
    }
    if (column.type != MOMENT)
        return put_cell(buffer, column.type, value);
    if (column.node != TIME && !read_moment(task, value, 0, &moment))
        return 0;
    return put_eight(buffer, (uint64_t)moment);
}

static int write_row(Buffer *buffer, const Task *task, const Value *values, int64_t time, size_t line_length) {
    const Plan *plan = &task->plan;
    if (!reserve(buffer, 2 + (size_t)plan->column_count * (line_length + 16)))
        return 0;
    put_number(buffer, (uint64_t)plan->column_count, 2);
    for (int place = 0; place < plan->column_count; place++) {
        Column column = plan->columns[place];
        if (!write_cell(buffer, task, column, &values[column.node], time))
            return 0;
    }
    return 1;
}

/* Count a row in each rollup: by the JSON of its values, with commas between them, as it stands there. */
static int count_row(Buffer *scratch, const Plan *plan, const Value *values, PyObject *counts, size_t line_length) {
    for (Py_ssize_t place = 0; place < PyTuple_GET_SIZE(plan->rollups); place++) {
        PyObject *nodes = PyTuple_GET_ITEM(plan->rollups, place);
        scratch->used = 0;
        if (!reserve(scratch, (size_t)PyTuple_GET_SIZE(nodes) * (line_length + 5)))
            return 0;
        for (Py_ssize_t part = 0; part < PyTuple_GET_SIZE(nodes); part++) {
            int node = read_place(PyTuple_GET_ITEM(nodes, part), plan);
            if (node < 0)
                return 0;
            if (part)
                put_number(scratch, ',', 1);
            if (values[node].at)
                put_bytes(scratch, values[node].at, values[node].length);
            else
                put_bytes(scratch, (Text) "null", 4);
        }
        PyObject *key = PyBytes_FromStringAndSize((char *)scratch->bytes, (Py_ssize_t)scratch->used);
        if (!key)
            return 0;
        PyObject *dict = PyList_GET_ITEM(counts, place);
        PyObject *before = PyDict_GetItemWithError(dict, key);
        PyObject *after = PyErr_Occurred() ? NULL : PyLong_FromLong(before ? PyLong_AsLong(before) + 1 : 1);
        int failed = !after || PyDict_SetItem(dict, key, after) < 0;
        Py_DECREF(key);
        Py_XDECREF(after);
        if (failed)
            return 0;
    }
    return 1;
}

static int is_kind(const Value *type, const Value *kind) {
    return !kind->at || (type->length - 2 == kind->length && memcmp(type->at + 1, kind->at, kind->length) == 0);
}

/* Rows and counts of all lines: 1; or 0 where anything is unusual, or, with an exception, impossible. */
static int read_lines(const Task *task, Buffer *rows, Buffer *scratch, PyObject *counts) {
    Value values[MOST_NODES], time = {0};
    Text line = task->body;
    int64_t moment = 0;
    for (Py_ssize_t place = 0; place < task->count; place++) {
        Text begin = line;
        if (!read_event(&line, &task->plan, values) || !is_kind(&values[TYPE], &task->kind))
            return 0;
        if ((place == 0 || !is_same(&values[TIME], &time)) && !read_moment(task, &values[TIME], 1, &moment))
            return 0;
        time = values[TIME];
        size_t length = (size_t)(line - begin);
        if (!write_row(rows, task, values, moment, length))
            return 0;
        if (!count_row(scratch, &task->plan, values, counts, length))
            return 0;
        if (*line == '\n')
            line++;
        else if (place + 1 < task->count)
            return 0;
    }
    return line == task->body + task->length;
}

static PyObject *new_counts(Py_ssize_t rollups) {
    PyObject *counts = PyList_New(rollups);
    for (Py_ssize_t place = 0; counts && place < rollups; place++) {
        PyObject *dict = PyDict_New();
        if (!dict)
            Py_CLEAR(counts);
        else
            PyList_SET_ITEM(counts, place, dict);
    }
    return counts;
}

typedef struct {
    Buffer text, rows, scratch;
} Buffers;

static PyObject *run(const Task *task, Buffers *buffers) {
    PyObject *result = NULL, *counts = new_counts(PyTuple_GET_SIZE(task->plan.rollups));
    if (counts && read_lines(task, &buffers->rows, &buffers->scratch, counts))
        result = Py_BuildValue("y#O", buffers->rows.bytes, (Py_ssize_t)buffers->rows.used, counts);
    else if (!PyErr_Occurred())
        result = Py_NewRef(Py_None);
    Py_XDECREF(counts);
    return result;
}

static PyObject *rows(PyObject *module, PyObject *arguments) {
    static Buffers spare;
    const char *body, *kind;
    Py_ssize_t length, kind_length;
    PyObject *plan, *result = NULL;
    Task task;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y#nz#OO", &body, &length, &task.count, &kind, &kind_length, &plan, &task.moment_of))
        return NULL;
    task.length = length;
    task.kind = (Value){(Text)kind, kind ? (size_t)kind_length : 0, 0};
    if (!read_plan(plan, &task.plan))
        return NULL;
    Buffers buffers = {take_buffer(&spare.text), take_buffer(&spare.rows), take_buffer(&spare.scratch)};
    task.body = padded(&buffers.text, body, (size_t)length);
    if (task.body)
        result = run(&task, &buffers);
    keep_buffer(&spare.text, &buffers.text);
    keep_buffer(&spare.rows, &buffers.rows);
    keep_buffer(&spare.scratch, &buffers.scratch);
    return result;
}

static PyMethodDef methods[] = {
    {"rows", rows, METH_VARARGS, "rows(body, count, kind, plan, moment_of): (rows, counts of each rollup), or None"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_rows", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__rows(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0)
        Py_CLEAR(module);
    return module;
}
