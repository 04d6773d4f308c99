"""A pipeline to sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cluster.pipeline import pipeline
from tests.cluster.slope import SlopeSpec
from tests.core.toys import WordsSpec


@pipeline
def slope(step: Any) -> Any:
    words = step(WordsSpec())
    return step(SlopeSpec(), name="toy", words=words)
