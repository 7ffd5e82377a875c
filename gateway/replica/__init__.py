"""What runs: shards, their accounts, and the retries."""
