"""The HTTP control plane: what operators see and what they ask for; probes and metrics beside it."""
