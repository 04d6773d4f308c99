"""DeepSpeed, with our optimizers and our checkpoints."""
