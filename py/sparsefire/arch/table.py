"""The architectures that are supported, by their names in files."""

from __future__ import annotations

from . import (
    afmoe,
    deci,
    decoder,
    deepseek2,
    delta_net,
    dense,
    encoder,
    gemma3n,
    granite_hybrid,
    grovemoe,
    lfm2,
    llama4,
    looped,
    mamba,
    mamba2,
    nemotron_h,
    phimoe,
    rwkv,
    smallthinker,
    sparse,
    t5,
)
from .architecture import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    **decoder.ROWS,
    **dense.ROWS,
    **sparse.ROWS,
    **encoder.ROWS,
    **t5.ROWS,
    **deci.ROWS,
    **looped.ROWS,
    **mamba.ROWS,
    **granite_hybrid.ROWS,
    **lfm2.ROWS,
    **delta_net.ROWS,
    **afmoe.ROWS,
    **deepseek2.ROWS,
    **gemma3n.ROWS,
    **grovemoe.ROWS,
    **llama4.ROWS,
    **smallthinker.ROWS,
    **nemotron_h.ROWS,
    **phimoe.ROWS,
    **mamba2.ROWS,
    **rwkv.ROWS,
}
