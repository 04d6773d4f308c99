"""What a cluster can grow to, where Ray's autoscaler adds nodes as soon as something asks for them.

Whoever counts only the nodes that are there, and waits for more before it asks, waits for ever: nothing asks. So the
pods of a cluster that grows say what it has at most.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

VARIABLE = "TRUNKLINE_GROWS_TO"  # JSON: resource to amount, with all nodes that the autoscaler may add


def grown(there: Mapping[str, float]) -> dict[str, float]:
    """The resources of a cluster that has `there` now, once it has grown."""
    most: dict[str, float] = json.loads(os.environ.get(VARIABLE, "{}"))
    return {name: max(there.get(name, 0.0), most.get(name, 0.0)) for name in {**there, **most}}
