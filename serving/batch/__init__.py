"""Batches: a file of requests to OpenAI's API, answered into another file, in order."""
