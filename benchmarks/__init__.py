"""Measurements. A package, so that a benchmark may have the name of a page."""
