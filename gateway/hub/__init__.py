"""The hub's methods as calls, and the HTTP client that reaches it."""
