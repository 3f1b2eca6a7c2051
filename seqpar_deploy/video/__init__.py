"""People in, attributes out: a pipeline over files, cameras and streams, of parts that can be replaced."""
