"""Adapters as artifacts of their own: alone, or merged, several of them too, into the model that they belong to."""
