"""SignalR: the protocol without I/O, and one connection."""
