"""Benchmarks of sparsefire: see README.md beside this file."""
