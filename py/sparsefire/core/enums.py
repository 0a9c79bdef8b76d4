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
    BATCH = 128
    MAX_THREADS = 256
    MAX_NEURONS = 8388608
    BACK = 1024


class Peak(IntEnum):
    PEAK_FLOATS = 0
    PEAK_INTEGERS = 1
    PEAK_TILES = 2


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
    IQ2_XXS = 16
    IQ2_XS = 17
    IQ3_XXS = 18
    IQ1_S = 19
    IQ4_NL = 20
    IQ3_S = 21
    IQ2_S = 22
    IQ4_XS = 23
    IQ1_M = 29
    BF16 = 30
    TQ1_0 = 34
    TQ2_0 = 35
    MXFP4 = 39
    NVFP4 = 40


class Activation(IntEnum):
    IDENTITY = 0
    RELU = 1
    RELU2 = 2
    SILU = 3
    GELU_TANH = 4
    GELU_ERF = 5
    FATRELU = 6
    SILU_CLAMPED = 7
    CLAMPED = 8
    SILU_LIMITED = 9
    SILU_CAPPED = 10
    LIMITED = 11
    SITU = 12
    CAPPED = 13


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


class StepName(IntEnum):
    STEP_EMBED = 0
    STEP_NORM = 1
    STEP_PRODUCTS = 2
    STEP_HEAD_PRODUCTS = 3
    STEP_ROPE = 4
    STEP_SCALE = 5
    STEP_CAP = 6
    STEP_ADD = 7
    STEP_MULTIPLY = 8
    STEP_ADD_VECTOR = 9
    STEP_MULTIPLY_VECTOR = 10
    STEP_MAP = 11
    STEP_COPY = 12
    STEP_ATTENTION = 13
    STEP_FFN = 14
    STEP_ROUTE = 15
    STEP_EXPERTS = 16
    STEP_TAP = 17
    STEP_PICK = 18
    STEP_CONVOLUTION = 19
    STEP_RECURRENCE = 20
    STEP_HEAD_DOTS = 21
    STEP_TEMPERATURE = 22
    STEP_MIX = 23
    STEP_POSITION = 24
    STEP_CLAMP = 25
    STEP_HEAD = 26
    STEP_TYPE = 27
    STEP_SOFTMAX = 28
    STEP_POOL = 29
    STEP_MARK = 30


class Mask(IntEnum):
    MASK_CAUSAL = 0
    MASK_CHUNKED = 1
    MASK_BOTH = 2
    MASK_POOLED = 3


class Norm(IntEnum):
    NORM_RMS = 0
    NORM_LAYER = 1
    NORM_L2 = 2


class Function(IntEnum):
    SIGMOID = 16
    TANH = 17
    SOFTPLUS = 18
    EXP = 19
    SQRT = 20


class Repeat(IntEnum):
    TILE = 0
    SPREAD = 1


class Route(IntEnum):
    ROUTE_PLAIN = 0
    ROUTE_SOFTMAX = 1
    ROUTE_SIGMOID = 2
    ROUTE_SOFTMAX_CHOSEN = 3
    ROUTE_SPARSE_MIXER = 4


class Site(IntEnum):
    SITE_IN = 0
    SITE_DOWN = 1


class EvalStatus(IntEnum):
    WAITING = 1


class Phase(IntEnum):
    PROMPT = 0
    DECODE = 1


class Head(IntEnum):
    HEAD_DENSE = 0
    HEAD_SCREENED = 1


class Tap(IntEnum):
    TAP_FFN_INPUTS = 0
    TAP_HIDDEN = 1
