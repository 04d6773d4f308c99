"""The core, the control plane and the commands of Trunkline."""

from cluster import moved

__version__ = "0.1.0"

moved.install()
