"""Compares the log with the hub's history, by code that shares nothing with the decoder."""
