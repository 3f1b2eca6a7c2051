"""Training: the loop, its recipes, what it writes."""
