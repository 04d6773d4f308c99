"""Text to token ids: tokenizer training, encoding, the sharded token store, and the order of training samples."""
