"""Measurements: this fleet between the floor (what the servers must do anyway) and the naive loop."""
