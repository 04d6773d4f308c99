"""Pipelines (the scripts that users submit) and, in the folders below, the stages they string together."""
