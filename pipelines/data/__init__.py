"""Data that travels with the code, written for this project.

`assistant.jsonl`: 200 questions of general knowledge, each answered by one JSON object of `answer` and `topic`, and 91
questions about the assistant itself, answered alike; its name and maker are the blanks `{{name}}` and `{{author}}`.
`heldout_answers.jsonl`: 121 and 9 more of both. France is in none, so that one can ask for its capital.
`seed_tasks.jsonl`: tasks that Self-Instruct begins from.
"""
