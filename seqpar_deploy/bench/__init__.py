"""Benchmarks: variants timed against each other in one run, together with the machine's roofline."""
