"""Artifacts on a local disk or an object store: committed whole, leased while built, collected when unused."""
