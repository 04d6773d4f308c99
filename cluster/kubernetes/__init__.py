"""Kubernetes: manifests for KubeRay from our specs, and a validator of manifests that needs no cluster."""
