"""What is learned: the next token, masked tokens, blanks."""
