"""What `sparsefire bench` measures."""
