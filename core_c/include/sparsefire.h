/* sparsefire: activation-sparse neural inference. The public interface of the C core; functions that only a
 * WebAssembly host with threads calls are in sparsefire_pool.h.
 *
 * Rules that hold for every function below
 * - Only 32-bit integers, floats, sizes and pointers cross this interface.
 * - A function that can fail returns int32_t: SF_OK (0), or a negative SF_ERROR_* that sf_status_text() explains.
 *   Functions that return a count say so; a negative count is an SF_ERROR_*.
 * - After an error, outputs are unspecified but nothing is leaked and every handle stays usable.
 * - sf_x_open(&out, …) makes a handle that the caller owns and closes with sf_x_close(handle); closing NULL is
 *   allowed. "Borrows" means that the memory or handle must outlive the borrower; "copies" means it need not.
 * - Arrays are row-major and contiguous; shapes stand in comments as (rows, columns). `n` is a number of vectors.
 * - The core never prints, exits, reads the environment or opens files. Every size is checked before use.
 * - Calls on one context, and on what was opened with it, may come from several threads: a lock in the context
 *   serialises them. Handles are opened, changed and closed by one thread at a time.
 * - Results do not depend on the number of threads, bit for bit.
 * - Values of an enumeration are passed and stored as int32_t, whose size every compiler and host agrees on. A comment
 *   names the enumeration. Published values keep their meaning.
 * - Functions take flat lists of scalars, even long ones, and no structs, so that hosts of a WebAssembly module and
 *   bindings to other languages need no copy of a C layout.
 */
#ifndef SPARSEFIRE_H
#define SPARSEFIRE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__EMSCRIPTEN__) || defined(__wasm__)
#define SF_API __attribute__((visibility("default"), used))
#elif defined(SF_SHARED) && defined(_WIN32)
#define SF_API __declspec(dllexport)
#elif defined(SF_SHARED) && defined(__GNUC__)
#define SF_API __attribute__((visibility("default")))
#else
#define SF_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status ------------------------------------------------------------------------------------------------ */

/* What functions return. sf_session_eval, sf_model_eval and sf_model_resume return SF_WAITING besides, which is no
 * error. */
enum sf_status {
  SF_OK = 0,
  SF_ERROR_ARGUMENT = -1,     /* a NULL, negative or otherwise meaningless argument */
  SF_ERROR_SHAPE = -2,        /* shapes that do not fit each other, or a buffer too small for its shape */
  SF_ERROR_FORMAT = -3,       /* unknown weight format, or columns not a multiple of the format's block */
  SF_ERROR_MEMORY = -4,       /* out of memory */
  SF_ERROR_UNSUPPORTED = -5,  /* this machine, or this layout, cannot do what was asked */
  SF_ERROR_NOT_FINITE = -6,   /* NaN or infinity in an input or in a result */
  SF_ERROR_INCOMPLETE = -7,   /* a model lacks a tensor */
  SF_ERROR_CONTEXT_FULL = -8, /* more tokens than the session's context holds */
  SF_ERROR_NOT_RESIDENT = -9  /* a neuron is not in the cache */
};

/* English text of an sf_status or of SF_WAITING, never NULL. Static storage. */
SF_API const char *sf_status_text(int32_t status);

/* The version of the core and of the Python package, which reads it here. */
#define SF_VERSION "0.1.0"
/* SF_VERSION. Static storage. */
SF_API const char *sf_version(void);

/* ---- Limits ------------------------------------------------------------------------------------------------ */

enum sf_limit {
  SF_BATCH = 128, /* vectors or tokens that pass through a layer together; longer inputs are split into such batches */
  SF_MAX_THREADS = 256,     /* most threads of a context */
  SF_MAX_NEURONS = 1 << 23, /* most neurons of a layer, or elements of a vector; SF_BATCH times that fits in 32 bits */
  SF_BACK = 1024            /* positions that a session with windows can go back, see sf_session_earliest */
};

/* ---- Memory (for hosts whose memory is not the caller's, such as wasm) ------------------------------------- */

/* `bytes` of memory aligned to 64 bytes, or NULL. The caller frees it with sf_free. */
SF_API void *sf_alloc(size_t bytes);
SF_API void sf_free(void *memory);

/* ---- Context: instruction set and threads ------------------------------------------------------------------ */

typedef struct sf_context sf_context;

/* Number of instruction sets compiled in, best first; the last one works wherever this build runs: "scalar", or in
 * WebAssembly "wasm128". */
SF_API int32_t sf_isa_count(void);
/* Name of instruction set `isa` ("amx", "avx512_vnni", "avx512", "avx2_vnni", "avx2", "sse41", "neon_i8mm", "neon_dot",
 * "neon", "wasm128", "scalar"), or NULL. Static. */
SF_API const char *sf_isa_name(int32_t isa);
/* 1 when this machine can run instruction set `isa`, else 0. For "amx" this asks Linux for tiles, which may refuse. */
SF_API int32_t sf_isa_supported(int32_t isa);

/* Opens a context. `isa`: an index below sf_isa_count(), or -1 for the best supported one. `threads`: 1 or more,
 * the calling thread included; builds without threads accept any number and use 1. Errors: ARGUMENT, UNSUPPORTED (isa),
 * MEMORY. */
SF_API int32_t sf_context_open(sf_context **out, int32_t isa, int32_t threads);
SF_API void sf_context_close(sf_context *context);
SF_API int32_t sf_context_isa(const sf_context *context);
SF_API int32_t sf_context_threads(const sf_context *context);

/* Cost model by which passes that skip neurons choose a code path. The choice depends only on neuron counts and never
 * changes a bit of a result. For weights in `format`: `scattered` is the time per row when rows are listed, divided by
 * the time per row when all are read in order; `batched` the time per product of a row and a vector when a row is
 * multiplied by several vectors, divided by the time with one vector. The defaults were measured.
 * Errors: ARGUMENT (not above 0, or not finite), FORMAT. */
SF_API int32_t sf_context_set_costs(sf_context *context, int32_t format, float scattered, float batched);

/* Cost model by which products that may leave out inputs choose between columns (see sf_matrix_add_columns) and rows:
 * with `count` of the inputs, columns take chosen · (fixed · inputs + count) / inputs of the time of rows, and so much
 * more for choosing inputs as 160 rows do. The choice
 * depends only on that count. The defaults were measured. Errors: ARGUMENT (not above 0, fixed below 0, not finite). */
SF_API int32_t sf_context_set_column_cost(sf_context *context, float chosen, float fixed);

/* ---- What the machine can do at most ------------------------------------------------------------------------ */

enum sf_peak {
  SF_PEAK_FLOATS = 0, /* multiply-adds of floats */
  SF_PEAK_INTEGERS =
      1,            /* those of integers, summed by twos or more: of bytes, or where those are not used of 16 bits */
  SF_PEAK_TILES = 2 /* products of tiles, of bfloat16 */
};
/* Multiplications and additions of one thread in a repeat of sf_peak_run; 0 where the instruction set has none of
 * these. Errors: ARGUMENT. */
SF_API int32_t sf_peak_operations(const sf_context *context, int32_t kind);
/* `repeats` of them in each thread of the context, in registers alone, for a caller who measures the time. *out says
 * nothing, but depends on the work. Errors: ARGUMENT, UNSUPPORTED (the instruction set has none of these). */
SF_API int32_t sf_peak_run(sf_context *context, int32_t kind, int32_t repeats, float *out);
/* Reads `count` floats at x, but for some of the last, each thread a part of its own. Errors: ARGUMENT. */
SF_API int32_t sf_peak_read(sf_context *context, const float *x, size_t count, float *out);

/* ---- Weight formats ---------------------------------------------------------------------------------------- */

/* Values are GGUF's tensor type numbers, and layouts are GGUF's. */
enum sf_weight_format {
  SF_F32 = 0,
  SF_F16 = 1,
  SF_Q4_0 = 2, /* blocks of 32 weights, from here on */
  SF_Q4_1 = 3,
  SF_Q5_0 = 6,
  SF_Q5_1 = 7,
  SF_Q8_0 = 8,
  SF_Q2_K = 10, /* blocks of 256 weights */
  SF_Q3_K = 11,
  SF_Q4_K = 12,
  SF_Q5_K = 13,
  SF_Q6_K = 14,
  SF_IQ2_XXS = 16, /* the formats of points are only read */
  SF_IQ2_XS = 17,
  SF_IQ3_XXS = 18,
  SF_IQ1_S = 19,
  SF_IQ4_NL = 20, /* blocks of 32 */
  SF_IQ3_S = 21,  /* blocks of 256 */
  SF_IQ2_S = 22,
  SF_IQ4_XS = 23,
  SF_IQ1_M = 29,
  SF_BF16 = 30,  /* no blocks */
  SF_TQ1_0 = 34, /* blocks of 256, of weights that are -1, 0 and 1 times a scale */
  SF_TQ2_0 = 35,
  SF_MXFP4 = 39, /* blocks of 32 */
  SF_NVFP4 = 40  /* blocks of 64; only read */
};

/* Bytes of one packed row of `columns` weights in `format`, an sf_weight_format here and below, or 0 when the format is
 * unknown, columns < 1, or columns is not a multiple of the format's block. */
SF_API size_t sf_format_row_bytes(int32_t format, int32_t columns);

/* Quantises `rows` × `columns` floats into packed rows: rounding as GGUF's reference implementation does, and to
 * formats with blocks of 256 and IQ4_NL by a search for the least squared error. Results for NaN and infinity are
 * unspecified. Errors: FORMAT (also one that is only read), SHAPE (dst_bytes too small), ARGUMENT. */
SF_API int32_t sf_quantize(int32_t format, const float *src, int32_t rows, int32_t columns, void *dst,
                           size_t dst_bytes);
/* The reverse: packed rows to floats (rows, columns). Errors: FORMAT, SHAPE (src_bytes too small), ARGUMENT. */
SF_API int32_t sf_dequantize(int32_t format, const void *src, size_t src_bytes, int32_t rows, int32_t columns,
                             float *dst);

/* ---- Matrix: a checked view of weights --------------------------------------------------------------------- */

typedef struct sf_matrix sf_matrix;

/* Opens a view of (rows, columns) weights, row i at data + i * row_stride. `row_stride` 0 means packed. Borrows
 * `data`, of which `bytes` bytes are readable. `data` needs no alignment.
 * Errors: ARGUMENT, FORMAT, SHAPE (rows do not fit in bytes), MEMORY. */
SF_API int32_t sf_matrix_open(sf_matrix **out, const void *data, size_t bytes, int32_t format, int32_t rows,
                              int32_t columns, size_t row_stride);
SF_API void sf_matrix_close(sf_matrix *matrix);
/* Multiplies all weights by a finite number, which is 1 at first; set it before the matrix is used by anything else.
 * Errors: ARGUMENT. */
SF_API int32_t sf_matrix_set_scale(sf_matrix *matrix, float scale);

/* y (n, rows) = x (n, columns) · matrixᵀ. Errors: ARGUMENT, MEMORY, NOT_FINITE (x). */
SF_API int32_t sf_matrix_multiply(sf_context *context, const sf_matrix *matrix, const float *x, int32_t n, float *y);

/* Makes a copy of the weights in column order beside them, with which products read only the columns of the inputs that
 * are not left out; sf_matrix_close frees it. Before the matrix is used by anything else, as setting the scale.
 * Errors: ARGUMENT, UNSUPPORTED (not in Q4_0, the one format with such an order, and in WebAssembly), MEMORY. */
SF_API int32_t sf_matrix_add_columns(sf_matrix *matrix);
/* Bytes of that copy: those of the weights, of a number of rows that is a multiple of 128. 0 where there is none. */
SF_API size_t sf_matrix_column_bytes(const sf_matrix *matrix);
/* y (rows) = matrix · x (columns) by columns, without the inputs of a magnitude below `limit`. The others are rounded
 * to 8 bits, with a scale for each 32. Returns how many were multiplied. Errors: ARGUMENT, UNSUPPORTED (no columns),
 * NOT_FINITE (x), MEMORY. */
SF_API int32_t sf_matrix_multiply_above(sf_context *context, const sf_matrix *matrix, const float *x, float limit,
                                        float *y);

/* ---- Single operations ------------------------------------------------------------------------------------- */

enum sf_activation {
  SF_IDENTITY = 0,
  SF_RELU = 1,         /* max(v, 0) */
  SF_RELU2 = 2,        /* max(v, 0)² */
  SF_SILU = 3,         /* v · sigmoid(v) */
  SF_GELU_TANH = 4,    /* v/2 · (1 + tanh(√(2/π)(v + 0.044715 v³))) */
  SF_GELU_ERF = 5,     /* v/2 · (1 + erf(v/√2)) */
  SF_FATRELU = 6,      /* v if v > parameter, else 0 (ProSparse) */
  SF_SILU_CLAMPED = 7, /* c · sigmoid(1.702 c), c = min(v, 7). Of a gate (gpt-oss): up goes through SF_CLAMPED */
  SF_CLAMPED = 8,      /* min(max(v, -7), 7) + 1. Not of layers by itself */
  SF_SILU_LIMITED = 9, /* SiLU of min(v, parameter). Of a gate: up goes through SF_LIMITED */
  SF_SILU_CAPPED = 10, /* min(SiLU of v, parameter). Of a gate: up goes through SF_LIMITED */
  SF_LIMITED = 11,     /* min(max(v, -parameter), parameter). Not of layers by itself */
  SF_SITU = 12,  /* parameter · tanh(v / parameter) · sigmoid(v). Of a gate (Kimi K3): up goes through SF_CAPPED */
  SF_CAPPED = 13 /* parameter · tanh(v / parameter). Not of layers by itself */
};

/* y (count) = activation(x (count)), by an sf_activation; y may be x. `parameter`: FATReLU's threshold or a limit, ≥ 0,
 * of SF_SITU and SF_CAPPED > 0, else ignored. For every finite v the absolute error is at most 2e-6 · max(1, |v|), of
 * ReLU² 1e-7 of the result. Errors: ARGUMENT, NOT_FINITE. */
SF_API int32_t sf_activate(sf_context *context, int32_t activation, float parameter, const float *x, int32_t count,
                           float *y);
/* y (n, d) = x / √(mean(x²) + epsilon) · weight (d). y may be x. Errors: ARGUMENT, NOT_FINITE. */
SF_API int32_t sf_rms_norm(sf_context *context, const float *x, const float *weight, int32_t n, int32_t d,
                           float epsilon, float *y);
/* y (count) = softmax(x (count)); y may be x. Errors: ARGUMENT, NOT_FINITE. */
SF_API int32_t sf_softmax(sf_context *context, const float *x, int32_t count, float *y);

/* ---- Selection: scores to a sorted list of active neurons -------------------------------------------------- */

/* Each function writes ascending ids to `ids`, which has room for `count`, and returns their number or an error.
 * A NaN score is never selected. */

/* The k largest scores; ties go to the lower id. k ≥ count selects all but NaN; k ≤ 0 none.
 * Errors: ARGUMENT. */
SF_API int32_t sf_select_top_k(sf_context *context, const float *scores, int32_t count, int32_t k, int32_t *ids);
/* Every score > threshold; if these are fewer than `least` or more than `most`, the top `least` or `most`.
 * Errors: ARGUMENT (least > most, NaN threshold). */
SF_API int32_t sf_select_threshold(sf_context *context, const float *scores, int32_t count, float threshold,
                                   int32_t least, int32_t most, int32_t *ids);

/* ---- Predictor: which neurons will be active --------------------------------------------------------------- */

typedef struct sf_predictor sf_predictor;

enum sf_rule {
  SF_RULE_THRESHOLD = 0, /* score > threshold, between `least` and `most` of the cold neurons */
  SF_RULE_TOP_K = 1      /* the `most` best cold neurons */
};

/* Low-rank predictor: scores (hidden) = Q · f(P · x) + bias, with P (rank, d), Q (hidden, rank), f the identity, or
 * ReLU when `relu_between` is 1. Borrows P and Q. If they are in Q4_0 or Q8_0, it also keeps copies of them in panels,
 * in which short rows such as Q's are multiplied faster. Copies `bias` (hidden), NULL for zeros.
 * Starts with rule THRESHOLD, threshold 0, no hot prefix. Errors: ARGUMENT, SHAPE, MEMORY, NOT_FINITE (bias). */
SF_API int32_t sf_predictor_open(sf_predictor **out, sf_context *context, const sf_matrix *p, const sf_matrix *q,
                                 const float *bias, int32_t relu_between);
/* Sign-bit predictor, which needs no calibration: score = alpha · (products gate_ij · x_j ≥ 0) - (those < 0), counted
 * from the signs alone (SparseInfer; Shin et al. 2024). A larger alpha selects more. Keeps the packed signs of `gate`
 * (hidden, d), a 32nd of its size in F32; borrows nothing but the context. Rule and errors as above. */
SF_API int32_t sf_predictor_open_sign(sf_predictor **out, sf_context *context, const sf_matrix *gate, float alpha);
/* Copies the packed signs of a sign-bit predictor: signs (hidden, words), words = ⌈d/32⌉, where bit j % 32 of word j /
 * 32 of a row is 1 when weight j is negative. Errors: ARGUMENT (another kind of predictor), SHAPE (bytes too few). */
SF_API int32_t sf_predictor_signs(const sf_predictor *predictor, uint32_t *signs, size_t bytes);
/* Scores are products with a copy (hidden, d) of a matrix, in fewer bits than it has, and each is known to be near that
 * of the matrix: at most Σ_k bounds[i, k] · ‖x_k‖ from it, x_k the parts into which x is cut, d / parts elements each.
 * bounds (hidden, parts): in F32, F16 or BF16. As a screen of a model (sf_model_add_screen), it proves which rows may
 * have the largest logit. Borrows both. Rule and errors as above, and FORMAT (bounds). */
SF_API int32_t sf_predictor_open_bounded(sf_predictor **out, sf_context *context, const sf_matrix *copy,
                                         const sf_matrix *bounds);
SF_API void sf_predictor_close(sf_predictor *predictor);
/* Neurons 0 … hot-1 are always selected and not scored; `rule`, an sf_rule, applies to the others, and so do
 * `least` and `most` (most ≥ hidden means no limit). Errors: ARGUMENT. */
SF_API int32_t sf_predictor_set_rule(sf_predictor *predictor, int32_t rule, float threshold, int32_t least,
                                     int32_t most, int32_t hot);
/* scores (n, hidden) for x (n, d), hot ones included. Errors: ARGUMENT, NOT_FINITE (x). */
SF_API int32_t sf_predictor_scores(sf_predictor *predictor, const float *x, int32_t n, float *scores);
/* Selected neurons of one x (d), ascending, into ids (hidden). Returns how many. Errors: ARGUMENT, NOT_FINITE. */
SF_API int32_t sf_predictor_predict(sf_predictor *predictor, const float *x, int32_t *ids);

/* ---- Feed-forward layer ------------------------------------------------------------------------------------ */

typedef struct sf_ffn sf_ffn;

enum sf_down_layout {
  SF_DOWN_BY_NEURON = 0, /* down transposed, (hidden, d_out): one row a neuron, read only for active neurons */
  SF_DOWN_BY_OUTPUT = 1  /* down as in most files, (d_out, hidden): always read whole */
};

enum sf_mode {
  SF_DENSE = 0, /* every neuron */
  SF_EXACT = 1, /* the gate of every neuron (ungated: up), the rest only where the activation is not 0 */
  SF_SPARSE = 2 /* the predictor proposes; the gate of those is computed; then as exact. No predictor: exact */
};

/* y = down · (activation(gate · x + gate_bias) ∘ (up · x + up_bias)) + down_bias, or, with gate NULL,
 * y = down · activation(up · x + up_bias) + down_bias.
 * gate, up: (hidden, d_in). `down_layout`: an sf_down_layout; `activation`: an sf_activation. Borrows every matrix.
 * `parameter`: FATReLU's threshold, else 0.
 * Errors: ARGUMENT, SHAPE, MEMORY. */
SF_API int32_t sf_ffn_open(sf_ffn **out, sf_context *context, const sf_matrix *gate, const sf_matrix *up,
                           const sf_matrix *down, int32_t down_layout, int32_t activation, float parameter);
SF_API void sf_ffn_close(sf_ffn *ffn);
/* Gives the layer its down matrix in the other layout as well: (d_out, hidden) for a layer opened with one row a
 * neuron, (hidden, d_out) for one with one row an output. Each pass then uses whichever is estimated to be faster from
 * the neuron counts; a dense pass the one by output. The two differ by rounding, and so may a vector's result when it
 * is computed alone and together with others. Borrows `down`; NULL removes it. Errors: ARGUMENT, SHAPE, UNSUPPORTED
 * (a cached layer). */
SF_API int32_t sf_ffn_set_second_down(sf_ffn *ffn, const sf_matrix *down);
/* Copies; any may be NULL for none. gate_bias, up_bias: (hidden); down_bias: (d_out).
 * Errors: ARGUMENT (gate_bias on an ungated layer), MEMORY, NOT_FINITE. */
SF_API int32_t sf_ffn_set_bias(sf_ffn *ffn, const float *gate_bias, const float *up_bias, const float *down_bias);
/* Applies an RMS norm to the neurons' values, activation(gate) ∘ up, before `down` (BitNet b1.58; Ma et al.
 * 2025). weight: (hidden), copied; NULL: none. In sparse mode, skipped neurons count as zeros.
 * sf_ffn_add_active is UNSUPPORTED with it. Errors: ARGUMENT, UNSUPPORTED (a cached layer), MEMORY, NOT_FINITE. */
SF_API int32_t sf_ffn_set_sub_norm(sf_ffn *ffn, const float *weight, float epsilon);
/* `both` 1: activates up as well as the gate, activation(gate) ∘ activation(up) (dReLU; Song et al. 2024). 0, the
 * default: only the gate. Errors: ARGUMENT (an ungated layer). */
SF_API int32_t sf_ffn_set_both_active(sf_ffn *ffn, int32_t both);
/* Another parameter for up than the gate's, where up goes through a function of its own: see sf_activation. Errors:
 * ARGUMENT (an ungated layer; a number that the activation does not take). */
SF_API int32_t sf_ffn_set_up_parameter(sf_ffn *ffn, float parameter);
/* Cuts the gates of each vector by how they are spread: gate = max(gate - mean - deviations · standard deviation, 0)
 * before the activation, with mean and deviation of all of its gates (Gemma 3n). 0, the default: does not. Every gate
 * is needed for it, so a predictor, sf_ffn_forward_active and sf_ffn_add_active are UNSUPPORTED with it. Errors:
 * ARGUMENT (negative or not finite, an ungated layer), UNSUPPORTED (a cached layer, or one with a predictor). */
SF_API int32_t sf_ffn_set_gate_deviations(sf_ffn *ffn, float deviations);
/* Borrows `predictor` (NULL: none). Errors: ARGUMENT (also for one of another context), SHAPE, UNSUPPORTED. */
SF_API int32_t sf_ffn_set_predictor(sf_ffn *ffn, sf_predictor *predictor);
/* Magnitude cutoffs; ignored in dense mode. 0, the default, skips only exact zeros. */
enum sf_cutoff {
  SF_CUTOFF_GATE = 0,   /* |activation(gate)| ≤ cutoff: neither up nor down is computed */
  SF_CUTOFF_PRODUCT = 1 /* |activation(gate) · up| ≤ cutoff: down is not computed */
};
/* Sets the cutoff of a `kind`, an sf_cutoff. Both apply together. In an ungated layer both compare |activation(up)|.
 * Errors: ARGUMENT (negative or not finite). */
SF_API int32_t sf_ffn_set_cutoff(sf_ffn *ffn, int32_t kind, float cutoff);
/* y (n, d_out) from x (n, d_in), in `mode`, an sf_mode. Writes for each vector the neurons whose gate was computed
 * (ungated: whose up was) to selected (n) and those whose down was computed to active (n); either may be NULL. Errors:
 * ARGUMENT, UNSUPPORTED (a cached layer), NOT_FINITE (x), MEMORY. */
SF_API int32_t sf_ffn_forward(sf_ffn *ffn, int32_t mode, const float *x, int32_t n, float *y, int32_t *selected,
                              int32_t *active);
/* y (d_out) of one x (d_in) with only the given neurons, ids (count) ascending and unique. Returns how many of them
 * were active (see sf_ffn_forward). Errors: ARGUMENT (an id out of range or order), UNSUPPORTED (no down by neuron),
 * NOT_FINITE (x). */
SF_API int32_t sf_ffn_forward_active(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y);

/* As sf_ffn_forward_active, but adds to y and omits the bias. Several calls, with neurons ascending from call to call,
 * give bit for bit the result of one call. */
SF_API int32_t sf_ffn_add_active(sf_ffn *ffn, const int32_t *ids, int32_t count, const float *x, float *y);

/* ---- Neuron cache: layers larger than memory --------------------------------------------------------------- */

/* Unlike all others, these functions take no lock: a cache, and the layers opened on it, are for one thread at a time.
 * Neurons are stored outside the core, for example in a file, and some of them are resident in the cache: the host
 * asks which are missing, reads those, and then computes. A neuron's bundle is its gate row, up row and down row, one
 * after another (ungated: up row, down row). */
typedef struct sf_cache sf_cache;

/* Eviction policy. Pinned neurons are never evicted. */
enum sf_cache_policy {
  SF_CACHE_LRU = 0,   /* the least recently used */
  SF_CACHE_LFU = 1,   /* the least often used */
  SF_CACHE_WINDOW = 2 /* the least often used lately: a use weighs (1 - 1/window)^age after `age` requests */
};

/* Room for `slots` bundles of `bundle_bytes` bytes out of `hidden` neurons; `policy`: an sf_cache_policy. Errors:
 * ARGUMENT, MEMORY. */
SF_API int32_t sf_cache_open(sf_cache **out, int32_t hidden, size_t bundle_bytes, int32_t slots, int32_t policy,
                             int32_t window);
SF_API void sf_cache_close(sf_cache *cache);
/* Pins the neurons ids (count), ascending, from the time they are loaded, and unpins all others.
 * Errors: ARGUMENT, SHAPE (no slot would be left for the others). */
SF_API int32_t sf_cache_pin(sf_cache *cache, const int32_t *ids, int32_t count);
/* Requests the neurons ids (count), ascending. Returns how many of them, from the first on, can be resident together
 * (all, or at least 1), and writes those of them that are missing to missing (count) and *missing_count. For each,
 * write its bundle where sf_cache_bundles() says, then call sf_cache_loaded(). Neurons that were requested and not
 * loaded are dropped at the next request. Errors: ARGUMENT. */
SF_API int32_t sf_cache_request(sf_cache *cache, const int32_t *ids, int32_t count, int32_t *missing,
                                int32_t *missing_count);
/* Writes to bundles (count) the address of the bundle of each of the neurons ids (count), ascending, loaded or to be
 * loaded; NULL for one without a slot. The memory is the cache's. Errors: ARGUMENT. */
SF_API int32_t sf_cache_bundles(sf_cache *cache, const int32_t *ids, int32_t count, void **bundles);
/* The bundles of the neurons ids (count), ascending, have been written. Errors: ARGUMENT, NOT_RESIDENT. */
SF_API int32_t sf_cache_loaded(sf_cache *cache, const int32_t *ids, int32_t count);
/* Number of resident neurons. */
SF_API int32_t sf_cache_resident(const sf_cache *cache);
/* Counts since the last call of this function: requested neurons that were resident (*hits) or had to be read
 * (*misses), and for how many tokens of evals each neuron was selected, wanted (hidden). Counts saturate at INT32_MAX.
 * Errors: ARGUMENT. */
SF_API int32_t sf_cache_counts(sf_cache *cache, int32_t *hits, int32_t *misses, int32_t *wanted);

/* A feed-forward layer whose weights are bundles in `cache`, which it borrows, all rows in `format`. It may be part of
 * a model: see sf_model_missing. Of its functions, sf_ffn_forward is UNSUPPORTED; sf_ffn_forward_active and
 * sf_ffn_add_active return NOT_RESIDENT for a neuron that is not loaded. Errors: ARGUMENT, FORMAT, SHAPE (bundle_bytes
 * does not fit such rows), MEMORY. */
SF_API int32_t sf_ffn_open_cached(sf_ffn **out, sf_context *context, sf_cache *cache, int32_t format, int32_t d_in,
                                  int32_t d_out, int32_t gated, int32_t activation, float parameter);

/* ---- Layers of experts -------------------------------------------------------------------------------------- */

/* Feed-forward layers of the same shape side by side, of which a router chooses a few for each token (Shazeer et al.
 * 2017). The neurons of all experts are numbered one after another: an expert is a run of neurons. */
typedef struct sf_experts sf_experts;

/* `count` experts of up->rows / count neurons each. gate (count · width, d_in) or NULL, up (count · width, d_in), down
 * by neuron (count · width, d_out) or by output (count · d_out, width); borrowed. When gate is up, each expert's part
 * of that matrix is its gate and below it its up (count · 2 · width, d_in). Errors: ARGUMENT, SHAPE, MEMORY. */
SF_API int32_t sf_experts_open(sf_experts **out, sf_context *context, int32_t count, const sf_matrix *gate,
                               const sf_matrix *up, const sf_matrix *down, int32_t down_layout, int32_t activation,
                               float parameter);
/* Experts that are bundles in `cache`, which it borrows, and whose neurons are the experts: the rows of an expert's
 * gate (gate_format -1: none), up and down, one matrix after another. Errors: ARGUMENT, SHAPE (bundle_bytes does not
 * fit), MEMORY. */
SF_API int32_t sf_experts_open_cached(sf_experts **out, sf_context *context, sf_cache *cache, int32_t gate_format,
                                      int32_t up_format, int32_t down_format, int32_t d_in, int32_t d_out,
                                      int32_t width, int32_t down_layout, int32_t activation, float parameter);
SF_API void sf_experts_close(sf_experts *experts);
/* gate_bias, up_bias (count · width), down_bias (count, d_out), copied; NULL: none. Errors as sf_ffn_set_bias. */
SF_API int32_t sf_experts_set_bias(sf_experts *experts, const float *gate_bias, const float *up_bias,
                                   const float *down_bias);
/* What the weights of each expert's gate, up and down are multiplied by, (count) each, in place of the matrices' own
 * scales; NULL: those. Set before the first pass. Errors: ARGUMENT (also a number that is not finite). */
SF_API int32_t sf_experts_set_scales(sf_experts *experts, const float *gate, const float *up, const float *down);
/* sf_ffn_set_up_parameter of every expert. */
SF_API int32_t sf_experts_set_up_parameter(sf_experts *experts, float parameter);
/* sf_ffn_set_cutoff of every expert. */
SF_API int32_t sf_experts_set_cutoff(sf_experts *experts, int32_t kind, float cutoff);
/* sf_ffn_set_predictor of one expert. */
SF_API int32_t sf_experts_set_predictor(sf_experts *experts, int32_t expert, sf_predictor *predictor);

/* ---- Model: a plan of steps -------------------------------------------------------------------------------- */

/* A model is a list of steps, which each token passes in order. A step reads and writes buffers, which hold so many
 * floats for each token, and uses weights. Whatever a step names has to be added before it, and is checked then.
 * Functions that add something return its number, from 0 on, or an error. Nothing can be added while a session is open.
 */
typedef struct sf_model sf_model;

/* A model of `vocab` tokens, with one buffer, number 0, for the logits (vocab). `d`: the width of the residual stream,
 * for taps. Errors: ARGUMENT, MEMORY. */
SF_API int32_t sf_model_open(sf_model **out, sf_context *context, int32_t vocab, int32_t d);
/* The memory is freed when the sessions are closed too. */
SF_API void sf_model_close(sf_model *model);
/* A buffer of `width` floats for each token. Errors: ARGUMENT, MEMORY. */
SF_API int32_t sf_model_add_buffer(sf_model *model, int32_t width);
/* Borrows `matrix`. Errors: ARGUMENT, SHAPE, MEMORY. */
SF_API int32_t sf_model_add_matrix(sf_model *model, const sf_matrix *matrix);
/* Copies `count` floats. Errors: ARGUMENT, MEMORY, NOT_FINITE. */
SF_API int32_t sf_model_add_vector(sf_model *model, const float *values, int32_t count);
/* A rotary position embedding (Su et al. 2021): pair i of dims / 2 turns by base^(-2i / dims) / factors[i] a position
 * (factors NULL: 1), and cosines and sines are multiplied by `amplitude`. Copies `factors`. Errors: ARGUMENT, MEMORY,
 * NOT_FINITE. */
SF_API int32_t sf_model_add_rope(sf_model *model, int32_t dims, float base, const float *factors, float amplitude);
/* The next feed-forward layer: layers are numbered as they are added. Borrows it. Errors: ARGUMENT (also for one of
 * another context), MEMORY. */
SF_API int32_t sf_model_add_ffn(sf_model *model, sf_ffn *ffn);
SF_API int32_t sf_model_add_experts(sf_model *model, sf_experts *experts);
/* Puts another layer of the same shape in the place of an sf_ffn. Errors: ARGUMENT, SHAPE. */
SF_API int32_t sf_model_set_ffn(sf_model *model, int32_t layer, sf_ffn *ffn);

/* A screen for SF_STEP_HEAD: a predictor whose scores approximate the logits, low-rank, or bounded, by a copy of the
 * head's matrix, to whose scores the head's bias is added. Borrows it; its rule is not
 * used. Errors: ARGUMENT (also for one of another context), MEMORY. */
SF_API int32_t sf_model_add_screen(sf_model *model, sf_predictor *screen);

/* The formats in which sessions keep keys and values: SF_F32, SF_F16 or SF_Q8_0 each; when opened, a model has SF_F16.
 * Heads whose numbers are no whole blocks are kept in SF_F16 in place of SF_Q8_0. Numbers beyond ±65,504 in SF_F16, and
 * beyond ±127 · 65,504 in SF_Q8_0, are kept as these; what is not finite stays so. Errors: ARGUMENT (also while a
 * session is open), FORMAT. */
SF_API int32_t sf_model_set_kv_formats(sf_model *model, int32_t k_format, int32_t v_format);

/* Steps. Their arguments are the numbers of what was added, in brackets the shapes, and whole numbers; after a
 * semicolon, floats. "or -1": none. In place: the first argument is changed. */
enum sf_step_name {
  SF_STEP_EMBED = 0,    /* out (d), matrix (vocab, d); scale. out = row of the token · scale */
  SF_STEP_NORM = 1,     /* in, out, weight or -1, bias or -1, an sf_norm, groups; epsilon. Each of `groups` parts of the
                           input is normalised by itself; a weight is of one part or of all. in may be out */
  SF_STEP_PRODUCTS = 2, /* in, then for each of 1 to 5 products: matrix, bias or -1, out. out = matrix · in + bias */
  SF_STEP_HEAD_PRODUCTS = 3, /* in (heads, columns), matrix (heads · rows, columns), out (heads, rows), heads */
  SF_STEP_ROPE = 4,  /* in place (heads, dim), rope, heads, first element of a head, halves. Pairs are (2i, 2i + 1) or,
                        with halves 1, (i, i + dims / 2) */
  SF_STEP_SCALE = 5, /* in place; factor */
  SF_STEP_CAP = 6,   /* in place; cap > 0. x = cap · tanh(x / cap) */
  SF_STEP_ADD = 7,   /* a, b, out, an sf_repeat. The width of b divides that of a */
  SF_STEP_MULTIPLY = 8,   /* as SF_STEP_ADD */
  SF_STEP_ADD_VECTOR = 9, /* in, vector, out, an sf_repeat. The narrower repeats, and out is as wide as the wider */
  SF_STEP_MULTIPLY_VECTOR = 10, /* as SF_STEP_ADD_VECTOR */
  SF_STEP_MAP = 11,             /* in, out, an sf_activation or sf_function */
  SF_STEP_COPY = 12,            /* in, out, count, width, first and stride in the one, first and stride in the other */
  SF_STEP_ATTENTION = 13, /* q (heads, k_dim), k (kv_heads, k_dim), v (kv_heads, v_dim), out (heads, v_dim), kv_heads,
                             k_dim, v_dim, window, an sf_mask, sinks (heads) or -1, slopes (heads) or -1, biases
                             (heads, 2r + 1) or -1, source or -1; cap. The mask and the window say which tokens of its
                             session a token attends to. Products q · k are capped with cap > 0. A sink is one more
                             product, of nothing (Xiao et al. 2023). A slope is what a product loses for each position
                             between the tokens (Press et al. 2022); a bias is added to the products with keys that are
                             -r … r positions further on, the first and last one also to those beyond (Raffel et al.
                             2020). With a source, an earlier step of attention with the same mask, its keys and values
                             are used, and k and v are -1. out may be (heads, v_dim) and (heads) after it: the
                             logarithms of the sums by which the softmax divides, of nothing -FLT_MAX */
  SF_STEP_FFN = 14,       /* layer, in, hints or -1, out. Predictors are given the hints, or the input */
  SF_STEP_ROUTE = 15,     /* in (experts), out (2 · used), selection bias (experts) or -1, an sf_route, groups, groups
                             used, normalised; scale. Chooses the experts with the largest scores, of equal ones the
                             first: out = the experts, ascending, and their weights. Bias and groups count for the
                             choice alone. normalised 1: weights are divided by their sum */
  SF_STEP_EXPERTS = 16,   /* layer, in, routes, out, before, share. out = Σ weight · expert(in) or, with before 1,
                             Σ expert(weight · in). So many of the router's experts, `share`, have one of the layer
                             together; not with before */
  SF_STEP_TAP = 17,       /* in (d), an sf_tap, place: see sf_session_tap */
  SF_STEP_PICK = 18,      /* in place. Steps after it are for tokens whose logits are wanted; they come to the front */
  SF_STEP_CONVOLUTION = 19, /* in (d), weight (d, taps), bias (d) or -1, out (d), taps. Each element by itself over
                               the session's last `taps` tokens, the oldest first: out_i = bias_i + Σ weight_i,t · in_i
                               of token t. Those before the first token are 0. in may be out */
  SF_STEP_RECURRENCE = 20,  /* q (groups, keys), k (groups, keys), v (heads, values), decay (heads) or (heads, keys),
                               a (groups, keys) or -1, b (groups, keys) or -1, out (heads, values), heads, keys, before.
                               The number of groups divides that of heads, of which each has a state S (keys, values):
                               S_i = decay_i · S_i + k_i · v + b_i · Σ_j a_j · S_j, and out = Σ_i q_i · S_i of the new
                               state or, with before 1, of that before the token */
  SF_STEP_HEAD_DOTS = 21,   /* a (heads, dim), b (heads, dim), out (heads). out = a · b of each head */
  SF_STEP_TEMPERATURE = 22, /* in place, length, offset; factor.
                               x = x · (1 + factor · ln(⌊(position + offset) / length⌋ + 1)) */
  SF_STEP_MIX = 23,         /* in (streams, dim), weights (outs, streams), out (outs, dim), streams.
                               out_i = Σ_j weight_ij · in_j */
  SF_STEP_POSITION = 24,    /* out (d), matrix (positions, d). out = row of the position. An evaluation that goes
                               beyond the rows fails with CONTEXT_FULL */
  SF_STEP_CLAMP = 25,       /* in place; limit > 0. x = min(max(x, -limit), limit) */
  SF_STEP_HEAD = 26,        /* in (d), matrix (vocab, d), bias (vocab) or -1, screen or -1, rows, out (vocab), after the
                               pick. out = matrix · in + bias. With a screen, out = its scores, but where these are the
                               `rows` largest (of equal ones the first), or a session names the row: see
                               sf_session_set_head. With a bounded one, instead of the largest, where the logit may be
                               the largest of all, so that the largest of `out` is that without a screen */
  SF_STEP_TYPE = 27,    /* out (d), matrix (types, d). out = row of the token's type, such as the first or the second
                           of two texts (Devlin et al. 2019): an evaluation takes id + type · vocab for a token.
                           All such steps of a plan have as many types */
  SF_STEP_SOFTMAX = 28, /* in (rows, columns), out, columns, rounds; epsilon. out = the softmax of each row. With
                           rounds, epsilon is added to it, and the columns, from the second round on first the rows, are
                           divided by their sums + epsilon (Sinkhorn and Knopp 1967). in may be out */
  SF_STEP_POOL = 29, /* in (halves, d), scores (halves, d), biases (tokens, halves · d), out (d), tokens. At the last of
                        each run of so many tokens, which begin at multiples of it, out = the sums of the run's in,
                        weighted by the softmax of scores + biases of the run, each element by itself. With two halves,
                        of the second halves and of the run before's first halves together. At other tokens out = 0 */
  SF_STEP_MARK = 30 /* in (ids), out (width). out = 1 at the ids, integers below the width, and 0 elsewhere. Others fail
                       with ARGUMENT */
};

/* Which tokens a token attends to, itself always among them but with SF_MASK_POOLED. */
enum sf_mask {
  SF_MASK_CAUSAL = 0,  /* those before it; window > 0: so many, itself counted */
  SF_MASK_CHUNKED = 1, /* those before it in its run of `window` positions */
  SF_MASK_BOTH = 2,    /* those before and after it; window > 0: at most ⌊window / 2⌋ positions away. A session
                          evaluates all its tokens in one call, in as many passes as there are such steps */
  SF_MASK_POOLED = 3   /* the last of each run of `window` positions up to it, which alone are kept. Without slopes and
                          biases */
};

enum sf_norm {
  SF_NORM_RMS = 0,
  SF_NORM_LAYER = 1,
  SF_NORM_L2 = 2 /* x / max(‖x‖, epsilon), times a weight if there is one */
};

/* Functions of SF_STEP_MAP beside the activations. */
enum sf_function { SF_SIGMOID = 16, SF_TANH = 17, SF_SOFTPLUS = 18, SF_EXP = 19, SF_SQRT = 20 };

/* How something narrower repeats: as a whole (abab), or each element (aabb). */
enum sf_repeat { SF_TILE = 0, SF_SPREAD = 1 };

/* What a router makes of its logits. */
enum sf_route {
  SF_ROUTE_PLAIN = 0,
  SF_ROUTE_SOFTMAX = 1, /* over all experts */
  SF_ROUTE_SIGMOID = 2,
  SF_ROUTE_SOFTMAX_CHOSEN = 3, /* of those that are chosen, by their plain logits */
  SF_ROUTE_SPARSE_MIXER = 4    /* of each that is chosen, among those not chosen before it with nearly its logit (Liu et
                                  al. 2024) */
};

/* Adds a step, an sf_step_name, and returns its place. Errors: ARGUMENT (what an argument names was not added, or holds
 * nothing yet; their number; a number out of range), SHAPE, MEMORY. */
SF_API int32_t sf_model_add_step(sf_model *model, int32_t kind, const int32_t *arguments, int32_t count,
                                 const float *numbers, int32_t numbers_count);

/* Which inputs of a step. */
enum sf_site {
  SF_SITE_IN = 0,  /* of SF_STEP_PRODUCTS, or of gate and up in SF_STEP_FFN */
  SF_SITE_DOWN = 1 /* of down in SF_STEP_FFN */
};

/* Leaves out inputs of a site, an sf_site of step `step`, whose magnitude is below `limit` (0, the default: none), of
 * tokens in SF_SPARSE mode and phase SF_DECODE, where the cost model says that this is faster. Tokens in SF_SPARSE mode
 * pass a layer with a limit without skipping neurons, and prompts do so with all inputs. Each token is multiplied by
 * itself, so that many sessions together gain less than one. The site's matrices have columns: see
 * sf_matrix_add_columns. Errors: ARGUMENT (no such site, or after the pick), UNSUPPORTED (no columns, or a layer with a
 * predictor, a cache, a sub-norm or gates that are cut). */
SF_API int32_t sf_model_set_input_limit(sf_model *model, int32_t step, int32_t site, float limit);
/* Lets evaluations write the inputs of a site, token after token, (tokens, width), to buffer until it is full; those of
 * SF_SITE_DOWN in SF_DENSE mode alone. NULL stops it. Borrows `buffer`. Errors: ARGUMENT. */
SF_API int32_t sf_model_record_inputs(sf_model *model, int32_t step, int32_t site, float *buffer, size_t floats);

/* ---- Session: one sequence of tokens in a model ------------------------------------------------------------ */

typedef struct sf_session sf_session;

/* Further result of sf_session_eval, sf_model_eval and sf_model_resume: neurons of a cached layer have to be read
 * before the evaluation can go on. See sf_model_missing. */
enum sf_eval_status { SF_WAITING = 1 };

/* What the tokens of an evaluation are. The phase decides how matrices are multiplied, never the number of tokens, so
 * within a phase results depend on nothing but the tokens before. SF_DECODE: the inputs of block formats are rounded to
 * 16 bits or less, and integers are multiplied. SF_PROMPT: the same or, where the instruction set multiplies floats
 * faster (AVX-512), weights of any format become floats, once for all tokens of a batch; where vectors are short (plain
 * C, SSE4.1, WebAssembly) the integers have 16 bits, and the products of a row are added in another order. A host may
 * evaluate short prompts as SF_DECODE, which is then faster: by the length of the text, not of its parts, so that
 * results depend on the text alone. The steps after SF_STEP_PICK, and passes through feed-forward layers in exact and
 * sparse mode, are those of SF_DECODE in either phase. A position keeps what its own phase has made of it: a token that
 * was decoded and is evaluated again as part of a prompt may differ in the last bits. */
enum sf_phase { SF_PROMPT = 0, SF_DECODE = 1 };

/* A session for up to `context` tokens. Its memory grows with its tokens. Borrows `model`.
 * Errors: ARGUMENT, INCOMPLETE (no step writes the logits, nor taps SF_TAP_HIDDEN, as a model without logits does),
 * MEMORY. */
SF_API int32_t sf_session_open(sf_session **out, sf_model *model, int32_t context);
SF_API void sf_session_close(sf_session *session);
/* Appends `n` tokens in `mode`, an sf_mode, and writes logits (logits_count, vocab) of the last `logits_count` of them
 * (0 … n; NULL allowed with 0). An error leaves the session's position unchanged; where the session cannot go back, see
 * sf_session_truncate, the position becomes 0. A token's results do not depend on how the tokens are divided into
 * calls of a phase, nor on other sessions (but see sf_ffn_set_second_down). Errors: ARGUMENT (token id, mode, phase),
 * CONTEXT_FULL, NOT_FINITE, MEMORY. In a model with cached layers, n is at most SF_BATCH (else ARGUMENT), every mode
 * computes whole neurons, dense mode in the same way as exact mode, and SF_WAITING may be returned. INCOMPLETE: of a
 * model without logits they are wanted. In a model with SF_MASK_BOTH the session must be empty (else UNSUPPORTED), and
 * layers must not be cached (UNSUPPORTED). */
SF_API int32_t sf_session_eval(sf_session *session, const int32_t *tokens, int32_t n, int32_t mode, int32_t phase,
                               float *logits, int32_t logits_count);
/* Tokens of several sessions together: token i goes to sessions[i], those of one session in their order. Rows of
 * weights that several tokens need are read once. Writes logits (logits_count, vocab) of the tokens whose wanted (n) is
 * not 0, which are `logits_count`. Errors as sf_session_eval, for all sessions; UNSUPPORTED for a session that taps or
 * counts neurons. */
SF_API int32_t sf_model_eval(sf_model *model, sf_session *const *sessions, const int32_t *tokens, const int32_t *wanted,
                             int32_t n, int32_t mode, int32_t phase, float *logits, int32_t logits_count);
/* After SF_WAITING: the neurons of layer *layer that have to be read, ascending, to ids (hidden of that layer); of a
 * layer of experts, the experts. Returns how many. For each, write its bundle where sf_cache_bundles() of that layer's
 * cache says, call sf_cache_loaded(), and then sf_model_resume(). Of experts some are enough, and when they are named
 * for the first time none: the evaluation goes on while others are written, and asks again for what it then lacks. They
 * are named in any order. Another evaluation, or truncating or closing a session whose tokens wait, abandons this one:
 * what is still being written must be finished before. Errors: ARGUMENT (not waiting). */
SF_API int32_t sf_model_missing(const sf_model *model, int32_t *layer, int32_t *ids);
/* Continues the evaluation that returned SF_WAITING, and returns as that did, possibly SF_WAITING again.
 * `logits`: the same buffer as before. Errors: ARGUMENT (not waiting), NOT_RESIDENT (neurons were not read), and those
 * of sf_session_eval. */
SF_API int32_t sf_model_resume(sf_model *model, float *logits);
/* Tokens of the session. */
SF_API int32_t sf_session_position(const sf_session *session);
/* Keeps only the first `position` tokens: none, or those up to sf_session_earliest() or a later position. Errors:
 * ARGUMENT, UNSUPPORTED (an earlier position). */
SF_API int32_t sf_session_truncate(sf_session *session, int32_t position);
/* The earliest position that the session can go back to, but for 0, which it always can: with a recurrent state, the
 * present one. Where all attention to some keys and values has a window (SF_MASK_CAUSAL, SF_MASK_CHUNKED), a session
 * keeps those that its next token sees, and SF_BACK before them, so that it can go back so many positions from the
 * last one that it was at. Errors: ARGUMENT. */
SF_API int32_t sf_session_earliest(const sf_session *session);
/* Bytes that sf_session_save writes of the session as it is: keys and values that it keeps, and recurrent states. 0 of
 * NULL, and of a model that keeps nothing. */
SF_API size_t sf_session_saved_bytes(const sf_session *session);
/* Writes what the session keeps to data, so many `bytes`, in this machine's order of bytes. Errors: ARGUMENT (also when
 * tokens of it wait, see SF_WAITING), SHAPE (not as many bytes as sf_session_saved_bytes says). */
SF_API int32_t sf_session_save(const sf_session *session, uint8_t *data, size_t bytes);
/* Makes the session what another one of this model was at its `position` when it was saved, by a model with these
 * formats of keys and values: other ones than this model's are converted. An error leaves it as it is. Errors:
 * ARGUMENT, FORMAT, CONTEXT_FULL, SHAPE (not the bytes of so many tokens in this model), NOT_FINITE, MEMORY. */
SF_API int32_t sf_session_restore(sf_session *session, const uint8_t *data, size_t bytes, int32_t position,
                                  int32_t k_format, int32_t v_format);
/* Neurons of the evals since the last call of this function, summed over their tokens, per layer: selected (layers),
 * active (layers); see sf_ffn_forward. Sums saturate at INT32_MAX. Errors: ARGUMENT. */
SF_API int32_t sf_session_counts(sf_session *session, int32_t *selected, int32_t *active);

/* Which rows of the output matrix SF_STEP_HEAD multiplies. */
enum sf_head {
  SF_HEAD_DENSE = 0,
  SF_HEAD_SCREENED = 1 /* those that the screen proposes; without a screen, all */
};

/* Sets the head of the session's further evaluations, an sf_head; when opened, a session has SF_HEAD_SCREENED. The rows
 * ids (count), ascending and each once, are multiplied in any case. Copies them. Errors: ARGUMENT, MEMORY. */
SF_API int32_t sf_session_set_head(sf_session *session, int32_t head, const int32_t *ids, int32_t count);
/* Since the last call of this function: *tokens that SF_STEP_HEAD was for, and *rows that it multiplied for them
 * together. Both saturate at INT32_MAX. Errors: ARGUMENT. */
SF_API int32_t sf_session_head_counts(sf_session *session, int32_t *tokens, int32_t *rows);

/* Since the last call of this function: *inputs of the sites with a limit over all tokens, and *chosen, those of them
 * that were multiplied. Both saturate at INT32_MAX. Errors: ARGUMENT. */
SF_API int32_t sf_session_input_counts(sf_session *session, int32_t *inputs, int32_t *chosen);

/* What sf_session_tap records for each token. */
enum sf_tap {
  SF_TAP_FFN_INPUTS = 0, /* (layers, d): the input of each feed-forward layer */
  SF_TAP_HIDDEN = 1      /* (d): the residual stream after the final norm, from which logits are made */
};

/* Lets each evaluation also record what `kind`, an sf_tap, names: buffer (n, …), of `floats` floats; an evaluation that
 * does not fit fails with SHAPE. NULL stops the recording. Kinds are independent of each other. Borrows
 * `buffer`. Errors: ARGUMENT. */
SF_API int32_t sf_session_tap(sf_session *session, int32_t kind, float *buffer, size_t floats);
/* Lets each evaluation add 1 to the byte of every neuron that fired, once for each token, saturating at 255.
 * A neuron fires when its activation is not 0, in sparse and exact mode beyond the layer's cutoff. counts: one byte a
 * neuron, layer after layer, (layers, hidden); `bytes` of them. The caller may read and clear them between evaluations.
 * NULL stops the counting. Borrows `counts`. Errors: ARGUMENT, SHAPE (too few bytes). */
SF_API int32_t sf_session_activity(sf_session *session, uint8_t *counts, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* SPARSEFIRE_H */
