"""What is wanted, as typed literals: the base of specs, how changes are laid over them, YAML."""
