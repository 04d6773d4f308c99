"""Jobs that survive: their records, logs and attempts in the store, read without a cluster."""
