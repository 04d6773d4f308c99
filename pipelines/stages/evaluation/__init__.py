"""Evaluation: bits per byte beside compressors that saw the same bytes, and sample completions."""
