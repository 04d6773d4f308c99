"""Plug-ins: tools that the gateway runs for whoever switches them on (docs/serving.md)."""
