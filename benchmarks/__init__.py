"""Measurements: each module prints figures and judges nothing, but for `faults`, which says what is reached."""
