"""The plan of a model: the steps that a token passes, and the tensors that they use. An
architecture writes it, and the loader puts it into the core."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .._arrays import FloatArray
from .._options import DEFAULT_KV_FORMAT
from ..core.enums import Limit, Mask, Norm, Repeat, Route, StepName
from ..weights.activation import ActivationType
from ..weights.formats import weight_format
from .rope import Rope
from .screen import Screen

_ANY = 1 << 31  # tokens: more than any session has
_RECURRENT = {StepName.STEP_CONVOLUTION, StepName.STEP_RECURRENCE, StepName.STEP_POOL}


def _kept_bytes(name: str, dim: int) -> int:
    """Bytes of the keys, or values, of a head and a position, as the core keeps them."""
    kind = weight_format(name)
    return (kind if dim % kind.block == 0 else weight_format("f16")).row_bytes(dim)


@dataclass(frozen=True)
class Buffer:
    """Floats of each token: its number, and how many."""

    index: int
    width: int


@dataclass(frozen=True)
class Matrix:
    """Rows `first` … `first` + `rows` - 1 of a matrix of the file. The matrices of experts are one,
    below each other."""

    index: int
    name: str
    rows: int
    columns: int
    first: int
    integers: bool = False  # that the file stores as such


@dataclass(frozen=True, eq=False)
class Vector:
    """A vector of the file (`name`) or of the plan (`values`)."""

    index: int
    count: int
    name: str | None
    values: FloatArray | None
    taken: npt.NDArray[np.int64] | None = None  # places of its elements in the tensor; None: all


@dataclass(frozen=True)
class FfnLayer:
    """A feed-forward layer: its tensors are `{stack}blk.{block}.ffn_*{suffix}`, but for those that
    `names` gives other ones."""

    block: int
    suffix: str
    hidden: int
    gated: bool
    activation: ActivationType
    names: tuple[tuple[str, str], ...] = ()  # such as ("ffn_up", "channel_mix_key")
    biases: bool = True  # those of the file are used
    deviations: float = 0.0  # gates are cut by, see `SparseFfn.set_gate_deviations`
    stack: str = ""
    parameter: float = 0.0  # of the activation
    up_parameter: float = 0.0  # of what becomes of up beside the gate

    @property
    def fused(self) -> bool:
        """Whether gate and up are one matrix, the one above the other."""
        return ("ffn_gate", f"ffn_up{self.suffix}") in self.names

    @property
    def skips(self) -> bool:
        """Whether neurons are exactly 0, and need not be computed."""
        return self.activation.is_relu_family or self.deviations > 0


@dataclass(frozen=True)
class ExpertLayer:
    """A layer of experts: `count` of `width` neurons, in the tensors of these names (without
    ".weight"; gate None: ungated)."""

    block: int
    count: int
    width: int
    gate: str | None
    up: str
    down: str
    activation: ActivationType
    biases: bool
    parameter: float = 0.0  # of the activation
    up_parameter: float = 0.0  # of what becomes of up beside the gate

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its tensors, gate, up and down."""
        return tuple(dict.fromkeys(name for name in (self.gate, self.up, self.down) if name))

    @property
    def hidden(self) -> int:
        """The neurons of all experts."""
        return self.count * self.width

    @property
    def skips(self) -> bool:
        """Whether neurons are exactly 0, and need not be computed."""
        return self.activation.is_relu_family

    def predictor(self, part: str) -> str:
        """The name of a tensor of the experts' predictors: "p.weight", "q.weight" or "bias". Only
        the experts of the usual name can have them."""
        separator = "." if part == "bias" else "_"
        return f"blk.{self.block}.ffn_predictor_exps{separator}{part}"

    @property
    def usual(self) -> bool:
        """Whether they are the experts of the usual name of their block."""
        return self.up == f"blk.{self.block}.ffn_up_exps"


Layer: TypeAlias = FfnLayer | ExpertLayer


@dataclass(frozen=True)
class Step:
    """A step with its arguments, as `sf_model_add_step` takes them."""

    name: StepName
    arguments: tuple[int, ...]
    numbers: tuple[float, ...]


@dataclass
class Plan:
    """A plan, and the functions that extend it. Those that name tensors note their shapes in
    `tensors`; `widths[i]` is that of buffer i, of which buffer 0 holds the logits."""

    vocab: int
    d: int
    widths: list[int] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    vectors: list[Vector] = field(default_factory=list)
    ropes: list[tuple[Rope, str | None]] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    screen: Screen | None = None
    proven: bool = False  # the head has a copy of its matrix in the place of a screen

    def __post_init__(self) -> None:
        self.logits = self.buffer(self.vocab)
        self._matrices: dict[str, Matrix] = {}
        self._vectors: dict[str, Vector] = {}

    @property
    def types(self) -> int:
        """How many types of tokens there are."""
        steps = [each for each in self.steps if each.name == StepName.STEP_TYPE]
        return self.matrices[steps[0].arguments[1]].rows if steps else 1

    @property
    def back(self) -> int:
        """Tokens that a session can go back in any case; see `sf_session_earliest`."""
        if {step.name for step in self.steps} & _RECURRENT:
            return 0
        return int(Limit.BACK) if any(self._windows().values()) else _ANY

    def _windows(self) -> dict[int, int]:
        """Of each step that keeps keys and values, by its place, the positions that a token sees of
        them at most; 0: any number."""
        windows: dict[int, int] = {}
        for place, step in enumerate(self.steps):
            if step.name == StepName.STEP_ATTENTION:
                window, mask, source = (step.arguments[each] for each in (7, 8, -1))
                if mask == Mask.MASK_BOTH:  # its passes need all of a text
                    return {}
                limited = window > 0 and mask in (Mask.MASK_CAUSAL, Mask.MASK_CHUNKED)
                owner = source if source >= 0 else place
                widest = windows.setdefault(owner, window)
                windows[owner] = max(widest, window) if limited and widest else 0
        return windows

    def session_bytes(
        self, tokens: int, kv_formats: tuple[str, str] = (DEFAULT_KV_FORMAT, DEFAULT_KV_FORMAT)
    ) -> int:
        """What a session of so many tokens keeps: keys and values of each or, where tokens see a
        window alone, of the last ones, in these formats, and recurrent states."""
        floats = kept = 0
        windows = self._windows()
        for place, step in enumerate(self.steps):
            name, arguments = step.name, step.arguments
            if name == StepName.STEP_ATTENTION and arguments[-1] < 0:
                kv_heads, k_dim, v_dim, window, mask = arguments[4:9]
                rows = tokens // window if mask == Mask.MASK_POOLED else tokens
                if seen := windows.get(place, 0):
                    rows = min(rows, seen + Limit.BACK + Limit.BATCH)
                pairs = zip(kv_formats, (k_dim, v_dim), strict=True)
                kept += kv_heads * rows * sum(_kept_bytes(*each) for each in pairs)
            elif name == StepName.STEP_POOL:
                width, d = self.widths[arguments[0]], self.widths[arguments[3]]
                floats += 3 * (width if width == d else width + d)
            elif name == StepName.STEP_CONVOLUTION:
                floats += (arguments[4] - 1) * self.widths[arguments[0]]
            elif name == StepName.STEP_RECURRENCE:
                floats += arguments[8] * self.widths[arguments[2]]
        return 4 * floats + kept

    # -- what steps use ----------------------------------------------------------------------------

    def buffer(self, width: int) -> Buffer:
        """A new buffer."""
        self.widths.append(width)
        return Buffer(len(self.widths) - 1, width)

    def matrix(
        self,
        name: str,
        shape: tuple[int, ...],
        part: tuple[int, int] | None = None,
        *,
        integers: bool = False,
    ) -> Matrix:
        """A tensor (…, rows, columns); dimensions before the last two count as rows. `part`: only
        these rows, the first and how many."""
        first, rows = part or (0, math.prod(shape[:-1]))
        key = f"{name} {first} {rows}"
        if key not in self._matrices:
            self.tensors[name] = shape
            matrix = Matrix(len(self.matrices), name, rows, shape[-1], first, integers)
            self._matrices[key] = matrix
            self.matrices.append(matrix)
        return self._matrices[key]

    def vector(
        self, name: str, shape: int | tuple[int, ...], taken: npt.NDArray[np.int64] | None = None
    ) -> Vector:
        """A tensor as a vector: its elements in their order, or those at the places `taken`."""
        if name not in self._vectors:
            full = (shape,) if isinstance(shape, int) else shape
            self.tensors[name] = full
            count = math.prod(full) if taken is None else taken.size
            self._vectors[name] = Vector(len(self.vectors), count, name, None, taken)
            self.vectors.append(self._vectors[name])
        return self._vectors[name]

    def constant(self, values: FloatArray) -> Vector:
        """A vector that is not in the file."""
        vector = Vector(
            len(self.vectors), values.size, None, np.asarray(values, np.float32).ravel()
        )
        self.vectors.append(vector)
        return vector

    def rope(self, rope: Rope, factors: str | None = None) -> int:
        """The number of a rotary embedding. factors: a tensor (dims / 2) by which its frequencies
        are divided too."""
        if factors is not None:
            self.tensors[factors] = (rope.dims // 2,)
        if (rope, factors) not in self.ropes:
            self.ropes.append((rope, factors))
        return self.ropes.index((rope, factors))

    def layer(self, layer: Layer) -> int:
        """The number of a feed-forward layer, which may be used again."""
        if layer in self.layers:
            return self.layers.index(layer)
        self.layers.append(layer)
        return len(self.layers) - 1

    # -- steps -------------------------------------------------------------------------------------

    def step(self, name: StepName, *arguments: int, numbers: tuple[float, ...] = ()) -> int:
        """Adds a step; its place in the plan."""
        self.steps.append(Step(name, arguments, numbers))
        return len(self.steps) - 1

    def position(self, out: Buffer, matrix: Matrix) -> None:
        """Out = the row of the token's position."""
        self.step(StepName.STEP_POSITION, out.index, matrix.index)

    def type(self, out: Buffer, matrix: Matrix) -> None:
        """Out = the row of the token's type."""
        self.step(StepName.STEP_TYPE, out.index, matrix.index)

    def embed(self, out: Buffer, matrix: Matrix, scale: float = 1.0) -> None:
        """Out = the row of the token, times a factor."""
        self.step(StepName.STEP_EMBED, out.index, matrix.index, numbers=(scale,))

    def norm(
        self,
        x: Buffer,
        out: Buffer,
        weight: Vector | None,
        epsilon: float,
        *,
        bias: Vector | None = None,
        kind: Norm = Norm.NORM_RMS,
        groups: int = 1,
    ) -> None:
        """Normalises each of the groups that x is divided into."""
        if weight is None and kind != Norm.NORM_L2:
            weight = self.repeated((1.0,), x.width // groups)
        arguments = x.index, out.index, _index(weight), _index(bias), int(kind), groups
        self.step(StepName.STEP_NORM, *arguments, numbers=(epsilon,))

    def repeated(self, values: tuple[float, ...], count: int) -> Vector:
        """A vector that holds the values `count` times."""
        name = f"{values} {count}"
        if name not in self._vectors:
            self._vectors[name] = self.constant(np.tile(np.array(values, np.float32), count))
        return self._vectors[name]

    def products(self, x: Buffer, *products: tuple[Matrix, Vector | None, Buffer]) -> None:
        """Out = matrix · x + bias, for up to five together."""
        arguments = [x.index]
        for matrix, bias, out in products:
            arguments += [matrix.index, _index(bias), out.index]
        self.step(StepName.STEP_PRODUCTS, *arguments)

    def head_products(self, x: Buffer, matrix: Matrix, out: Buffer, heads: int) -> None:
        """Each head of x by its own part of the matrix."""
        self.step(StepName.STEP_HEAD_PRODUCTS, x.index, matrix.index, out.index, heads)

    def head(self, x: Buffer, matrix: Matrix, bias: Vector | None) -> None:
        """The logits: matrix · x + bias, or those of the screen and its best rows."""
        screen, rows = (-1, 0) if self.screen is None else (0, self.screen.rows)
        if self.proven:
            screen, rows = 0, 1
        arguments = x.index, matrix.index, _index(bias), screen, rows
        self.step(StepName.STEP_HEAD, *arguments, self.logits.index)

    def rotate(self, x: Buffer, rope: int, heads: int, halves: bool, first: int = 0) -> None:
        """Rotates pairs of each head of x, from element `first` of a head on."""
        self.step(StepName.STEP_ROPE, x.index, rope, heads, first, int(halves))

    def scale(self, x: Buffer, factor: float) -> None:
        """Multiplies x, unless the factor is 1."""
        if factor != 1:
            self.step(StepName.STEP_SCALE, x.index, numbers=(factor,))

    def temperature(self, x: Buffer, factor: float, length: int, offset: int = 0) -> None:
        """Multiplies x by 1 + factor · ln(⌊(position + offset) / length⌋ + 1)."""
        self.step(StepName.STEP_TEMPERATURE, x.index, length, offset, numbers=(factor,))

    def cap(self, x: Buffer, cap: float) -> None:
        """x = cap · tanh(x / cap), unless the cap is 0."""
        if cap:
            self.step(StepName.STEP_CAP, x.index, numbers=(cap,))

    def clamp(self, x: Buffer, limit: float) -> None:
        """x = min(max(x, -limit), limit)."""
        self.step(StepName.STEP_CLAMP, x.index, numbers=(limit,))

    def add(self, a: Buffer, b: Buffer | Vector, out: Buffer, repeat: Repeat = Repeat.TILE) -> None:
        """Out = a + b."""
        self._pair(StepName.STEP_ADD, StepName.STEP_ADD_VECTOR, a, b, out, repeat)

    def multiply(
        self, a: Buffer, b: Buffer | Vector, out: Buffer, repeat: Repeat = Repeat.TILE
    ) -> None:
        """Out = a · b."""
        self._pair(StepName.STEP_MULTIPLY, StepName.STEP_MULTIPLY_VECTOR, a, b, out, repeat)

    def _pair(
        self,
        buffers: StepName,
        vector: StepName,
        a: Buffer,
        b: Buffer | Vector,
        out: Buffer,
        repeat: Repeat,
    ) -> None:
        name = buffers if isinstance(b, Buffer) else vector
        self.step(name, a.index, b.index, out.index, int(repeat))

    def map(self, x: Buffer, out: Buffer, function: int) -> None:
        """Out = function(x), an `Activation` or `Function` of the core."""
        self.step(StepName.STEP_MAP, x.index, out.index, int(function))

    def copy(
        self,
        x: Buffer,
        out: Buffer,
        *,
        count: int = 1,
        width: int,
        first: tuple[int, int] = (0, 0),
        stride: tuple[int, int] = (0, 0),
    ) -> None:
        """Copies `count` runs of `width` floats; first and stride are of x and of out."""
        arguments = first[0], stride[0], first[1], stride[1]
        self.step(StepName.STEP_COPY, x.index, out.index, count, width, *arguments)

    def attention(
        self,
        q: Buffer,
        k: Buffer | None,
        v: Buffer | None,
        out: Buffer,
        *,
        kv_heads: int,
        k_dim: int,
        v_dim: int | None = None,
        window: int = 0,
        mask: Mask = Mask.MASK_CAUSAL,
        cap: float = 0.0,
        sinks: Vector | None = None,
        slopes: Vector | None = None,
        biases: Vector | None = None,
        source: int | None = None,
    ) -> int:
        """Softmax(q · Kᵀ) · V; its place, which a later step may name as its source."""
        return self.step(
            StepName.STEP_ATTENTION,
            q.index,
            _index(k),
            _index(v),
            out.index,
            kv_heads,
            k_dim,
            k_dim if v_dim is None else v_dim,
            window,
            int(mask),
            _index(sinks),
            _index(slopes),
            _index(biases),
            -1 if source is None else source,
            numbers=(cap,),
        )

    def pool(self, x: Buffer, scores: Buffer, biases: Vector, out: Buffer, tokens: int) -> None:
        """Out = sums of x over runs of so many tokens, at the last of each."""
        arguments = x.index, scores.index, biases.index, out.index, tokens
        self.step(StepName.STEP_POOL, *arguments)

    def mark(self, ids: Buffer, out: Buffer) -> None:
        """Out = 1 at the ids, else 0."""
        self.step(StepName.STEP_MARK, ids.index, out.index)

    def ffn(self, layer: int, x: Buffer, out: Buffer, hints: Buffer | None = None) -> None:
        """A feed-forward layer, whose predictor looks at the hints, or at x."""
        self.step(StepName.STEP_FFN, layer, x.index, _index(hints), out.index)

    def route(
        self,
        logits: Buffer,
        routes: Buffer,
        scoring: Route,
        *,
        bias: Vector | None = None,
        groups: int = 1,
        groups_used: int = 1,
        normalised: bool = False,
        scale: float = 1.0,
    ) -> None:
        """Chooses routes.width / 2 experts by their logits."""
        arguments = logits.index, routes.index, _index(bias), int(scoring), groups, groups_used
        self.step(StepName.STEP_ROUTE, *arguments, int(normalised), numbers=(scale,))

    def experts(
        self,
        layer: int,
        x: Buffer,
        routes: Buffer,
        out: Buffer,
        *,
        before: bool = False,
        share: int = 1,
    ) -> None:
        """The chosen experts' sum; `before`: their weights multiply x, not what they make of it.
        So many of the router's experts, `share`, have one of the layer together."""
        arguments = layer, x.index, routes.index, out.index, int(before), share
        self.step(StepName.STEP_EXPERTS, *arguments)

    def convolution(
        self, x: Buffer, weight: Vector, out: Buffer, bias: Vector | None = None
    ) -> None:
        """Each element of x by itself over its values at the last tokens, with weights (x.width,
        taps), the oldest first."""
        arguments = x.index, weight.index, _index(bias), out.index, weight.count // x.width
        self.step(StepName.STEP_CONVOLUTION, *arguments)

    def recurrence(
        self,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        decay: Buffer,
        out: Buffer,
        *,
        heads: int,
        keys: int,
        removed: tuple[Buffer, Buffer] | None = None,
        before: bool = False,
    ) -> None:
        """Linear attention: each head has a state S (keys, values), of which row i becomes
        decay_i · S_i + k_i · v, and with `removed` = (a, b) also + b_i · Σ_j a_j · S_j of before.
        Out = Σ_i q_i · S_i of the new state, or of that `before` the token. q, k, a and b may be
        for groups of heads; decay is of each key, or one of a head."""
        a, b = removed or (None, None)
        arguments = q.index, k.index, v.index, decay.index, _index(a), _index(b), out.index
        self.step(StepName.STEP_RECURRENCE, *arguments, heads, keys, int(before))

    def head_dots(self, a: Buffer, b: Buffer, out: Buffer) -> None:
        """Out = a · b of each of out.width heads."""
        self.step(StepName.STEP_HEAD_DOTS, a.index, b.index, out.index)

    def mix(self, x: Buffer, weights: Buffer, out: Buffer, streams: int) -> None:
        """Out (outs, dim) = weights (outs, streams) · x (streams, dim)."""
        self.step(StepName.STEP_MIX, x.index, weights.index, out.index, streams)

    def softmax(
        self, x: Buffer, out: Buffer, columns: int, rounds: int = 0, epsilon: float = 0.0
    ) -> None:
        """Out = the softmax of each row of so many columns; with `rounds`, columns and rows are
        divided by their sums + epsilon in turn (Sinkhorn and Knopp 1967)."""
        arguments = x.index, out.index, columns, rounds
        self.step(StepName.STEP_SOFTMAX, *arguments, numbers=(epsilon,))

    def tap(self, x: Buffer, kind: int, place: int) -> None:
        """Lets x be recorded."""
        self.step(StepName.STEP_TAP, x.index, int(kind), place)

    def pick(self, x: Buffer) -> None:
        """What follows is only for tokens whose logits are wanted."""
        self.step(StepName.STEP_PICK, x.index)


def _index(of: Buffer | Vector | None) -> int:
    return -1 if of is None else of.index
