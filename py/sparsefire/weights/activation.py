"""Activation functions by name, and their codes in the core."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import numpy.typing as npt

from .._options import checked, instance, number, text
from ..core.core import Core
from ..core.enums import Activation
from ..core.hosts import get_core
from ..errors import ArgumentError


class ActivationType(StrEnum):
    """An activation function; each member is also its name.

    ``ActivationType("gelu")`` accepts the names that frameworks use as well:
    ``gelu`` is the erf form, ``gelu_pytorch_tanh`` the tanh form, ``swish`` is SiLU and
    ``relu_squared`` is ReLU². ``silu_clamped`` is gpt-oss's: c · sigmoid(1.702 c), c = min(v, 7),
    and in a gated layer up is min(max(v, -7), 7) + 1. ``silu_limited`` is SiLU of min(v, limit),
    ``silu_capped`` min(SiLU, limit), and up is min(max(v, -limit), limit); ``situ`` is Kimi K3's
    β · tanh(v / β) · sigmoid(v), and up is β' · tanh(v / β'). An unknown name is an
    `ArgumentError`.
    """

    IDENTITY = "identity"
    RELU = "relu"
    RELU2 = "relu2"
    SILU = "silu"
    GELU_TANH = "gelu_tanh"
    GELU_ERF = "gelu_erf"
    FATRELU = "fatrelu"
    SILU_CLAMPED = "silu_clamped"
    SILU_LIMITED = "silu_limited"
    SILU_CAPPED = "silu_capped"
    SITU = "situ"

    @classmethod
    def _missing_(cls, value: object) -> ActivationType:
        if isinstance(value, str):
            name = value.strip().lower().replace("-", "_")
            name = _ALIASES.get(name, name)
            for member in cls:
                if member.value == name:
                    return member
        known = ", ".join(member.value for member in cls)
        raise ArgumentError(f"unknown activation {value!r}; known ones: {known}")

    @classmethod
    def of(cls, value: str | ActivationType, name: str = "activation") -> ActivationType:
        """The activation of a name; `ArgumentError` for anything else."""
        return cls(text(value, name))

    @property
    def code(self) -> int:
        """The activation's code in the C core."""
        return Activation[self.name]

    @property
    def has_limit(self) -> bool:
        """True if its parameter is a limit, without which it means nothing."""
        return self in (
            ActivationType.SILU_LIMITED,
            ActivationType.SILU_CAPPED,
            ActivationType.SITU,
        )

    @property
    def is_relu_family(self) -> bool:
        """True if the activation is exactly zero on a half-line, so that exact sparse inference
        is possible (ReLU, ReLU² and FATReLU)."""
        return self in (ActivationType.RELU, ActivationType.RELU2, ActivationType.FATRELU)

    @checked(parameter=number, core=instance(Core))
    def apply(
        self, x: npt.ArrayLike, parameter: float = 0.0, core: Core | None = None
    ) -> npt.NDArray[np.float32]:
        """Applies the activation to every element of ``x`` (any shape); float32 of that shape.

        ``parameter`` is FATReLU's threshold, or the limit of those that have one, and ignored by
        others. NaN or infinity in ``x`` raises `NotFiniteError`.
        """
        return self._applied(self.code, x, parameter, core or get_core())

    def apply_to_up(
        self, x: npt.NDArray[np.float32], parameter: float, core: Core
    ) -> npt.NDArray[np.float32]:
        """What becomes of up beside a gate with this activation; arguments as `apply`."""
        code = _BESIDE.get(self)
        return x if code is None else self._applied(code, x, parameter, core)

    def _applied(
        self, code: int, x: npt.ArrayLike, parameter: float, core: Core
    ) -> npt.NDArray[np.float32]:
        values = np.ascontiguousarray(x, dtype=np.float32)
        result = np.empty_like(values)
        if values.size:
            core.check(
                "sf_activate",
                core.context,
                code,
                parameter,
                core.inp(values.reshape(-1)),
                values.size,
                core.out(result.reshape(-1)),
                what=f"activation {self.value}",
            )
        return result


_BESIDE = {
    ActivationType.SILU_CLAMPED: Activation.CLAMPED,
    ActivationType.SILU_LIMITED: Activation.LIMITED,
    ActivationType.SILU_CAPPED: Activation.LIMITED,
    ActivationType.SITU: Activation.CAPPED,
}
_ALIASES = {
    "linear": "identity",
    "none": "identity",
    "relu_squared": "relu2",
    "squared_relu": "relu2",
    "sqrelu": "relu2",
    "relu^2": "relu2",
    "swish": "silu",
    "gelu": "gelu_erf",
    "gelu_exact": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
