"""Export: a model as a Hugging Face folder with a card written from its lineage."""
