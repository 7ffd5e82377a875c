"""Ranges of the hub's history that are published again on request."""
