"""Towards the hub: one connection for each account, and the only retry of the hub."""
