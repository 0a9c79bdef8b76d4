"""What a call costs beside the arithmetic: a layer so small that there is none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rows import Row
from sparsefire import _core
from sparsefire.errors import BackendError
from sparsefire.ffn import SparseFfn
from timing import interleave, ratio

_CALLS = 200


def rows() -> Iterator[Row]:
    """Microseconds of one call into the core, with its input and output."""
    for host, target in (("native", 1.0), ("wasmtime", 6.0)):
        try:
            core = _core.open_core(host, threads=1)
        except BackendError:
            continue
        random = np.random.default_rng(0)
        up, down = random.standard_normal((8, 8)), random.standard_normal((8, 8))
        ffn = SparseFfn(up, down, "relu", core=core)
        x, y = np.ones(8, np.float32), np.empty(8, np.float32)
        x_in, y_out = core.inp(x), core.out(y)
        handle = ffn.handle

        def call(
            _i: int, core: _core.Core = core, args: tuple[object, ...] = (handle, 0, x_in, 1, y_out)
        ) -> None:
            for _ in range(_CALLS):
                core.call("sf_ffn_forward", *args, None, None)

        times = interleave({"calls": call, "again": call}, 2.0, 500)
        value = 1e6 * times["calls"].median / _CALLS
        noise = ratio(times["again"], times["calls"])
        what = f"{host}: one call of a layer, µs ({_CALLS} timed together)"
        yield Row("calls", what, value, target, times["calls"], noise=noise, at_most=True)
