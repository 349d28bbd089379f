"""Numbered SQL of the core; a pipeline's own stands in its folder."""
