"""Backends on NVIDIA GPUs: decoding on the device, engine files, and the runtimes that execute the graphs."""
