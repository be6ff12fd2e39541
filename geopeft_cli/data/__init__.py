"""Clouds from wherever they come, as batches of one size."""
