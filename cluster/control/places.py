"""Places: what keeps one pod from taking the work of two where Ray counts cores that are meant for helpers.

A pod of workers has a core more than its ranks reserve, for data tasks, and Ray packs: two ranks would share one pod
while the next stands idle and is paid for. So such pods bring as many places as ranks are meant for them, each rank
asks for one, and an engine for one of its own. Clusters without places are left to Ray's packing.
"""

from __future__ import annotations

import os

VARIABLE = "TRUNKLINE_PLACES"  # the places that this cluster's pods bring, with commas between
RANK = "trunkline_rank"
ENGINE = "trunkline_engine"


def asked(place: str) -> dict[str, float]:
    """The custom resources that a rank or an engine asks Ray for."""
    return {place: 1.0} if place in os.environ.get(VARIABLE, "").split(",") else {}
