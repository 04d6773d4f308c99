"""Feedback on answers: thumbs, choices and edits, kept with consent (docs/serving.md)."""
