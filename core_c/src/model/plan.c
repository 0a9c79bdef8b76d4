/* Making a plan: what is added to a model, and the checks of each step. */
#include "model/plan.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ffn/predictor.h"

enum { GROWTH = 16 }; /* entries by which lists grow */

/* Makes room for one more entry in a list of `count`. Contents are kept. */
static int32_t extend(void **list, int32_t count, size_t size) {
  if (count == SF_MAX_NEURONS) return SF_ERROR_ARGUMENT;
  if (count % GROWTH != 0) return SF_OK;
  uint8_t *longer = sf_array((size_t)count + GROWTH, size);
  if (!longer) return SF_ERROR_MEMORY;
  if (count > 0) memcpy(longer, *list, (size_t)count * size);
  sf_free(*list);
  *list = longer;
  return SF_OK;
}

int32_t sf_model_open(sf_model **out, sf_context *context, int32_t vocab, int32_t d) {
  if (!out) return SF_ERROR_ARGUMENT;
  *out = NULL;
  if (!context || vocab < 1 || d < 1 || vocab > SF_MAX_NEURONS || d > SF_MAX_NEURONS) return SF_ERROR_ARGUMENT;
  sf_model *model = sf_array(1, sizeof(sf_model));
  if (!model) return SF_ERROR_MEMORY;
  model->context = context;
  model->vocab = vocab;
  model->types = 1;
  model->d = d;
  sf_kv_formats_find(SF_F16, SF_F16, model->kv_formats);
  int32_t status = sf_model_add_buffer(model, vocab);
  if (status < 0) {
    sf_model_close(model);
    return status;
  }
  *out = model;
  return SF_OK;
}

void sf_model_close(sf_model *model) {
  if (!model) return;
  model->closed = 1;
  if (model->sessions > 0) return; /* the last of them closes it */
  for (int32_t i = 0; i < model->n_buffers; i++) {
    if (i != SF_LOGITS) sf_free(model->buffers[i].values);
  }
  for (int32_t i = 0; i < model->n_vectors; i++) sf_free(model->vectors[i].values);
  for (int32_t i = 0; i < model->n_ropes; i++) {
    sf_free(model->ropes[i].frequencies);
    sf_free(model->ropes[i].cos_sin);
  }
  sf_free(model->buffers);
  sf_free((void *)model->matrices);
  sf_free(model->vectors);
  sf_free(model->ropes);
  sf_free(model->layers);
  sf_free(model->screens);
  sf_free(model->steps);
  sf_free(model->scores);
  sf_free(model->work);
  sf_free(model->kept);
  sf_free(model->rows);
  sf_cached_close(&model->cached);
  sf_free(model);
}

static int32_t changeable(const sf_model *model) { return model && model->sessions == 0; }

int32_t sf_kv_formats_find(int32_t k_format, int32_t v_format, const sf_format **formats) {
  const int32_t numbers[2] = {k_format, v_format};
  for (int32_t i = 0; i < 2; i++) {
    if (numbers[i] != SF_F32 && numbers[i] != SF_F16 && numbers[i] != SF_Q8_0) return 0;
  }
  for (int32_t i = 0; i < 2; i++) formats[i] = sf_format_find(numbers[i]);
  return 1;
}

int32_t sf_model_set_kv_formats(sf_model *model, int32_t k_format, int32_t v_format) {
  if (!changeable(model)) return SF_ERROR_ARGUMENT;
  return sf_kv_formats_find(k_format, v_format, model->kv_formats) ? SF_OK : SF_ERROR_FORMAT;
}

int32_t sf_model_add_buffer(sf_model *model, int32_t width) {
  if (!changeable(model) || width < 1 || width > SF_MAX_NEURONS) return SF_ERROR_ARGUMENT;
  int32_t status = extend((void **)&model->buffers, model->n_buffers, sizeof(sf_buffer));
  if (status != SF_OK) return status;
  sf_buffer buffer = {width, 0, 0, NULL};
  if (model->n_buffers != SF_LOGITS) {
    buffer.values = sf_array(sf_size_product(SF_BATCH, (size_t)width), sizeof(float));
    if (!buffer.values) return SF_ERROR_MEMORY;
  }
  model->buffers[model->n_buffers] = buffer;
  return model->n_buffers++;
}

int32_t sf_model_add_matrix(sf_model *model, const sf_matrix *matrix) {
  if (!changeable(model) || !matrix) return SF_ERROR_ARGUMENT;
  if (matrix->rows > SF_MAX_NEURONS || matrix->columns > SF_MAX_NEURONS) return SF_ERROR_SHAPE;
  int32_t status = extend((void **)&model->matrices, model->n_matrices, sizeof(sf_matrix *));
  if (status != SF_OK) return status;
  model->matrices[model->n_matrices] = matrix;
  return model->n_matrices++;
}

int32_t sf_model_add_vector(sf_model *model, const float *values, int32_t count) {
  if (!changeable(model) || !values || count < 1 || count > SF_MAX_NEURONS) return SF_ERROR_ARGUMENT;
  int32_t status = extend((void **)&model->vectors, model->n_vectors, sizeof(sf_vector));
  if (status != SF_OK) return status;
  sf_vector vector = {count, NULL};
  status = sf_copy_floats(&vector.values, values, count);
  if (status != SF_OK) return status;
  model->vectors[model->n_vectors] = vector;
  return model->n_vectors++;
}

int32_t sf_model_add_rope(sf_model *model, int32_t dims, float base, const float *factors, float amplitude) {
  if (!changeable(model) || dims < 2 || dims % 2 != 0 || dims > SF_MAX_NEURONS) return SF_ERROR_ARGUMENT;
  if (!(base >= 1e-6f && base <= 1e18f) || !(amplitude >= 1e-6f && amplitude <= 1e6f)) return SF_ERROR_ARGUMENT;
  for (int32_t i = 0; factors && i < dims / 2; i++) {
    if (factors[i] == 0) return SF_ERROR_ARGUMENT; /* frequencies are divided by them */
    if (!isfinite(factors[i])) return SF_ERROR_NOT_FINITE;
  }
  int32_t status = extend((void **)&model->ropes, model->n_ropes, sizeof(sf_rope));
  if (status != SF_OK) return status;
  size_t pairs = (size_t)dims / 2;
  sf_rope rope = {dims / 2, amplitude, sf_array(pairs, sizeof(double)), NULL};
  rope.cos_sin = sf_array(sf_size_product(SF_BATCH * 2, pairs), sizeof(float));
  if (!rope.frequencies || !rope.cos_sin) {
    sf_free(rope.frequencies);
    sf_free(rope.cos_sin);
    return SF_ERROR_MEMORY;
  }
  for (int32_t i = 0; i < rope.pairs; i++) {
    rope.frequencies[i] = pow((double)base, -2.0 * i / dims) / (factors ? (double)factors[i] : 1.0);
  }
  model->ropes[model->n_ropes] = rope;
  return model->n_ropes++;
}

/* 1 when both are the layer of the model that may stand at a place. */
static int32_t fits_model(const sf_model *model, const sf_layer *layer) {
  return layer->ffn ? layer->ffn->context == model->context : layer->experts->context == model->context;
}

static int32_t add_layer(sf_model *model, sf_layer layer) {
  if (!fits_model(model, &layer)) return SF_ERROR_ARGUMENT;
  int32_t status = extend((void **)&model->layers, model->n_layers, sizeof(sf_layer));
  if (status != SF_OK) return status;
  model->layers[model->n_layers] = layer;
  return model->n_layers++;
}

int32_t sf_model_add_ffn(sf_model *model, sf_ffn *ffn) {
  const sf_layer layer = {ffn, NULL};
  return changeable(model) && ffn ? add_layer(model, layer) : SF_ERROR_ARGUMENT;
}

int32_t sf_model_add_experts(sf_model *model, sf_experts *experts) {
  const sf_layer layer = {NULL, experts};
  return changeable(model) && experts ? add_layer(model, layer) : SF_ERROR_ARGUMENT;
}

int32_t sf_model_set_ffn(sf_model *model, int32_t layer, sf_ffn *ffn) {
  if (!model || !ffn || layer < 0 || layer >= model->n_layers) return SF_ERROR_ARGUMENT;
  const sf_layer with = {ffn, NULL};
  const sf_ffn *old = model->layers[layer].ffn;
  if (!old || !fits_model(model, &with)) return SF_ERROR_ARGUMENT;
  if (ffn->d_in != old->d_in || ffn->d_out != old->d_out || ffn->hidden != old->hidden) return SF_ERROR_SHAPE;
  model->layers[layer] = with;
  return SF_OK;
}

int32_t sf_model_add_screen(sf_model *model, sf_predictor *screen) {
  if (!changeable(model) || !screen || screen->context != model->context) return SF_ERROR_ARGUMENT;
  int32_t status = extend((void **)&model->screens, model->n_screens, sizeof(sf_predictor *));
  if (status != SF_OK) return status;
  model->screens[model->n_screens] = screen;
  return model->n_screens++;
}

/* ---- Steps ---- */

/* 1 when an argument names what its character stands for. */
static int32_t argument_valid(const sf_model *model, char what, int32_t value) {
  switch (what) {
    case 'i':
    case 'x':
      return value >= 0 && value < model->n_buffers && model->buffers[value].written;
    case 'I':
      return value == -1 || argument_valid(model, 'i', value);
    case 'o':
      return value >= 0 && value < model->n_buffers && (value != SF_LOGITS || model->picked);
    case 'm':
      return value >= 0 && value < model->n_matrices;
    case 'v':
      return value >= 0 && value < model->n_vectors;
    case 'V':
      return value >= -1 && value < model->n_vectors;
    case 'r':
      return value >= 0 && value < model->n_ropes;
    case 'l':
      return value >= 0 && value < model->n_layers && model->layers[value].ffn;
    case 'e':
      return value >= 0 && value < model->n_layers && model->layers[value].experts;
    case 'P':
      return value >= -1 && value < model->n_screens;
    case 's':
      return value >= 0 && value < model->n_steps;
    case 'S':
      return value >= -1 && value < model->n_steps;
    case 'c':
      return value >= 1 && value <= SF_MAX_NEURONS;
    default: /* 'n' */
      return value >= 0;
  }
}

/* The character of argument i; the part after '*' comes again and again. */
static char argument_kind(const char *arguments, int32_t i) {
  const char *repeated = strchr(arguments, '*');
  int32_t once = repeated ? (int32_t)(repeated - arguments) : (int32_t)strlen(arguments);
  if (i < once) return arguments[i];
  return repeated ? repeated[1 + (i - once) % (int32_t)strlen(repeated + 1)] : '\0';
}

int32_t sf_model_writer(const sf_model *model, int32_t buffer) {
  for (int32_t i = model->n_steps - 1; i >= 0; i--) {
    const sf_step *step = &model->steps[i];
    for (int32_t k = 0; k < step->count; k++) {
      char what = argument_kind(step->kind->arguments, k);
      if ((what == 'o' || what == 'x') && step->arguments[k] == buffer) return i;
    }
  }
  return -1;
}

int32_t sf_model_live(const sf_model *model, int32_t buffer, int32_t place) {
  for (int32_t i = place; i < model->n_steps; i++) {
    const sf_step *step = &model->steps[i];
    int32_t written = 0;
    for (int32_t k = 0; k < step->count; k++) {
      char what = argument_kind(step->kind->arguments, k);
      if (step->arguments[k] != buffer) continue;
      if (what == 'i' || what == 'x' || (what == 'I' && i > place)) return 1;
      written |= what == 'o';
    }
    if (written) return step->kind == sf_step_find(SF_STEP_COPY); /* which may write a part of it */
  }
  return 0;
}

static int32_t count_valid(const char *arguments, int32_t count) {
  const char *repeated = strchr(arguments, '*');
  int32_t length = (int32_t)strlen(arguments);
  if (!repeated) return count == length;
  int32_t once = (int32_t)(repeated - arguments), group = length - once - 1;
  return count > once && count <= SF_STEP_ARGUMENTS && (count - once) % group == 0;
}

int32_t sf_model_add_step(sf_model *model, int32_t kind, const int32_t *arguments, int32_t count, const float *numbers,
                          int32_t numbers_count) {
  const sf_step_kind *found = sf_step_find(kind);
  if (!changeable(model) || !found || !arguments || (!numbers && numbers_count > 0)) return SF_ERROR_ARGUMENT;
  if (model->picked && found->whole) return SF_ERROR_ARGUMENT;
  if (!count_valid(found->arguments, count) || numbers_count != found->numbers) return SF_ERROR_ARGUMENT;
  sf_step step = {.kind = found, .index = model->n_steps, .count = count};
  for (int32_t i = 0; i < count; i++) {
    if (!argument_valid(model, argument_kind(found->arguments, i), arguments[i])) return SF_ERROR_ARGUMENT;
    step.arguments[i] = arguments[i];
  }
  for (int32_t i = 0; i < numbers_count; i++) {
    if (!isfinite(numbers[i])) return SF_ERROR_ARGUMENT;
    step.numbers[i] = numbers[i];
  }
  int32_t status = found->check(model, &step);
  if (status == SF_OK) status = extend((void **)&model->steps, model->n_steps, sizeof(sf_step));
  if (status != SF_OK) return status;
  for (int32_t i = 0; i < count; i++) {
    if (argument_kind(found->arguments, i) == 'o') model->buffers[arguments[i]].written = 1;
  }
  if (kind == SF_STEP_PICK) model->picked = 1;
  if (kind == SF_STEP_TAP && step.arguments[1] == SF_TAP_HIDDEN) model->tapped = 1;
  if (kind == SF_STEP_TYPE) model->types = sf_matrix_of(model, &step, 1)->rows;
  model->passes += sf_sees_both_sides(&step);
  model->steps[model->n_steps] = step;
  return model->n_steps++;
}
