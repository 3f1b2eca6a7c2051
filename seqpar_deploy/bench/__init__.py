"""Measuring: alternatives timed against each other in one run, with the machine they ran on."""
