"""Fit a bundle's calibration on labelled people: maps, thresholds, and a held-out report. It needs SciPy in part."""
