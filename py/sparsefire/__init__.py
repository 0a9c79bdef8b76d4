"""sparsefire: activation-sparse neural inference.

    import sparsefire as sf

    model = sf.Model.load()
    for piece in model.generate("The people of"):
        print(piece, end="", flush=True)
    print(sf.backend())

The same lines run on the native core, in wasmtime and in a browser; `use_backend` chooses.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if importlib.util.find_spec("numpy") is None:
    raise ImportError(
        "sparsefire needs numpy, which is not installed: run `pip install numpy`, or in Pyodide "
        "`await pyodide.loadPackage('numpy')` before sparsefire is imported",
        name="numpy",
    )

from .core.devices import Devices, devices
from .core.hosts import Backend, backend, use_backend
from .errors import (
    ArgumentError,
    BackendError,
    CalibrationError,
    ContextFullError,
    CoreMemoryError,
    FormatError,
    ModelFileError,
    NotFiniteError,
    NotResidentError,
    ShapeError,
    SparsefireError,
    UnsupportedError,
)

if TYPE_CHECKING:
    __version__: str

    from .calibrate.predictors import CalibrationReport, calibrate_model
    from .core.threads import enable_threads
    from .ffn.cache import NeuronCache
    from .ffn.cached import CachedFfn
    from .ffn.cutoff import CutoffReport
    from .ffn.layer import SparseFfn
    from .ffn.low_rank import LowRankPredictor
    from .ffn.predictor import Predictor
    from .ffn.sign_predictor import SignPredictor
    from .ffn.sparsity import SparsityConfig
    from .fit.predictor import PredictorReport
    from .lm.chat import ChatTemplate
    from .lm.generation import Cancel
    from .lm.model import Model
    from .lm.sampling import SamplerConfig
    from .weights.activation import ActivationType
    from .weights.quantized import QuantizedWeights

__all__ = [
    "ActivationType",
    "ArgumentError",
    "Backend",
    "BackendError",
    "CachedFfn",
    "CalibrationError",
    "CalibrationReport",
    "Cancel",
    "ChatTemplate",
    "ContextFullError",
    "CoreMemoryError",
    "CutoffReport",
    "Devices",
    "FormatError",
    "LowRankPredictor",
    "Model",
    "ModelFileError",
    "NeuronCache",
    "NotFiniteError",
    "NotResidentError",
    "Predictor",
    "PredictorReport",
    "QuantizedWeights",
    "SamplerConfig",
    "ShapeError",
    "SignPredictor",
    "SparseFfn",
    "SparsefireError",
    "SparsityConfig",
    "UnsupportedError",
    "__version__",
    "backend",
    "calibrate_model",
    "devices",
    "enable_threads",
    "use_backend",
]

# Public names whose modules are imported on first use, so that `import sparsefire` stays quick.
_LAZY = {
    "ActivationType": "weights.activation",
    "CachedFfn": "ffn.cached",
    "CalibrationReport": "calibrate.predictors",
    "Cancel": "lm.generation",
    "ChatTemplate": "lm.chat",
    "CutoffReport": "ffn.cutoff",
    "LowRankPredictor": "ffn.low_rank",
    "Model": "lm.model",
    "NeuronCache": "ffn.cache",
    "Predictor": "ffn.predictor",
    "PredictorReport": "fit.predictor",
    "QuantizedWeights": "weights.quantized",
    "SamplerConfig": "lm.sampling",
    "SignPredictor": "ffn.sign_predictor",
    "SparseFfn": "ffn.layer",
    "SparsityConfig": "ffn.sparsity",
    "calibrate_model": "calibrate.predictors",
    "enable_threads": "core.threads",
}


def _version() -> str:
    """The installed version; for a source tree that is not installed, the core's."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sparsefire")
    except PackageNotFoundError:
        return backend().version


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return globals().setdefault(name, _version())
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'sparsefire' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(__all__) | set(globals()))
