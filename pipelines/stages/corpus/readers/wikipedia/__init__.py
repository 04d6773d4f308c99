"""Dumps of MediaWiki."""
