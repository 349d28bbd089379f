"""Pipelines that come with Bargeline."""
