"""PyTorch code: the network, the importer of published checkpoints, and the eager reference."""
