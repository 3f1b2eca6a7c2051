"""NVIDIA GPUs: decoding on the device, the engines' files, and the runtimes that execute the graphs."""
