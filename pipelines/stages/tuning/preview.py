"""What would be learned of conversations: examples as pieces of text with their ids, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from cluster.core.encoding import Encoded
from cluster.core.errors import InputError
from cluster.core.storage.store import Store
from cluster.core.typed_text import control
from pipelines.specs import ConversationsSpec
from pipelines.stages.training.spec import CONVERSATIONS
from pipelines.stages.tuning.conversations import Row, read_conversations
from pipelines.stages.tuning.encoder import Encoder
from pipelines.stages.tuning.intake import Intake, Taken
from pipelines.stages.tuning.templates import prepare

PAGE = Path(__file__).with_name("preview.html")
UNFINISHED = "\ufffd"  # what bytes are shown as that make no character yet


@dataclass(frozen=True)
class Piece:
    """The fewest tokens that make whole characters, and whether they are learned; `control` is a token, not text."""

    text: str
    ids: list[int]
    learned: bool
    control: bool


@dataclass(frozen=True)
class Sample:
    """An example of a conversation."""

    id: str
    pieces: list[Piece]


@dataclass(frozen=True)
class Preview:
    """Samples, and what the conversations that were looked at come to."""

    samples: list[Sample]
    conversations: int
    examples: int
    tokens: int
    learned: int
    median_tokens: int
    longest_tokens: int
    refused: dict[str, int]


def preview(tokenizer: Any, rows: Iterable[Row], count: int) -> Preview:
    """The examples of the first `count` conversations that have one, and figures of all rows, under a prepared
    tokenizer."""
    encoder, found, samples = Encoder(tokenizer), [], []
    shown = total = 0
    for row in rows:
        total += 1
        encoded = encoder(row)
        found += encoded
        if encoded and shown < count:
            shown += 1
            samples += [Sample(row["id"], list(pieces(tokenizer, example))) for example in encoded]
    lengths = [len(example.tokens) for example in found]
    learned = sum(sum(example.learn) for example in found)
    middle, longest = (int(median(lengths)), max(lengths)) if lengths else (0, 0)
    return Preview(samples, total, len(found), sum(lengths), learned, middle, longest, encoder.reasons())


def pieces(tokenizer: Any, example: Encoded) -> Iterator[Piece]:
    """An example, cut so that every piece can be read."""
    controls = {tokenizer.convert_tokens_to_ids(token) for token in control(tokenizer).tokens}
    before: list[int] = []
    ids: list[int] = []
    for at, (id, learned) in enumerate(zip(example.tokens, example.learn, strict=True)):
        ids.append(id)
        text = _text(tokenizer, before, ids)
        last = at + 1 == len(example.tokens) or example.learn[at + 1] != learned or example.tokens[at + 1] in controls
        if text.endswith(UNFINISHED) and not last:
            continue
        yield Piece(text, ids, learned, len(ids) == 1 and id in controls)
        before, ids = ids, []


def rows_of(source: str, store: Store, split: str, format: str) -> Iterator[Row]:
    """The rows of an artifact of conversations, or of files of one of the formats. Raises InputError for anything
    else."""
    if not Path(source).exists():
        yield from read_conversations(store.resolve(source, CONVERSATIONS).local(), split)
        return
    spec = ConversationsSpec(source="file", path=source, format=format, max_bad_fraction=1.0)
    for each in Intake(spec, source, split):
        if isinstance(each, Taken):
            yield {"id": each.id, **each.conversation}


def tokenizer_of(model: str, store: Store, template: str) -> Any:
    """The prepared tokenizer of a model artifact or of a Hugging Face folder. Raises as `prepare` does."""
    from transformers import AutoTokenizer

    folder = Path(model) if Path(model).is_dir() else store.resolve(model).local()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{model} has no tokenizer that can be read: {error}", "Give a model.") from None
    prepare(tokenizer, template)
    return tokenizer


def page(found: Preview, data: str, model: str, template: str) -> str:
    """The samples as a page that needs nothing besides."""
    parts = {
        "DATA": escape(data),
        "MODEL": escape(model),
        "TEMPLATE": escape(template or "the model's own"),
        "FIGURES": "".join(f"<div class=figure><b>{value}</b>{escape(name)}</div>" for name, value in figures(found)),
        "REFUSED": "".join(f"<p class=refused>{n:,} refused: {escape(why)}</p>" for why, n in found.refused.items()),
        "SAMPLES": "".join(map(_card, found.samples)),
    }
    text = PAGE.read_text(encoding="utf-8")
    before, *others = text.split("{{")
    return before + "".join(parts[name] + rest for name, _, rest in (other.partition("}}") for other in others))


def figures(found: Preview) -> list[tuple[str, str]]:
    """Names and values of what there is to tell."""
    share = f"{100 * found.learned / found.tokens:.1f} %" if found.tokens else "none"
    return [
        ("conversations looked at", f"{found.conversations:,}"),
        ("examples", f"{found.examples:,}"),
        ("refused", f"{sum(found.refused.values()):,}"),
        ("tokens", f"{found.tokens:,}"),
        ("of these learned", share),
        ("tokens of an example, median", f"{found.median_tokens:,}"),
        ("tokens of the longest", f"{found.longest_tokens:,}"),
    ]


def _card(sample: Sample) -> str:
    total = sum(len(piece.ids) for piece in sample.pieces)
    learned = sum(len(piece.ids) for piece in sample.pieces if piece.learned)
    text = "".join(map(_span, sample.pieces))
    return f"<h2>{escape(sample.id)} <small>{total:,} tokens, {learned:,} learned</small></h2><pre>{text}</pre>\n"


def _span(piece: Piece) -> str:
    kinds = " ".join(name for name, holds in (("learned", piece.learned), ("control", piece.control)) if holds)
    ids = " ".join(map(str, piece.ids))
    return f'<span class="{kinds}" title="{ids}">{escape(piece.text)}</span>'


def _text(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """What tokens say behind others: alone, the first would lose the blank before its word."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    head, whole = tokenizer.decode(before, **options), tokenizer.decode(before + ids, **options)
    return str(whole.removeprefix(head))
