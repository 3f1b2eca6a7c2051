"""HTML pages of results: one self-contained file each, for wide and narrow screens."""
