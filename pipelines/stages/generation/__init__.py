"""vLLM engines as Ray actors: generate, score, take new weights."""
