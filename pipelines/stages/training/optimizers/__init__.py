"""Rules that move weights, one a module, and the optimizer that applies them."""
