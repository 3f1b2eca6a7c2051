"""How good a model is: the scores the field publishes, from generated sequences and labels."""
