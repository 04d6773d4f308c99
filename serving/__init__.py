"""Ray Serve and vLLM: a model artifact behind the OpenAI API."""
