"""What a run would build, and the memory and time that it would need."""
