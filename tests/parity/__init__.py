"""Comparison of the package with recorded outputs of official code: golden sets, and the checker that reads them."""
