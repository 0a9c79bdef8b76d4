"""Checked reading of the keys of a model file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._shown import shown_value
from ..errors import ModelFileError, UnsupportedError
from ..gguf.reader import GgufFile

REPAIR = "the file is damaged, or was not converted for this architecture"


class Keys:
    """Reads `<architecture>.*` keys; errors say what was expected."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self._file = file
        self._prefix = architecture

    def value(self, name: str, default: Any = None) -> Any:
        """The value of the key, or the default."""
        return self._file.metadata.get(f"{self._prefix}.{name}", default)

    def has_tensor(self, name: str) -> bool:
        """Whether the file has the tensor, named in full."""
        return name in self._file.tensors

    def _required(self, name: str, default: Any) -> Any:
        value = self.value(name, default)
        if value is None:
            raise ModelFileError(
                f"{self._file.name}: key '{self._prefix}.{name}' is missing; {REPAIR}"
            )
        return value

    def fail(self, name: str, problem: str) -> ModelFileError:
        """The error for a key without a plausible value."""
        return ModelFileError(f"{self._file.name}: key '{self._prefix}.{name}' {problem}")

    def unsupported(self, name: str) -> UnsupportedError:
        """The error for a key that requires something the core does not compute."""
        value = shown_value(self.value(name))
        return UnsupportedError(
            f"{self._file.name}: key '{self._prefix}.{name}' is {value}, which is not supported"
        )

    def integer(self, name: str, most: int, default: int | None = None, least: int = 1) -> int:
        """An integer from `least` to `most`. An array of equal ones, one a layer, counts as one; 0
        below `least` as none."""
        value = self._required(name, default)
        if isinstance(value, np.ndarray) and value.size:
            if not (value == value[0]).all():
                raise UnsupportedError(
                    f"{self._file.name}: key '{self._prefix}.{name}' differs between layers, "
                    "which is not supported"
                )
            value = value[0].item()
        if value == 0 and least > 0 and default is not None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.fail(
                name, f"is {shown_value(value)}; expected a whole number from {least} to {most}"
            )
        return value

    def per_layer(
        self, name: str, layers: int, most: int, default: int | None = None
    ) -> tuple[int, ...]:
        """An integer from 0 to `most` for each layer: the key's array, or its one integer."""
        value = self._required(name, default)
        values = list(value) if isinstance(value, np.ndarray) else [value] * layers
        for each in values[:layers]:
            if not isinstance(each, (int, np.integer)) or not 0 <= each <= most:
                raise self.fail(
                    name, f"has {shown_value(each)}; expected whole numbers from 0 to {most}"
                )
        if len(values) < layers:
            raise self.fail(name, f"has {len(values)} entries for {layers} layers")
        return tuple(int(each) for each in values[:layers])

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from `low` to `high`."""
        value = self._required(name, default)
        number = float(value) if isinstance(value, (int, float)) else math.nan
        if not low <= number <= high:
            raise self.fail(
                name, f"is {shown_value(value)}; expected a number from {low} to {high}"
            )
        return number

    def number_of(self, name: str, layer: int, low: float, high: float, default: float) -> float:
        """A finite number from `low` to `high` of a layer: of the key's array, or its one."""
        value = self.value(name, default)
        if isinstance(value, np.ndarray):
            value = value[layer].item() if layer < len(value) else None
        number = float(value) if isinstance(value, (int, float)) else math.nan
        if not low <= number <= high:
            raise self.fail(
                name, f"is {shown_value(value)} for layer {layer}; expected {low} to {high}"
            )
        return number

    def text(self, name: str) -> str | None:
        """A text, or None when the key is missing."""
        value = self.value(name)
        if value is not None and not isinstance(value, str):
            raise self.fail(name, f"is {shown_value(value)}; expected a text")
        return value
