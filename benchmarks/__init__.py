"""Measurements of the package; never imported by it."""
