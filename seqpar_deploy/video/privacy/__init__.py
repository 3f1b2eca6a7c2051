"""Blurred pictures: `blur.py` has the pixels and their places, `veil.py` what is blurred in each frame of a stream."""
