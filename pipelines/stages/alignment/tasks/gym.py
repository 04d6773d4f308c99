"""reasoning-gym, which is installed where it is wanted: its packages are many, and of one use."""

from __future__ import annotations

from typing import Any

from cluster.core.errors import NotReadyError


def reasoning_gym() -> Any:
    """The package. Raises NotReadyError where it is not installed."""
    try:
        import reasoning_gym as found
    except ImportError as error:
        raise NotReadyError(
            f"reasoning-gym is needed for its tasks, and cannot be imported: {error}",
            "Install it, on every machine of the cluster: pip install reasoning-gym==0.1.25.",
        ) from None
    return found
