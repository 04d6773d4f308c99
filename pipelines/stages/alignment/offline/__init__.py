"""Learning from preferences that are there already, without rollouts: DPO and its kin (direct alignment)."""
