"""Duplicates: exact, near (MinHash), and of lines."""
