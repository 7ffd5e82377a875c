"""NATS JetStream: fenced atomic batches on one stream."""
