/* sparsefire._native: the functions of sparsefire.h for Python, one to one, with the GIL released.
 *
 * Every wrapper is made from one line of FUNCTIONS: the result's kind, the name and a kind per parameter. The compiler
 * checks the kinds against the header (a wrong one is a conversion warning or an error); a test checks that no function
 * of the header is missing. Limited API, so that one binary serves every CPython from 3.11. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "sparsefire.h"

/* Kinds of parameters. A pointer is None (NULL), an int (an address), anything with __index__ that is not a buffer, or
 * a C-contiguous buffer of one or more dimensions, whose own memory is passed. */
typedef union {
  void *h;   /* handle: None or an int */
  void *p;   /* memory that is read */
  void *w;   /* memory that is written: a buffer must be writable */
  int32_t i; /* int32_t */
  size_t s;  /* size_t */
  float f;   /* float */
} argument;

enum { MAX_ARGUMENTS = 12 };

typedef struct {
  argument values[MAX_ARGUMENTS];
  Py_buffer views[MAX_ARGUMENTS];
  int view_count;
} call_frame;

static int read_address(PyObject *object, void **out) {
  if (object == Py_None) {
    *out = NULL;
    return 1;
  }
  PyObject *index = PyNumber_Index(object);
  if (index == NULL) return 0;
  size_t address = PyLong_AsSize_t(index);
  Py_DECREF(index);
  *out = (void *)address;
  return !(address == (size_t)-1 && PyErr_Occurred());
}

static int read_memory(call_frame *frame, PyObject *object, int writable, void **out) {
  if (object == Py_None || PyLong_Check(object) || !PyObject_CheckBuffer(object)) return read_address(object, out);
  Py_buffer *view = &frame->views[frame->view_count];
  if (PyObject_GetBuffer(object, view, writable ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND) < 0) return 0;
  frame->view_count++;
  if (view->ndim < 1) {
    PyErr_SetString(PyExc_TypeError, "a scalar is not a buffer; pass an array or an address");
    return 0;
  }
  *out = view->buf;
  return 1;
}

static int read_int32(PyObject *object, int32_t *out) {
  long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) return 0;
  if (value < INT32_MIN || value > INT32_MAX) {
    PyErr_Format(PyExc_OverflowError, "%lld does not fit in 32 bits", value);
    return 0;
  }
  *out = (int32_t)value;
  return 1;
}

static int read_size(PyObject *object, size_t *out) {
  PyObject *index = PyNumber_Index(object);
  if (index == NULL) return 0;
  *out = PyLong_AsSize_t(index);
  Py_DECREF(index);
  return !(*out == (size_t)-1 && PyErr_Occurred());
}

static int read_float(PyObject *object, float *out) {
  double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) return 0;
  if (isfinite(value) && fabs(value) > (double)FLT_MAX) {
    PyErr_SetString(PyExc_OverflowError, "number too large for a 32-bit float");
    return 0;
  }
  *out = (float)value;
  return 1;
}

static int read_argument(call_frame *frame, char kind, PyObject *object, argument *out) {
  switch (kind) {
    case 'h':
      return read_address(object, &out->h);
    case 'p':
      return read_memory(frame, object, 0, &out->p);
    case 'w':
      return read_memory(frame, object, 1, &out->w);
    case 'i':
      return read_int32(object, &out->i);
    case 's':
      return read_size(object, &out->s);
    default:
      return read_float(object, &out->f);
  }
}

static void close_frame(call_frame *frame) {
  while (frame->view_count > 0) PyBuffer_Release(&frame->views[--frame->view_count]);
}

static int open_frame(call_frame *frame, const char *name, const char *kinds, PyObject *const *args, Py_ssize_t count) {
  frame->view_count = 0;
  Py_ssize_t wanted = (Py_ssize_t)strlen(kinds);
  if (count != wanted) {
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments, not %zd", name, wanted, count);
    return 0;
  }
  for (Py_ssize_t k = 0; k < count; k++) {
    if (!read_argument(frame, kinds[k], args[k], &frame->values[k])) {
      close_frame(frame);
      return 0;
    }
  }
  return 1;
}

/* Kinds of results: a C type, how it is received from a call, and how it becomes a Python object. */
typedef const char *text;
typedef void *address;

static PyObject *from_int32_t(int32_t value) { return PyLong_FromLong(value); }
static PyObject *from_size_t(size_t value) { return PyLong_FromSize_t(value); }
static PyObject *from_address(address value) { return PyLong_FromVoidPtr(value); }
static PyObject *from_text(text value) {
  if (value == NULL) Py_RETURN_NONE;
  return PyUnicode_FromString(value);
}

/* (kinds) → the string of the kinds, and → the values of that many arguments. */
#define KINDS_0() ""
#define KINDS_1(a) #a
#define KINDS_2(a, b) #a #b
#define KINDS_3(a, b, c) #a #b #c
#define KINDS_4(a, b, c, d) #a #b #c #d
#define KINDS_5(a, b, c, d, e) #a #b #c #d #e
#define KINDS_6(a, b, c, d, e, g) #a #b #c #d #e #g
#define KINDS_7(a, b, c, d, e, g, h) #a #b #c #d #e #g #h
#define KINDS_8(a, b, c, d, e, g, h, i) #a #b #c #d #e #g #h #i
#define KINDS_9(a, b, c, d, e, g, h, i, j) #a #b #c #d #e #g #h #i #j
#define KINDS_12(a, b, c, d, e, g, h, i, j, k, l, m) #a #b #c #d #e #g #h #i #j #k #l #m
#define VALUES_0()
#define VALUES_1(a) v[0].a
#define VALUES_2(a, b) VALUES_1(a), v[1].b
#define VALUES_3(a, b, c) VALUES_2(a, b), v[2].c
#define VALUES_4(a, b, c, d) VALUES_3(a, b, c), v[3].d
#define VALUES_5(a, b, c, d, e) VALUES_4(a, b, c, d), v[4].e
#define VALUES_6(a, b, c, d, e, g) VALUES_5(a, b, c, d, e), v[5].g
#define VALUES_7(a, b, c, d, e, g, h) VALUES_6(a, b, c, d, e, g), v[6].h
#define VALUES_8(a, b, c, d, e, g, h, i) VALUES_7(a, b, c, d, e, g, h), v[7].i
#define VALUES_9(a, b, c, d, e, g, h, i, j) VALUES_8(a, b, c, d, e, g, h, i), v[8].j
#define VALUES_12(a, b, c, d, e, g, h, i, j, k, l, m) VALUES_9(a, b, c, d, e, g, h, i, j), v[9].k, v[10].l, v[11].m

/* Every function of sparsefire.h, in its order: result, name, number of parameters, their kinds.
 * RESULT functions return a value, VOID ones nothing. */
#define FUNCTIONS(RESULT, VOID)                                                     \
  RESULT(text, sf_status_text, 1, (i))                                              \
  RESULT(text, sf_version, 0, ())                                                   \
  RESULT(address, sf_alloc, 1, (s))                                                 \
  VOID(sf_free, 1, (h))                                                             \
  RESULT(int32_t, sf_isa_count, 0, ())                                              \
  RESULT(text, sf_isa_name, 1, (i))                                                 \
  RESULT(int32_t, sf_isa_supported, 1, (i))                                         \
  RESULT(int32_t, sf_context_open, 3, (w, i, i))                                    \
  VOID(sf_context_close, 1, (h))                                                    \
  RESULT(int32_t, sf_context_isa, 1, (h))                                           \
  RESULT(int32_t, sf_context_threads, 1, (h))                                       \
  RESULT(int32_t, sf_context_set_costs, 4, (h, i, f, f))                            \
  RESULT(int32_t, sf_context_set_column_cost, 3, (h, f, f))                         \
  RESULT(int32_t, sf_peak_operations, 2, (h, i))                                    \
  RESULT(int32_t, sf_peak_run, 4, (h, i, i, w))                                     \
  RESULT(int32_t, sf_peak_read, 4, (h, p, s, w))                                    \
  RESULT(size_t, sf_format_row_bytes, 2, (i, i))                                    \
  RESULT(int32_t, sf_quantize, 6, (i, p, i, i, w, s))                               \
  RESULT(int32_t, sf_dequantize, 6, (i, p, s, i, i, w))                             \
  RESULT(int32_t, sf_matrix_open, 7, (w, p, s, i, i, i, s))                         \
  VOID(sf_matrix_close, 1, (h))                                                     \
  RESULT(int32_t, sf_matrix_set_scale, 2, (h, f))                                   \
  RESULT(int32_t, sf_matrix_multiply, 5, (h, h, p, i, w))                           \
  RESULT(int32_t, sf_matrix_add_columns, 1, (h))                                    \
  RESULT(size_t, sf_matrix_column_bytes, 1, (h))                                    \
  RESULT(int32_t, sf_matrix_multiply_above, 5, (h, h, p, f, w))                     \
  RESULT(int32_t, sf_activate, 6, (h, i, f, p, i, w))                               \
  RESULT(int32_t, sf_rms_norm, 7, (h, p, p, i, i, f, w))                            \
  RESULT(int32_t, sf_softmax, 4, (h, p, i, w))                                      \
  RESULT(int32_t, sf_select_top_k, 5, (h, p, i, i, w))                              \
  RESULT(int32_t, sf_select_threshold, 7, (h, p, i, f, i, i, w))                    \
  RESULT(int32_t, sf_predictor_open, 6, (w, h, h, h, p, i))                         \
  RESULT(int32_t, sf_predictor_open_sign, 4, (w, h, h, f))                          \
  RESULT(int32_t, sf_predictor_open_bounded, 4, (w, h, h, h))                       \
  RESULT(int32_t, sf_predictor_signs, 3, (h, w, s))                                 \
  VOID(sf_predictor_close, 1, (h))                                                  \
  RESULT(int32_t, sf_predictor_set_rule, 6, (h, i, f, i, i, i))                     \
  RESULT(int32_t, sf_predictor_scores, 4, (h, p, i, w))                             \
  RESULT(int32_t, sf_predictor_predict, 3, (h, p, w))                               \
  RESULT(int32_t, sf_ffn_open, 8, (w, h, h, h, h, i, i, f))                         \
  VOID(sf_ffn_close, 1, (h))                                                        \
  RESULT(int32_t, sf_ffn_set_bias, 4, (h, p, p, p))                                 \
  RESULT(int32_t, sf_ffn_set_both_active, 2, (h, i))                                \
  RESULT(int32_t, sf_ffn_set_up_parameter, 2, (h, f))                               \
  RESULT(int32_t, sf_ffn_set_gate_deviations, 2, (h, f))                            \
  RESULT(int32_t, sf_ffn_set_second_down, 2, (h, h))                                \
  RESULT(int32_t, sf_ffn_set_sub_norm, 3, (h, p, f))                                \
  RESULT(int32_t, sf_ffn_set_predictor, 2, (h, h))                                  \
  RESULT(int32_t, sf_ffn_set_cutoff, 3, (h, i, f))                                  \
  RESULT(int32_t, sf_ffn_forward, 7, (h, i, p, i, w, w, w))                         \
  RESULT(int32_t, sf_ffn_forward_active, 5, (h, p, i, p, w))                        \
  RESULT(int32_t, sf_ffn_add_active, 5, (h, p, i, p, w))                            \
  RESULT(int32_t, sf_cache_open, 6, (w, i, s, i, i, i))                             \
  VOID(sf_cache_close, 1, (h))                                                      \
  RESULT(int32_t, sf_cache_pin, 3, (h, p, i))                                       \
  RESULT(int32_t, sf_cache_request, 5, (h, p, i, w, w))                             \
  RESULT(int32_t, sf_cache_bundles, 4, (h, p, i, w))                                \
  RESULT(int32_t, sf_cache_loaded, 3, (h, p, i))                                    \
  RESULT(int32_t, sf_cache_resident, 1, (h))                                        \
  RESULT(int32_t, sf_cache_counts, 4, (h, w, w, w))                                 \
  RESULT(int32_t, sf_ffn_open_cached, 9, (w, h, h, i, i, i, i, i, f))               \
  RESULT(int32_t, sf_experts_open, 9, (w, h, i, h, h, h, i, i, f))                  \
  RESULT(int32_t, sf_experts_open_cached, 12, (w, h, h, i, i, i, i, i, i, i, i, f)) \
  VOID(sf_experts_close, 1, (h))                                                    \
  RESULT(int32_t, sf_experts_set_bias, 4, (h, p, p, p))                             \
  RESULT(int32_t, sf_experts_set_scales, 4, (h, p, p, p))                           \
  RESULT(int32_t, sf_experts_set_up_parameter, 2, (h, f))                           \
  RESULT(int32_t, sf_experts_set_cutoff, 3, (h, i, f))                              \
  RESULT(int32_t, sf_experts_set_predictor, 3, (h, i, h))                           \
  RESULT(int32_t, sf_model_open, 4, (w, h, i, i))                                   \
  VOID(sf_model_close, 1, (h))                                                      \
  RESULT(int32_t, sf_model_set_kv_formats, 3, (h, i, i))                            \
  RESULT(int32_t, sf_model_add_buffer, 2, (h, i))                                   \
  RESULT(int32_t, sf_model_add_matrix, 2, (h, h))                                   \
  RESULT(int32_t, sf_model_add_vector, 3, (h, p, i))                                \
  RESULT(int32_t, sf_model_add_rope, 5, (h, i, f, p, f))                            \
  RESULT(int32_t, sf_model_add_ffn, 2, (h, h))                                      \
  RESULT(int32_t, sf_model_add_experts, 2, (h, h))                                  \
  RESULT(int32_t, sf_model_set_ffn, 3, (h, i, h))                                   \
  RESULT(int32_t, sf_model_add_screen, 2, (h, h))                                   \
  RESULT(int32_t, sf_model_add_step, 6, (h, i, p, i, p, i))                         \
  RESULT(int32_t, sf_model_set_input_limit, 4, (h, i, i, f))                        \
  RESULT(int32_t, sf_model_record_inputs, 5, (h, i, i, w, s))                       \
  RESULT(int32_t, sf_model_eval, 9, (h, p, p, p, i, i, i, w, i))                    \
  RESULT(int32_t, sf_model_missing, 3, (h, w, w))                                   \
  RESULT(int32_t, sf_model_resume, 2, (h, w))                                       \
  RESULT(int32_t, sf_session_open, 3, (w, h, i))                                    \
  VOID(sf_session_close, 1, (h))                                                    \
  RESULT(int32_t, sf_session_eval, 7, (h, p, i, i, i, w, i))                        \
  RESULT(int32_t, sf_session_position, 1, (h))                                      \
  RESULT(int32_t, sf_session_truncate, 2, (h, i))                                   \
  RESULT(int32_t, sf_session_earliest, 1, (h))                                      \
  RESULT(size_t, sf_session_saved_bytes, 1, (h))                                    \
  RESULT(int32_t, sf_session_save, 3, (h, w, s))                                    \
  RESULT(int32_t, sf_session_restore, 6, (h, p, s, i, i, i))                        \
  RESULT(int32_t, sf_session_counts, 3, (h, w, w))                                  \
  RESULT(int32_t, sf_session_set_head, 4, (h, i, p, i))                             \
  RESULT(int32_t, sf_session_head_counts, 3, (h, w, w))                             \
  RESULT(int32_t, sf_session_input_counts, 3, (h, w, w))                            \
  RESULT(int32_t, sf_session_tap, 4, (h, i, w, s))                                  \
  RESULT(int32_t, sf_session_activity, 3, (h, w, s))

#define OPEN_WRAPPER(name, count, kinds)                                                \
  static PyObject *py_##name(PyObject *self, PyObject *const *args, Py_ssize_t given) { \
    call_frame frame;                                                                   \
    const argument *v = frame.values;                                                   \
    (void)self;                                                                         \
    (void)v;                                                                            \
    if (!open_frame(&frame, #name, KINDS_##count kinds, args, given)) return NULL;      \
    PyThreadState *thread = PyEval_SaveThread();

#define CLOSE_WRAPPER(object)   \
  PyEval_RestoreThread(thread); \
  close_frame(&frame);          \
  return object;                \
  }

#define DEFINE_RESULT(type, name, count, kinds) \
  OPEN_WRAPPER(name, count, kinds)              \
  type result = name(VALUES_##count kinds);     \
  CLOSE_WRAPPER(from_##type(result))

#define DEFINE_VOID(name, count, kinds) \
  OPEN_WRAPPER(name, count, kinds)      \
  name(VALUES_##count kinds);           \
  CLOSE_WRAPPER(PyLong_FromLong(0))

FUNCTIONS(DEFINE_RESULT, DEFINE_VOID)

#define ENTRY(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL},
#define ENTRY_RESULT(type, name, count, kinds) ENTRY(name)
#define ENTRY_VOID(name, count, kinds) ENTRY(name)

static PyMethodDef methods[] = {FUNCTIONS(ENTRY_RESULT, ENTRY_VOID){NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT,
                                    "sparsefire._native",
                                    "The functions of sparsefire.h, one to one, with the GIL released.",
                                    0,
                                    methods,
                                    slots,
                                    NULL,
                                    NULL,
                                    NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module); }
