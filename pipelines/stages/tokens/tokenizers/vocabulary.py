"""The vocabulary stage: new pieces behind those of a tokenizer, for languages that it cuts too small.

Every new merge stands behind all old ones and makes a new piece, so that a text in which no new piece occurs is
encoded as before (Cui et al. 2023, "Efficient and Effective Text Encoding for Chinese LLaMA and Alpaca").
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from cluster.core.context import Context
from cluster.core.errors import InputError
from pipelines.specs import VocabularySpec
from pipelines.stages.tokens.tokenizers import fertility, pieces, published, sentencepiece_model
from pipelines.stages.tokens.tokenizers.published import Published
from pipelines.stages.tokens.tokenizers.sampling import texts
from pipelines.stages.tokens.tokenizers.tokenizer import END_OF_TEXT, save

REPORT_FILE = "report.json"
META_PIECES = 300  # more than there are bytes, control pieces and letters of their names


def build(ctx: Context[VocabularySpec]) -> dict[str, Any]:
    """Write a Hugging Face tokenizer folder (with `tokenizer.model` for SentencePiece) and `report.json`.

    Raises InputError where the tokenizer cannot be read or extended, or the corpus yields too few pieces.
    """
    spec = ctx.spec
    spec.check_inputs(ctx.inputs)
    base = published.read(ctx.inputs["tokenizer"].local() if "tokenizer" in ctx.inputs else Path(spec.base))
    if "eos_token" not in base.roles:
        raise InputError(
            f"vocabulary.base: {spec.base} does not say which token ends a text",
            "Put a tokenizer_config.json with an eos_token beside it.",
        )
    if spec.merge:
        extended, added = merge(base, published.read(Path(spec.merge)), spec.script)
    else:
        extended, added = extend(ctx, base)
    report = {
        "pieces_before": base.tokenizer.get_vocab_size(),
        "pieces": extended.tokenizer.get_vocab_size(),
        "unreachable": sum(len(extended.tokenizer.model.tokenize(piece)) > 1 for piece in added),
        "languages": _languages(ctx, base.tokenizer, extended.tokenizer),
    }
    with ctx.scratch() as folder:
        model = extended.model.SerializeToString() if extended.model is not None else b""
        save(folder, extended.tokenizer, model, **base.roles)
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2), encoding="utf-8")
        ctx.output.put(folder)
    return report


def extend(ctx: Context[VocabularySpec], base: Published) -> tuple[Published, list[str]]:
    """The tokenizer with `num_pieces` pieces trained on the corpus, and these pieces."""
    spec = ctx.spec
    read = functools.partial(texts, ctx.inputs["corpus"].location, "train", spec.sample_bytes)
    if base.model is not None and base.model.trainer_spec.model_type == sentencepiece_model.UNIGRAM:
        return _extend_unigram(base, read, spec)
    if base.kind == "byte_bpe":
        merges = pieces.first(pieces.learn(read, base.tokenizer, spec.script, spec.num_pieces), spec.num_pieces)
        added = _made(merges)
        extended = Published(with_merges(base.tokenizer, merges), None, base.roles)
    elif base.kind == "sentencepiece":
        characters = pieces.new_characters(read, base.tokenizer, spec.script, spec.character_coverage)
        added = characters[: spec.num_pieces]
        extended = with_pieces(base, added)
        if missing := spec.num_pieces - len(added):
            merges = pieces.first(pieces.learn(read, extended.tokenizer, spec.script, missing), missing)
            made = _made(merges)
            added, extended = added + made, with_pieces(extended, made)
    else:
        raise InputError(
            f"vocabulary: a tokenizer of the kind {base.kind} cannot be extended",
            "SentencePiece models and byte-level BPE can.",
        )
    return extended, _enough(added, spec.num_pieces)


def _extend_unigram(base: Published, read: pieces.Read, spec: VocabularySpec) -> tuple[Published, list[str]]:
    """The best new pieces of a unigram model of the corpus, with the log-probabilities that it gives them."""
    known = set(base.tokenizer.get_vocab())
    trained = sentencepiece_model.train(
        pieces.runs(read(), spec.script),
        # Every piece that the base has may be among the trained ones.
        spec.num_pieces + sum(map(functools.partial(_fits, script=spec.script), known)) + META_PIECES,
        "unigram",
        end_of_text=END_OF_TEXT,
        character_coverage=spec.character_coverage,
        or_fewer=True,
    )
    scores = {piece.piece: piece.score for piece in trained.pieces if piece.type == sentencepiece_model.NORMAL}
    scores = {piece: score for piece, score in scores.items() if piece not in known and _fits(piece, spec.script)}
    best = sorted(scores, key=lambda piece: (-scores[piece], piece))[: spec.num_pieces]
    return with_pieces(base, best, scores), _enough(best, spec.num_pieces)


def merge(base: Published, other: Published, script: str = "") -> tuple[Published, list[str]]:
    """The tokenizer with the pieces of another one that it lacks, in the other's order, and these pieces.

    Both are SentencePiece models, or both byte-level BPE. A piece with a character that has none of its own is left
    out of a BPE model, which begins with characters.
    """
    if base.model is not None and other.model is not None:
        usable = [piece for piece in other.model.pieces if piece.type == sentencepiece_model.NORMAL]
        found = [piece.piece for piece in usable if _fits(piece.piece, script)]
        characters = {piece for piece in (*base.tokenizer.get_vocab(), *found) if len(piece) == 1}
        known, scores = base.tokenizer.get_vocab(), {piece.piece: piece.score for piece in usable}
        new = [piece for piece in found if piece not in known and characters.issuperset(piece)]
        return with_pieces(base, new, scores), new
    if base.kind == other.kind == "byte_bpe":
        merges = _new_merges(base.tokenizer, other.tokenizer)
        merges = _needed(merges, script) if script else merges
        return Published(with_merges(base.tokenizer, merges), None, base.roles), _made(merges)
    raise InputError(
        f"vocabulary.merge: a tokenizer of the kind {other.kind} cannot be merged into one of the kind {base.kind}",
        "Both must be SentencePiece models, or both byte-level BPE.",
    )


def _new_merges(base: Tokenizer, other: Tokenizer) -> pieces.Merges:
    """The merges of another byte-level BPE that make what the first lacks, out of what it has or will have."""
    old = base.get_vocab()
    known, merges = set(old), []
    for left, right in json.loads(other.to_str())["model"]["merges"]:
        if left + right not in old and {left, right} <= known:
            known.add(left + right)
            merges.append((left, right))
    return merges


def _made(merges: pieces.Merges) -> list[str]:
    return list(dict.fromkeys(left + right for left, right in merges))


def with_pieces(base: Published, new: list[str], scores: dict[str, float] | None = None) -> Published:
    """A SentencePiece tokenizer with more pieces."""
    model = sentencepiece_model.parse(base.model.SerializeToString(), "the tokenizer to extend")  # type: ignore[union-attr]
    sentencepiece_model.append(model, new, scores)
    return Published(sentencepiece_model.tokenizer(model), model, base.roles)


def with_merges(tokenizer: Tokenizer, merges: pieces.Merges) -> Tokenizer:
    """A BPE tokenizer with more merges behind its own, and the pieces that they make behind all of its tokens."""
    definition = json.loads(tokenizer.to_str())
    model = definition["model"]
    model["vocab"] |= {token["content"]: token["id"] for token in definition["added_tokens"]}  # no gap in the ids
    following = max(model["vocab"].values()) + 1
    model["vocab"] |= {piece: following + number for number, piece in enumerate(_made(merges))}
    model["merges"] += [list(pair) for pair in merges]
    return Tokenizer.from_str(json.dumps(definition))


def _languages(ctx: Context[VocabularySpec], before: Tokenizer, after: Tokenizer) -> dict[str, Any]:
    corpora = [ctx.inputs[name].location for name in ("corpus", "unchanged") if name in ctx.inputs]
    found: dict[str, list[str]] = {}
    for corpus in corpora:
        for language, documents in fertility.by_language(corpus, ctx.spec.report_bytes).items():
            found.setdefault(language, []).extend(documents)
    return {
        language: fertility.compare(documents, before, after, language) for language, documents in sorted(found.items())
    }


def _enough(added: list[str], num_pieces: int) -> list[str]:
    if len(added) < num_pieces:
        raise InputError(
            f"vocabulary.num_pieces: the corpus yields only {len(added)} new pieces of the {num_pieces} asked for",
            "Give a smaller number or more text.",
        )
    return added


def _fits(piece: str, script: str) -> bool:
    return not script or pieces.of_script(script).search(piece) is not None


def _needed(merges: pieces.Merges, script: str) -> pieces.Merges:
    """The merges of byte-level pieces that hold a character of the script, and those of their parts."""
    needed: set[str] = set()
    kept = []
    for left, right in reversed(merges):
        if left + right in needed or _fits(fertility.spell(left + right).decode(errors="replace"), script):
            needed |= {left, right}
            kept.append((left, right))
    return kept[::-1]
