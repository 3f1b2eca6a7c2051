"""Does a bundle reproduce its checkpoint? The gate and everything it needs; no torch, so it runs on the edge."""
