"""torch -> ONNX: graphs, precision, parity with the checkpoint, and the bundle made of them."""
