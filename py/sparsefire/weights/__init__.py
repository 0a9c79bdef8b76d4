"""Weight formats, quantised weights, matrices in the core, activations."""
