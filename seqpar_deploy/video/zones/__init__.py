"""Zones, lines and masks in the frames of a fixed camera: events of people in them, and counts by attribute."""
