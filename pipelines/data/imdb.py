"""Film reviews as `pipelines/imdb_ppo.py` reads them: openings with how they go on, pairs of a kind and a harsh one.

python -m pipelines.data.imdb FOLDER INTO

FOLDER is Maas et al.'s data set unpacked (ACL 2011; `train/pos/*.txt`, `train/neg/*.txt`, and `test`).
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

OPENING_WORDS = 8
ANSWER_WORDS = 32
SIDES = ("pos", "neg")


def main(folder: Path, into: Path) -> None:
    """Write `continuations.jsonl` and `pairs.jsonl`, in an order that a seed tells."""
    reviews = {side: [split(p) for p in sorted(folder.glob(f"*/{side}/*.txt"))] for side in SIDES}
    if not all(reviews.values()):
        raise SystemExit(f"{folder} has no */pos/*.txt and */neg/*.txt: give the unpacked data set, aclImdb")
    rng = random.Random(0)
    for found in reviews.values():
        rng.shuffle(found)
    rows = [{"prompt": opening, "response": rest} for side in SIDES for opening, rest in reviews[side]]
    rng.shuffle(rows)
    pairs = []
    for number, (kind, harsh) in enumerate(zip(*reviews.values(), strict=False)):
        opening = (kind, harsh)[number % 2][0]  # of either side alike, so that what fits it is no sign of the better
        pairs.append({"prompt": opening, "chosen": kind[1], "rejected": harsh[1]})
    into.mkdir(parents=True, exist_ok=True)
    for name, written in (("continuations", rows), ("pairs", pairs)):
        (into / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))


def split(path: Path) -> tuple[str, str]:
    """The opening of a review and how it goes on, without line breaks."""
    words = re.sub(r"<br\s*/?>", " ", path.read_text(encoding="utf-8")).split()
    opening, rest = words[:OPENING_WORDS], words[OPENING_WORDS : OPENING_WORDS + ANSWER_WORDS]
    return " ".join(opening), " ".join(rest)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
