/* The head: logits from the output matrix. Without a screen, all rows are multiplied. With one (a low-rank predictor of
 * the logits), its scores stand for them, and the rows of the best scores are multiplied, as in SVD-softmax (Shim et
 * al. 2017), or, with a bounded copy of the matrix, those that may have the largest logit. Tokens are screened each for
 * itself, so the rows of one do not depend on the others. */
#include <math.h>

#include "base/memory.h"
#include "ffn/predictor.h"
#include "matrix/select.h"
#include "model/session.h"

/* ---- head: in, matrix, bias or -1, screen or -1, rows, out ---- */

static int32_t check_head(const sf_model *model, const sf_step *step) {
  const sf_matrix *matrix = sf_matrix_of(model, step, 1);
  const sf_vector *bias = sf_vector_of(model, step, 2);
  const sf_predictor *screen = step->arguments[3] < 0 ? NULL : model->screens[step->arguments[3]];
  if (!model->picked || step->arguments[0] == step->arguments[5]) return SF_ERROR_ARGUMENT;
  if (matrix->columns != sf_width(model, step, 0) || matrix->rows != sf_width(model, step, 5)) return SF_ERROR_SHAPE;
  if (matrix->rows != model->vocab || (bias && bias->count != matrix->rows)) return SF_ERROR_SHAPE;
  if (!screen) return SF_OK;
  if (screen->d != matrix->columns || screen->hidden != matrix->rows) return SF_ERROR_SHAPE;
  return step->arguments[4] >= 1 && step->arguments[4] <= matrix->rows ? SF_OK : SF_ERROR_ARGUMENT;
}

/* Tokens first … first + n - 1 of the batch, and what they are multiplied with. */
typedef struct {
  sf_model *model;
  const sf_matrix *matrix;
  const sf_vector *bias;
  sf_predictor *screen; /* or NULL */
  int32_t rows;         /* that the screen chooses */
  int32_t first, n;
  const float *x; /* (n, columns) */
  float *out;     /* (n, vocab) */
} pass;

static sf_session *session_of(const pass *p, int32_t j) {
  return p->model->batch.sessions[p->model->batch.origins[p->first + j]];
}

static void count_rows(const pass *p, int32_t j, int32_t rows) {
  sf_session *session = session_of(p, j);
  sf_add_count(&session->counts[0][p->model->n_layers], 1);
  sf_add_count(&session->counts[1][p->model->n_layers], rows);
}

static int32_t run_dense(const pass *p) {
  sf_context *context = p->model->context;
  float *out = p->out;
  int32_t status = sf_prepare_multiply(context, p->model->batch.phase, p->matrix, p->x, p->n, out);
  for (int32_t j = 0; j < p->n && status == SF_OK; j++, out += p->matrix->rows) {
    if (p->bias) context->kernels->add(out, p->bias->values, p->matrix->rows, out);
    count_rows(p, j, p->matrix->rows);
  }
  return status;
}

/* The chosen ids (count) and those of `more` (n_more), both ascending, in ids: how many these are. */
static int32_t join(int32_t *ids, int32_t count, const int32_t *more, int32_t n_more) {
  int32_t twice = 0;
  for (int32_t i = 0, k = 0; i < count && k < n_more;) {
    twice += ids[i] == more[k];
    if (ids[i] < more[k]) {
      i++;
    } else {
      k++;
    }
  }
  int32_t both = count + n_more - twice;
  /* From the end: what is moved lies behind what is still to be read. */
  for (int32_t i = count - 1, k = n_more - 1, to = both - 1; k >= 0; to--) {
    if (i >= 0 && ids[i] >= more[k]) {
      k -= ids[i] == more[k];
      ids[to] = ids[i--];
    } else {
      ids[to] = more[k--];
    }
  }
  return both;
}

/* Makes room for the ids and values of one token's rows. */
static int32_t reserve(sf_model *model) {
  size_t most = (size_t)model->vocab;
  int32_t status = sf_grow((void **)&model->work, &model->work_capacity, most, sizeof(float));
  if (status != SF_OK) return status;
  return sf_grow((void **)&model->rows, &model->rows_capacity, most, sizeof(int32_t));
}

/* The rows whose logit may be the largest, in ids: how many these are. out (vocab): scores; errors (vocab): how far
 * they may be from the logits. What is not a number proves nothing. */
static int32_t take_provable(const float *out, const float *errors, int32_t vocab, int32_t *ids) {
  const float rounding = 1e-6f; /* of the sums below, relative */
  float least = -INFINITY;
  int32_t count = 0;
  for (int32_t i = 0; i < vocab; i++) {
    float low = out[i] - errors[i] - rounding * fabsf(out[i]);
    if (low > least) least = low;
  }
  for (int32_t i = 0; i < vocab; i++) {
    ids[count] = i;
    count += !(out[i] + errors[i] + rounding * fabsf(out[i]) < least);
  }
  return count;
}

/* Chooses rows of one token's x (columns) by its scores in out (vocab): ids into model->rows, and their number or an
 * error. */
static int32_t choose_rows(const pass *p, const float *x, float *out) {
  sf_model *model = p->model;
  const sf_kernels *kernels = model->context->kernels;
  if (!p->screen->kind->bound) return sf_top_k(kernels, out, model->vocab, p->rows, model->rows);
  if (p->bias) kernels->add(out, p->bias->values, model->vocab, out);
  int32_t status = p->screen->kind->bound(p->screen, x, model->work);
  return status == SF_OK ? take_provable(out, model->work, model->vocab, model->rows) : status;
}

/* Puts exact logits in the place of the chosen scores of token j, and of those that its session names. */
static int32_t compute_rows(const pass *p, int32_t j) {
  sf_model *model = p->model;
  sf_context *context = model->context;
  const sf_session *session = session_of(p, j);
  const float *x = p->x + (size_t)j * (size_t)p->matrix->columns;
  float *out = p->out + (size_t)j * (size_t)model->vocab;
  int32_t count = choose_rows(p, x, out);
  if (count < 0) return count;
  float *values = model->work;
  int32_t *ids = model->rows;
  count = join(ids, count, session->exact, session->n_exact);
  sf_inputs input;
  int32_t status = sf_prepare(context, model->batch.phase, &p->matrix->format, 1, x, 1, p->matrix->columns, &input);
  if (status != SF_OK) return status;
  sf_multiply(context, p->matrix, ids, count, &input, 1, values, (size_t)count);
  for (int32_t i = 0; i < count; i++) out[ids[i]] = values[i] + (p->bias ? p->bias->values[ids[i]] : 0.0f);
  count_rows(p, j, count);
  return SF_OK;
}

static int32_t run_screened(const pass *p) {
  int32_t status = p->screen->kind->score(p->screen, p->x, p->n, 0, p->out, (size_t)p->model->vocab);
  if (status == SF_OK) status = reserve(p->model);
  for (int32_t j = 0; j < p->n && status == SF_OK; j++) status = compute_rows(p, j);
  return status;
}

static int32_t is_screened(const sf_model *model, int32_t j) {
  return model->batch.sessions[model->batch.origins[j]]->head == SF_HEAD_SCREENED;
}

/* Neighbours in the batch with the same kind of head are multiplied together. */
static int32_t run_head(sf_model *model, const sf_step *step) {
  int32_t n = model->batch.n, screen = step->arguments[3], status = SF_OK;
  size_t columns = (size_t)sf_width(model, step, 0), vocab = (size_t)model->vocab;
  for (int32_t first = 0, end; first < n && status == SF_OK; first = end) {
    for (end = first + 1; end < n && is_screened(model, end) == is_screened(model, first);) end++;
    pass p = {model,
              sf_matrix_of(model, step, 1),
              sf_vector_of(model, step, 2),
              NULL,
              step->arguments[4],
              first,
              end - first,
              sf_values(model, step, 0) + (size_t)first * columns,
              sf_values(model, step, 5) + (size_t)first * vocab};
    if (screen >= 0 && is_screened(model, first)) p.screen = model->screens[screen];
    status = p.screen ? run_screened(&p) : run_dense(&p);
  }
  return status;
}

const sf_step_kind sf_step_head = {"imVPno", 0, 0, check_head, run_head, NULL};
