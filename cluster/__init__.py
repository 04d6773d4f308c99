"""The core and the control plane of Trunkline. Imports neither `pipelines` nor `serving`."""

__version__ = "0.1.0"
