"""Pipelines (the scripts that users submit) and, in `stages`, the stages that they string together."""

from cluster import moved

moved.install()
