"""A pipeline folder made from a sample of somebody's events."""
