"""What makes two specs name the same thing: files by content, functions by source."""
