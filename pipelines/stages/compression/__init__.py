"""Compression: weights of few bits, in a format that vLLM serves on CPUs and GPUs, and what they cost in quality."""
