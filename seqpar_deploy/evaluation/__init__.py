"""The published metrics, from generated sequences and labels."""
