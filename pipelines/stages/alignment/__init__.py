"""Alignment: preference pairs, the reward model, and reinforcement learning from it."""
