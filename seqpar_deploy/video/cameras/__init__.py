"""Cameras with settings of their own, which may change while they are watched."""
