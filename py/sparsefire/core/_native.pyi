"""Types of the compiled extension: the functions of sparsefire.h, one to one.

`_Pointer`: None (NULL), an address, or a C-contiguous buffer, whose own memory is passed.
`_Handle`: None or an address.
"""

from typing import Any, SupportsIndex, TypeAlias

_Handle: TypeAlias = SupportsIndex | None
_Pointer: TypeAlias = Any

def sf_status_text(status: SupportsIndex, /) -> str: ...
def sf_version() -> str: ...
def sf_alloc(bytes: SupportsIndex, /) -> int: ...
def sf_free(memory: _Handle, /) -> int: ...
def sf_isa_count() -> int: ...
def sf_isa_name(isa: SupportsIndex, /) -> str | None: ...
def sf_isa_supported(isa: SupportsIndex, /) -> int: ...
def sf_context_open(out: _Pointer, isa: SupportsIndex, threads: SupportsIndex, /) -> int: ...
def sf_context_close(context: _Handle, /) -> int: ...
def sf_context_isa(context: _Handle, /) -> int: ...
def sf_context_threads(context: _Handle, /) -> int: ...
def sf_context_set_costs(
    context: _Handle, format: SupportsIndex, scattered: float, batched: float, /
) -> int: ...
def sf_context_set_column_cost(context: _Handle, chosen: float, fixed: float, /) -> int: ...
def sf_peak_operations(context: _Handle, kind: SupportsIndex, /) -> int: ...
def sf_peak_run(
    context: _Handle, kind: SupportsIndex, repeats: SupportsIndex, out: _Pointer, /
) -> int: ...
def sf_peak_read(context: _Handle, x: _Pointer, count: SupportsIndex, out: _Pointer, /) -> int: ...
def sf_format_row_bytes(format: SupportsIndex, columns: SupportsIndex, /) -> int: ...
def sf_quantize(
    format: SupportsIndex,
    src: _Pointer,
    rows: SupportsIndex,
    columns: SupportsIndex,
    dst: _Pointer,
    dst_bytes: SupportsIndex,
    /,
) -> int: ...
def sf_dequantize(
    format: SupportsIndex,
    src: _Pointer,
    src_bytes: SupportsIndex,
    rows: SupportsIndex,
    columns: SupportsIndex,
    dst: _Pointer,
    /,
) -> int: ...
def sf_matrix_open(
    out: _Pointer,
    data: _Pointer,
    bytes: SupportsIndex,
    format: SupportsIndex,
    rows: SupportsIndex,
    columns: SupportsIndex,
    row_stride: SupportsIndex,
    /,
) -> int: ...
def sf_matrix_close(matrix: _Handle, /) -> int: ...
def sf_matrix_set_scale(matrix: _Handle, scale: float, /) -> int: ...
def sf_matrix_multiply(
    context: _Handle, matrix: _Handle, x: _Pointer, n: SupportsIndex, y: _Pointer, /
) -> int: ...
def sf_matrix_add_columns(matrix: _Handle, /) -> int: ...
def sf_matrix_column_bytes(matrix: _Handle, /) -> int: ...
def sf_matrix_multiply_above(
    context: _Handle, matrix: _Handle, x: _Pointer, limit: float, y: _Pointer, /
) -> int: ...
def sf_activate(
    context: _Handle,
    activation: SupportsIndex,
    parameter: float,
    x: _Pointer,
    count: SupportsIndex,
    y: _Pointer,
    /,
) -> int: ...
def sf_rms_norm(
    context: _Handle,
    x: _Pointer,
    weight: _Pointer,
    n: SupportsIndex,
    d: SupportsIndex,
    epsilon: float,
    y: _Pointer,
    /,
) -> int: ...
def sf_softmax(context: _Handle, x: _Pointer, count: SupportsIndex, y: _Pointer, /) -> int: ...
def sf_select_top_k(
    context: _Handle,
    scores: _Pointer,
    count: SupportsIndex,
    k: SupportsIndex,
    ids: _Pointer,
    /,
) -> int: ...
def sf_select_threshold(
    context: _Handle,
    scores: _Pointer,
    count: SupportsIndex,
    threshold: float,
    least: SupportsIndex,
    most: SupportsIndex,
    ids: _Pointer,
    /,
) -> int: ...
def sf_predictor_open(
    out: _Pointer,
    context: _Handle,
    p: _Handle,
    q: _Handle,
    bias: _Pointer,
    relu_between: SupportsIndex,
    /,
) -> int: ...
def sf_predictor_open_sign(
    out: _Pointer, context: _Handle, gate: _Handle, alpha: float, /
) -> int: ...
def sf_predictor_open_bounded(
    out: _Pointer, context: _Handle, copy: _Handle, bounds: _Handle, /
) -> int: ...
def sf_predictor_signs(predictor: _Handle, signs: _Pointer, bytes: SupportsIndex, /) -> int: ...
def sf_predictor_close(predictor: _Handle, /) -> int: ...
def sf_predictor_set_rule(
    predictor: _Handle,
    rule: SupportsIndex,
    threshold: float,
    least: SupportsIndex,
    most: SupportsIndex,
    hot: SupportsIndex,
    /,
) -> int: ...
def sf_predictor_scores(
    predictor: _Handle, x: _Pointer, n: SupportsIndex, scores: _Pointer, /
) -> int: ...
def sf_predictor_predict(predictor: _Handle, x: _Pointer, ids: _Pointer, /) -> int: ...
def sf_ffn_open(
    out: _Pointer,
    context: _Handle,
    gate: _Handle,
    up: _Handle,
    down: _Handle,
    down_layout: SupportsIndex,
    activation: SupportsIndex,
    parameter: float,
    /,
) -> int: ...
def sf_ffn_close(ffn: _Handle, /) -> int: ...
def sf_ffn_set_bias(
    ffn: _Handle, gate_bias: _Pointer, up_bias: _Pointer, down_bias: _Pointer, /
) -> int: ...
def sf_ffn_set_second_down(ffn: _Handle, down: _Handle, /) -> int: ...
def sf_ffn_set_up_parameter(ffn: _Handle, parameter: float, /) -> int: ...
def sf_ffn_set_gate_deviations(ffn: _Handle, deviations: float, /) -> int: ...
def sf_ffn_set_both_active(ffn: _Handle, both: SupportsIndex, /) -> int: ...
def sf_ffn_set_sub_norm(ffn: _Handle, weight: _Pointer, epsilon: float, /) -> int: ...
def sf_ffn_set_predictor(ffn: _Handle, predictor: _Handle, /) -> int: ...
def sf_ffn_set_cutoff(ffn: _Handle, kind: SupportsIndex, cutoff: float, /) -> int: ...
def sf_ffn_forward(
    ffn: _Handle,
    mode: SupportsIndex,
    x: _Pointer,
    n: SupportsIndex,
    y: _Pointer,
    selected: _Pointer,
    active: _Pointer,
    /,
) -> int: ...
def sf_ffn_forward_active(
    ffn: _Handle, ids: _Pointer, count: SupportsIndex, x: _Pointer, y: _Pointer, /
) -> int: ...
def sf_ffn_add_active(
    ffn: _Handle, ids: _Pointer, count: SupportsIndex, x: _Pointer, y: _Pointer, /
) -> int: ...
def sf_cache_open(
    out: _Pointer,
    hidden: SupportsIndex,
    bundle_bytes: SupportsIndex,
    slots: SupportsIndex,
    policy: SupportsIndex,
    window: SupportsIndex,
    /,
) -> int: ...
def sf_cache_close(cache: _Handle, /) -> int: ...
def sf_cache_pin(cache: _Handle, ids: _Pointer, count: SupportsIndex, /) -> int: ...
def sf_cache_request(
    cache: _Handle,
    ids: _Pointer,
    count: SupportsIndex,
    missing: _Pointer,
    missing_count: _Pointer,
    /,
) -> int: ...
def sf_cache_bundles(
    cache: _Handle, ids: _Pointer, count: SupportsIndex, bundles: _Pointer, /
) -> int: ...
def sf_cache_loaded(cache: _Handle, ids: _Pointer, count: SupportsIndex, /) -> int: ...
def sf_cache_resident(cache: _Handle, /) -> int: ...
def sf_cache_counts(
    cache: _Handle, hits: _Pointer, misses: _Pointer, wanted: _Pointer, /
) -> int: ...
def sf_ffn_open_cached(
    out: _Pointer,
    context: _Handle,
    cache: _Handle,
    format: SupportsIndex,
    d_in: SupportsIndex,
    d_out: SupportsIndex,
    gated: SupportsIndex,
    activation: SupportsIndex,
    parameter: float,
    /,
) -> int: ...
def sf_experts_open(
    out: _Pointer,
    context: _Handle,
    count: SupportsIndex,
    gate: _Handle,
    up: _Handle,
    down: _Handle,
    down_layout: SupportsIndex,
    activation: SupportsIndex,
    parameter: float,
    /,
) -> int: ...
def sf_experts_open_cached(
    out: _Pointer,
    context: _Handle,
    cache: _Handle,
    gate_format: SupportsIndex,
    up_format: SupportsIndex,
    down_format: SupportsIndex,
    d_in: SupportsIndex,
    d_out: SupportsIndex,
    width: SupportsIndex,
    down_layout: SupportsIndex,
    activation: SupportsIndex,
    parameter: float,
    /,
) -> int: ...
def sf_experts_close(experts: _Handle, /) -> int: ...
def sf_experts_set_bias(
    experts: _Handle, gate_bias: _Pointer, up_bias: _Pointer, down_bias: _Pointer, /
) -> int: ...
def sf_experts_set_scales(
    experts: _Handle, gate: _Pointer, up: _Pointer, down: _Pointer, /
) -> int: ...
def sf_experts_set_up_parameter(experts: _Handle, parameter: float, /) -> int: ...
def sf_experts_set_cutoff(experts: _Handle, kind: SupportsIndex, cutoff: float, /) -> int: ...
def sf_experts_set_predictor(
    experts: _Handle, expert: SupportsIndex, predictor: _Handle, /
) -> int: ...
def sf_model_open(
    out: _Pointer, context: _Handle, vocab: SupportsIndex, d: SupportsIndex, /
) -> int: ...
def sf_model_close(model: _Handle, /) -> int: ...
def sf_model_set_kv_formats(
    model: _Handle, k_format: SupportsIndex, v_format: SupportsIndex, /
) -> int: ...
def sf_model_add_buffer(model: _Handle, width: SupportsIndex, /) -> int: ...
def sf_model_add_matrix(model: _Handle, matrix: _Handle, /) -> int: ...
def sf_model_add_vector(model: _Handle, values: _Pointer, count: SupportsIndex, /) -> int: ...
def sf_model_add_rope(
    model: _Handle, dims: SupportsIndex, base: float, factors: _Pointer, amplitude: float, /
) -> int: ...
def sf_model_add_ffn(model: _Handle, ffn: _Handle, /) -> int: ...
def sf_model_add_experts(model: _Handle, experts: _Handle, /) -> int: ...
def sf_model_add_screen(model: _Handle, screen: _Handle, /) -> int: ...
def sf_model_set_ffn(model: _Handle, layer: SupportsIndex, ffn: _Handle, /) -> int: ...
def sf_model_add_step(
    model: _Handle,
    kind: SupportsIndex,
    arguments: _Pointer,
    count: SupportsIndex,
    numbers: _Pointer,
    numbers_count: SupportsIndex,
    /,
) -> int: ...
def sf_model_set_input_limit(
    model: _Handle, step: SupportsIndex, site: SupportsIndex, limit: float, /
) -> int: ...
def sf_model_record_inputs(
    model: _Handle,
    step: SupportsIndex,
    site: SupportsIndex,
    buffer: _Pointer,
    floats: SupportsIndex,
    /,
) -> int: ...
def sf_model_eval(
    model: _Handle,
    sessions: _Pointer,
    tokens: _Pointer,
    wanted: _Pointer,
    n: SupportsIndex,
    mode: SupportsIndex,
    phase: SupportsIndex,
    logits: _Pointer,
    logits_count: SupportsIndex,
    /,
) -> int: ...
def sf_model_missing(model: _Handle, layer: _Pointer, ids: _Pointer, /) -> int: ...
def sf_model_resume(model: _Handle, logits: _Pointer, /) -> int: ...
def sf_session_open(out: _Pointer, model: _Handle, context: SupportsIndex, /) -> int: ...
def sf_session_close(session: _Handle, /) -> int: ...
def sf_session_eval(
    session: _Handle,
    tokens: _Pointer,
    n: SupportsIndex,
    mode: SupportsIndex,
    phase: SupportsIndex,
    logits: _Pointer,
    logits_count: SupportsIndex,
    /,
) -> int: ...
def sf_session_position(session: _Handle, /) -> int: ...
def sf_session_saved_bytes(session: _Handle, /) -> int: ...
def sf_session_save(session: _Handle, data: _Pointer, bytes: SupportsIndex, /) -> int: ...
def sf_session_restore(
    session: _Handle,
    data: _Pointer,
    bytes: SupportsIndex,
    position: SupportsIndex,
    k_format: SupportsIndex,
    v_format: SupportsIndex,
    /,
) -> int: ...
def sf_session_truncate(session: _Handle, position: SupportsIndex, /) -> int: ...
def sf_session_earliest(session: _Handle, /) -> int: ...
def sf_session_counts(session: _Handle, selected: _Pointer, active: _Pointer, /) -> int: ...
def sf_session_set_head(
    session: _Handle, head: SupportsIndex, ids: _Pointer, count: SupportsIndex, /
) -> int: ...
def sf_session_head_counts(session: _Handle, tokens: _Pointer, rows: _Pointer, /) -> int: ...
def sf_session_input_counts(session: _Handle, inputs: _Pointer, chosen: _Pointer, /) -> int: ...
def sf_session_tap(
    session: _Handle, kind: SupportsIndex, buffer: _Pointer, floats: SupportsIndex, /
) -> int: ...
def sf_session_activity(session: _Handle, counts: _Pointer, bytes: SupportsIndex, /) -> int: ...
