"""One account's way from the hub to the log: what to page, what to publish, what is settled. No I/O, no clock."""
