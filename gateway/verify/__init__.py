"""Compares what is in the log with what the hub says happened, by code that shares nothing with the decoder."""
