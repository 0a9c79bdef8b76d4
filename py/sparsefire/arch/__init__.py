"""What a model file says: architecture, keys, tensors, rotary positions."""
