"""How weights, heads and sequences are cut among workers."""
