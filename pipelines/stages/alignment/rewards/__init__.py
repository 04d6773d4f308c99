"""Rewards: functions of a sampled answer, one a module; the table of them; calling them."""
