"""Data making: conversations that a model writes, from seed tasks, a knowledge graph or a table."""
