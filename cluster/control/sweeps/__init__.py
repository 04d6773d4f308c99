"""Many runs of a pipeline over a space of settings."""
