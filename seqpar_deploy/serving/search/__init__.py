"""Search the results of archive jobs by attribute, time and camera."""
