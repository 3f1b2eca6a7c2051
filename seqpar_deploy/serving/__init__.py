"""Beyond one process: Triton serves requests, Ray works through archives."""
