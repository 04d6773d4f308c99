"""The families of models, and how one is made or loaded."""
