"""Towards the broker: one transactional log for each shard, and the only retry of the broker."""
