"""Scores of generated sequences against labels, by the published metrics."""
