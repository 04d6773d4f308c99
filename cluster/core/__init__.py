"""What every part stands on: specs, the store, graphs of steps and how one is built. Neither Ray nor torch."""
