"""Benchmarks in Chromium."""
