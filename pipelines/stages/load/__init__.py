"""Load tests: an endpoint asked at a given rate, or by so many clients, and what it made of that."""
