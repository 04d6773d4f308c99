"""Tasks that programs make and check."""
