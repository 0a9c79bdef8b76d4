"""What `sparsefire bench` measures when no options say otherwise."""

# Inputs and neurons of a layer: those of Llama 2 7B, and half of each.
FFN_SHAPE = (4096, 11008)
CACHE_SHAPE = (2048, 5504)
CACHE_REPEATS = 200
# With this exponent and a tenth of the neurons active, the most frequent quarter accounts for
# nearly four fifths of the activations, as found in OPT-30B (PowerInfer; Song et al. 2024).
CACHE_EXPONENT = 1.2
ROOFLINE_REPEATS = 7
ROOFLINE_READ = 256 << 20  # bytes, more than caches hold
