"""What speaks to Ray: clusters, jobs, runs."""
