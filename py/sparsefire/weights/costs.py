"""What passes that leave neurons out choose their way by."""

from __future__ import annotations

from ..core.core import Core
from ..core.hosts import get_core
from .quantized import weight_format


def set_costs(format: str, scattered: float, batched: float, *, core: Core | None = None) -> None:
    """Tells a core (default: the current one) what its ways of computing cost, for weights in
    ``format``. It then chooses the fastest one for each call, from the numbers of neurons alone;
    no choice changes a bit of a result.

    scattered: the time of a row that is read out of a list of neurons, over that of a row when all
      are read in order.
    batched: the time of a product of a row with one of several vectors at once, over that with a
      single vector.

    A core starts with values that were measured (see docs/results.md). Errors: `ArgumentError`
    (not above 0), `FormatError`.
    """
    core = core or get_core()
    code = weight_format(format).code
    what = f"costs {scattered}, {batched}"
    core.check("sf_context_set_costs", core.context, code, scattered, batched, what=what)
