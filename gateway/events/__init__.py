"""The hub's events: the 17 payload models (the contract), decoding and the canonical encoding. No I/O."""
