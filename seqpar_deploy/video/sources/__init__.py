"""Sources of frames: files, sequences of pictures, cameras, streams and snapshot URLs."""
