"""Articles of PMC and Europe PMC."""
