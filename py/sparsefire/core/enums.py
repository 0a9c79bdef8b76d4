"""The C core's enumerations. scripts/make_enums.py makes this module from sparsefire.h, which says
what each value means: a member is called as there, without "SF_"."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    OK = 0
    ERROR_ARGUMENT = -1
    ERROR_SHAPE = -2
    ERROR_FORMAT = -3
    ERROR_MEMORY = -4
    ERROR_UNSUPPORTED = -5
    ERROR_NOT_FINITE = -6
    ERROR_INCOMPLETE = -7
    ERROR_CONTEXT_FULL = -8
    ERROR_NOT_RESIDENT = -9


class Limit(IntEnum):
    BATCH = 32
    MAX_THREADS = 256
    MAX_NEURONS = 16777216


class WeightFormat(IntEnum):
    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    BF16 = 30
    MXFP4 = 39


class Activation(IntEnum):
    IDENTITY = 0
    RELU = 1
    RELU2 = 2
    SILU = 3
    GELU_TANH = 4
    GELU_ERF = 5
    FATRELU = 6


class Rule(IntEnum):
    RULE_THRESHOLD = 0
    RULE_TOP_K = 1


class DownLayout(IntEnum):
    DOWN_BY_NEURON = 0
    DOWN_BY_OUTPUT = 1


class Mode(IntEnum):
    DENSE = 0
    EXACT = 1
    SPARSE = 2


class Cutoff(IntEnum):
    CUTOFF_GATE = 0
    CUTOFF_PRODUCT = 1


class CachePolicy(IntEnum):
    CACHE_LRU = 0
    CACHE_LFU = 1
    CACHE_WINDOW = 2


class MatrixRole(IntEnum):
    TOKEN_EMBEDDING = 0
    OUTPUT = 1
    ATTENTION_Q = 2
    ATTENTION_K = 3
    ATTENTION_V = 4
    ATTENTION_OUTPUT = 5


class VectorRole(IntEnum):
    OUTPUT_NORM = 0
    ATTENTION_NORM = 1
    FFN_NORM = 2
    ROPE_FACTORS = 3
    OUTPUT_NORM_BIAS = 4
    ATTENTION_NORM_BIAS = 5
    FFN_NORM_BIAS = 6
    OUTPUT_BIAS = 7
    ATTENTION_Q_BIAS = 8
    ATTENTION_K_BIAS = 9
    ATTENTION_V_BIAS = 10
    ATTENTION_OUTPUT_BIAS = 11
    ATTENTION_Q_NORM = 12
    ATTENTION_K_NORM = 13
    ATTENTION_POST_NORM = 14
    FFN_POST_NORM = 15
    ATTENTION_SUB_NORM = 16


class NumberRole(IntEnum):
    NORM_KIND = 0
    ROPE_HALVES = 1
    ROPE_AMPLITUDE = 2
    EMBEDDING_SCALE = 3
    RESIDUAL_SCALE = 4
    LOGIT_SCALE = 5
    LOGIT_CAP = 6
    ATTENTION_SCALE = 7
    ATTENTION_CAP = 8
    ROPE_BASE = 9
    ATTENTION_WINDOW = 10
    PREDICTOR_INPUT = 11


class Norm(IntEnum):
    NORM_RMS = 0
    NORM_LAYER = 1


class EvalStatus(IntEnum):
    WAITING = 1


class Tap(IntEnum):
    TAP_FFN_INPUTS = 0
    TAP_HIDDEN = 1
