"""The broker's contract in memory, for simulations on virtual time.

It does nothing but what the contract promises, at once, so that all delays, losses and outages are those that the
simulation injects through `Faults`.
"""
