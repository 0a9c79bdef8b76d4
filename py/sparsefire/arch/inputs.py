"""Input sparsity in model files: below which magnitude the inputs of a matrix are left out when
tokens are decoded in sparse mode (TEAL; Liu et al. 2024). The limits are in the model's file, or in
a companion file beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.enums import Site as CoreSite
from ..core.enums import StepName
from ..errors import ModelFileError
from ..gguf.reader import GgufFile
from .plan import FfnLayer, Plan
from .screen import LIMITS_KEY, NAMES_KEY, has_limits
from .tensors import ffn_tensor

FORMAT = "q4_0"  # of the matrices, the one format that has a column order


@dataclass(frozen=True)
class Site:
    """Inputs that one or more matrices share. ``name`` is the tensor of the first of them, by which
    files name the site; ``step`` and ``part`` are those of the plan, ``matrices`` the numbers of
    the plan's, for products of a step, and ``layer`` that of a feed-forward layer."""

    name: str
    step: int
    part: int
    width: int
    matrices: tuple[int, ...] = ()
    layer: int | None = None


def input_sites(plan: Plan) -> list[Site]:
    """The sites of a plan, in its order: the inputs of products, and of gate and up and of down in
    layers whose neurons are all computed."""
    sites: list[Site] = []
    for place, step in enumerate(plan.steps):
        if step.name == StepName.STEP_PICK:
            break
        if step.name == StepName.STEP_PRODUCTS:
            used = step.arguments[1::3]
            first = plan.matrices[used[0]]
            sites.append(Site(first.name, place, CoreSite.SITE_IN, first.columns, tuple(used)))
        elif step.name == StepName.STEP_FFN:
            index, x = step.arguments[0], step.arguments[1]
            layer = plan.layers[index]
            if isinstance(layer, FfnLayer) and not layer.skips:
                names = (ffn_tensor(layer, part) for part in ("ffn_up", "ffn_down"))
                widths = plan.widths[x], layer.hidden
                for part, (name, width) in enumerate(zip(names, widths, strict=True)):
                    sites.append(Site(name, place, part, width, layer=index))
    return sites


def read_limits(file: GgufFile) -> dict[str, float]:
    """The limits of a file by the tensors whose inputs they are for; none if it has none.
    `ModelFileError` if they are damaged."""
    if not has_limits(file):
        return {}
    names, limits = file.metadata.get(NAMES_KEY), file.metadata.get(LIMITS_KEY)
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or not isinstance(limits, np.ndarray)
        or limits.dtype.kind != "f"
        or limits.shape != (len(names),)
        or not (np.isfinite(limits) & (limits >= 0)).all()
    ):
        raise ModelFileError(
            f"{file.name}: keys {NAMES_KEY!r} and {LIMITS_KEY!r} must hold names and as many "
            "numbers from 0 on; calibrate the inputs again"
        )
    return dict(zip(names, limits.tolist(), strict=True))


def check_limits(file: GgufFile, plan: Plan, limits: dict[str, float]) -> None:
    """`ModelFileError` if a limit is for no site of the plan."""
    unknown = limits.keys() - {site.name for site in input_sites(plan)}
    if unknown:
        raise ModelFileError(
            f"{file.name}: key {NAMES_KEY!r} names {min(unknown)!r}, whose inputs are not those of "
            "a product that can leave some out; calibrate the inputs again"
        )
