"""Shares of several token stores in one order."""
