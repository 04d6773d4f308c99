"""Tokenizers: trained, imported, extended, measured."""
