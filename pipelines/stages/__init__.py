"""The stages of the line, a package each: the spec, and the function that builds it."""
