"""Puts the parts of a process together, by the settings."""
