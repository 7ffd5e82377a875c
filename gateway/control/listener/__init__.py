"""The HTTP server that strangers reach: sockets, TLS, limits and refusals."""
