"""Loading a large model file."""

from __future__ import annotations

import time
from collections.abc import Iterator

import sparsefire as sf

from ..lib.big_model import BIG, TINY, plain_model
from ..lib.command import Effort
from ..lib.rows import Row
from ..lib.timing import Times


def rows(effort: Effort) -> Iterator[Row]:
    """Seconds to load a file of more than 1 GB that the system has in its cache."""
    path = plain_model(TINY if effort.quick else BIG)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        model = sf.Model.load(path, context=512)
        seconds.append(time.perf_counter() - began)
        model.close()
    times = Times(tuple(seconds))
    what = f"load {path.stat().st_size / 1e9:.2f} GB, seconds"
    yield Row("load", what, times.median, times)
