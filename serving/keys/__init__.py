"""Keys of endpoints: who may ask, how much, and what was asked (docs/serving.md)."""
