"""Assembles the parts of a process, by the settings."""
