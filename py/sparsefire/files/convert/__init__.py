"""Converting Hugging Face checkpoints to GGUF."""
