"""AdamW, 8-bit AdamW, Adafactor, Muon, sharded."""
