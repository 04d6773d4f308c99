"""Telling a run that becomes better from one that collapses: alarms, and what the policy really said."""
