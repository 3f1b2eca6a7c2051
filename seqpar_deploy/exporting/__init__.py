"""Export checkpoints as bundles: ONNX graphs, precision, and parity with the checkpoint."""
