"""The cost models by which sparse passes and products choose a code path."""

from __future__ import annotations

from ..core.core import Core
from ..core.hosts import get_core
from .formats import weight_format


def set_costs(format: str, scattered: float, batched: float, *, core: Core | None = None) -> None:
    """Sets the relative costs of a core (default: the current one) for weights in ``format``. The
    core estimates from them, and from the number of neurons, which code path is the fastest. No
    choice changes a bit of a result.

    scattered: the time of reading a row of a list of neurons, relative to a row in sequential
      order.
    batched: the time of a row times one vector of a batch, relative to a single vector.

    A core starts with measured values. Errors: `ArgumentError` (not above 0), `FormatError`.
    """
    core = core or get_core()
    code = weight_format(format).code
    what = f"costs {scattered}, {batched}"
    core.check("sf_context_set_costs", core.context, code, scattered, batched, what=what)


def set_column_cost(chosen: float, fixed: float, *, core: Core | None = None) -> None:
    """Sets the cost of products that leave out inputs, relative to those by rows, for a core
    (default: the current one): with a share s of the inputs they take ``chosen`` · (``fixed`` + s)
    of the time. Where that is more than 1, all inputs are multiplied by rows, whose rounding is
    finer. A core starts with measured values. Errors: `ArgumentError` (``chosen`` not above 0,
    ``fixed`` below 0).
    """
    core = core or get_core()
    what = f"column costs {chosen}, {fixed}"
    core.check("sf_context_set_column_cost", core.context, chosen, fixed, what=what)
