"""Data that travels with the code.

`short_answers.jsonl`: 321 questions of general knowledge, written for this project, each answered by one JSON object of
`answer` and `topic`. France is in none of them, so that a model can be asked for its capital.
"""
