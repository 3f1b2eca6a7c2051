"""Reports as HTML: one file each, for a browser on a desk or a phone, without a network."""
