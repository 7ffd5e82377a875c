"""MesoLive event gateway: every hub callback on a typed topic, in order, exactly once."""

__version__ = "0.1.0"
