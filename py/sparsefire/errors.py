"""Every error that sparsefire raises on purpose is a `SparsefireError`. Its message names what is
wrong and, if there is one, the remedy."""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "BackendError",
    "CalibrationError",
    "ContextFullError",
    "CoreMemoryError",
    "FormatError",
    "ModelFileError",
    "NotFiniteError",
    "NotResidentError",
    "ShapeError",
    "SparsefireError",
    "UnsupportedError",
]


class SparsefireError(Exception):
    """Base class of every error of this package."""


class ArgumentError(SparsefireError, ValueError):
    """An argument is invalid: a negative count, an unknown name, a token id outside the
    vocabulary."""


class ShapeError(SparsefireError, ValueError):
    """Shapes do not match, or a buffer is too small for its shape."""


class FormatError(SparsefireError, ValueError):
    """A weight format is unknown, or the number of columns is not a multiple of its block."""


class ModelFileError(SparsefireError):
    """A model file is broken or incomplete; the message names the tensor, key or offset."""


class UnsupportedError(SparsefireError):
    """This machine, or this layout of weights, does not support the request."""


class NotFiniteError(SparsefireError, ValueError):
    """NaN or infinity in an input, or in a result."""


class ContextFullError(SparsefireError):
    """More tokens than the session's context holds."""


class NotResidentError(SparsefireError):
    """A requested neuron is not in the neuron cache."""


class BackendError(SparsefireError):
    """The core cannot run on the requested host; the message says which command fixes that."""


class CoreMemoryError(SparsefireError, MemoryError):
    """The core is out of memory."""


class CalibrationError(SparsefireError):
    """A predictor cannot be fitted to the samples given."""
