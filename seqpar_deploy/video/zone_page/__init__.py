"""The page on which zones, lines and masks are drawn on a frame of a camera, and saved in its config file."""
