"""Size, error and speed of weight formats on one layer.

    python examples/quantization.py [--layer N]

Quantises the weights of a feed-forward layer of the embedded model to each format, and compares
size, error and time of the layer. Then shows the error of transposing a quantised matrix, and how
to import integers of another quantisation scheme.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt

import sparsefire as sf
from sparsefire.weights.formats import WRITTEN_FORMATS

Array = npt.NDArray[np.floating]


def relative(found: Array, wanted: Array) -> float:
    """‖difference‖ / ‖wanted‖."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def microseconds(ffn: sf.SparseFfn, x: Array, mode: str) -> float:
    """Median time of a vector."""
    times = []
    for _ in range(50):
        started = time.perf_counter()
        ffn.forward(x, mode=mode)
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times))


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layer", type=int, default=2, metavar="N")
    options = parser.parse_args()

    with sf.Model.load() as model:
        text = "".join(model.generate("We the people", 80, temperature=0))
        inputs = model.ffn_inputs(model.tokenize(text))[:, options.layer]
        gate, up, down = (
            each.dequantize() for each in model.ffns[options.layer].matrices if each is not None
        )
    layers = {name: sf.SparseFfn(up, down.T, gate=gate, format=name) for name in WRITTEN_FORMATS}
    wanted = layers["f32"].forward_dense(inputs)
    print(f"layer {options.layer}: {layers['f32']}, on {sf.backend()}\n")
    print(f"{'format':8}{'bits':>6}{'bytes':>12}{'weights':>10}{'output':>10}{'dense µs':>10}"
          f"{'exact µs':>10}")  # fmt: skip
    for name, ffn in layers.items():
        weights = sf.QuantizedWeights.quantize(gate, name)
        print(
            f"{name:8}{weights.bits_per_weight:6.1f}{ffn.nbytes:12,}"
            f"{weights.error(gate).relative:10.1e}"
            f"{relative(ffn.forward_dense(inputs), wanted):10.1e}"
            f"{microseconds(ffn, inputs[0], 'dense'):10.1f}"
            f"{microseconds(ffn, inputs[0], 'exact'):10.1f}"
        )
    print(
        "\nErrors are ‖difference‖ / ‖original‖ of the gate's weights and of the layer's output. "
        "(This model is\nstored in Q8_0, so Q8_0 gives back the very same weights.) Fewer bytes "
        "are faster where a layer does\nnot fit in the processor's caches and reading it is what "
        "takes the time; in this small one, unpacking counts too."
    )

    random = np.random.default_rng(0)
    values = random.standard_normal((512, 1024)).astype(np.float32)
    once = sf.QuantizedWeights.quantize(values, "q8_0")
    twice = once.transpose()
    before, after = once.error(values).relative, twice.error(values.T).relative
    print(
        f"\nA layer stores its down matrix transposed, one row per neuron. Transposing a Q8_0 "
        f"matrix requantises it:\nerror {before:.2e} before, {after:.2e} after, that is "
        f"{after / before:.2f} times as much. F32, F16 and BF16 lose nothing."
    )

    packed = random.integers(0, 256, 256 * 64, dtype=np.uint8)
    scales = random.uniform(0.01, 0.02, 256 * 128 // 64).astype(np.float32)
    zeros = random.integers(4, 12, len(scales))
    weights = sf.QuantizedWeights.int4(packed, scales, zeros, 64, (256, 128))
    halves = np.stack((packed & 15, packed >> 4), axis=1).reshape(-1, 64).astype(np.float64)
    meant = ((halves - zeros[:, None]) * scales[:, None]).reshape(256, 128)
    print(
        f"\n4-bit integers with a zero point per 64 weights are imported as {weights}:\nthe "
        f"integers fit in its bytes, so only the scales are rounded, error "
        f"{weights.error(meant).relative:.1e}."
    )


if __name__ == "__main__":
    main()
