"""Supervised fine-tuning: open models, conversations, chat templates and loss masks, the stage that trains."""
