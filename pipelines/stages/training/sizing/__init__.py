"""Memory and time of a training step, predicted."""
