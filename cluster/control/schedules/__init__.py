"""Pipelines that a cluster runs again and again: a schedule is a job that waits, and submits others."""
