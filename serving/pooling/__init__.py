"""Models that make one thing of a whole text, behind the API: scores, ranks and vectors."""
