"""What a call costs above the arithmetic: calls with an input and an output, but no vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np

from sparsefire.core import hosts
from sparsefire.core.core import Core
from sparsefire.errors import BackendError
from sparsefire.ffn.layer import SparseFfn

from ..lib.command import Effort
from ..lib.rows import Row
from ..lib.timing import interleave, ratio

_CALLS = 200


def rows(effort: Effort) -> Iterator[Row]:
    """Microseconds of one call into the core, with its input and output."""
    for host in ("native", "wasmtime"):
        try:
            core = hosts.open_core(host, threads=1)
        except BackendError:
            continue
        random = np.random.default_rng(0)
        up, down = random.standard_normal((8, 8)), random.standard_normal((8, 8))
        ffn = SparseFfn(up, down, "relu", core=core)
        x, y = np.ones(8, np.float32), np.empty(8, np.float32)
        x_in, y_out = core.inp(x), core.out(y)

        def call(
            n: int,
            core: Core = core,
            handle: SupportsIndex = ffn.handle,
            x: Any = x_in,
            y: Any = y_out,
        ) -> None:
            for _ in range(_CALLS):
                core.call("sf_ffn_forward", handle, 0, x, n, y, None, None)

        runs = {"empty": lambda _i: call(0), "again": lambda _i: call(0), "one": lambda _i: call(1)}
        times = interleave(runs, effort.seconds(2.0), 500)
        empty, one = (1e6 * times[each].median / _CALLS for each in ("empty", "one"))
        noise = ratio(times["again"], times["empty"])
        what = (
            f"{host}: a call of a layer without a vector, µs ({_CALLS} timed together; "
            f"{one:.2f} µs with one for 8 neurons)"
        )
        yield Row("calls", what, empty, times["empty"], noise=noise)
