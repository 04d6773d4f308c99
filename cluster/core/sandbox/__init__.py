"""Code that a model wrote, in processes of its own with limits (sandbox.py)."""
