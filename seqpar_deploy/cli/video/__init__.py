"""`seqpar video` and `seqpar zones`: options, config file, cameras and outputs of a run."""
