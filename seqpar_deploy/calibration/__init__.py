"""A calibrated probability and a state for every attribute. NumPy only: it runs on the edge."""
