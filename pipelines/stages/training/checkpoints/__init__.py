"""The state of a run, written in the background, for any number of workers."""
