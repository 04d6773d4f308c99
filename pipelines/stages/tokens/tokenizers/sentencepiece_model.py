"""SentencePiece models (Kudo and Richardson 2018): trained, read, given more pieces, and made into a tokenizer.json.

BPE merges whatever neighbours make a piece, the best score first; so `tokenizer.json` gets every way of splitting a
piece into two as a merge, in the order of the scores. Unigram is the same model in both formats.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer, sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from cluster.core.errors import InputError
from pipelines.stages.tokens.tokenizers import training_text

SPACE = "▁"
UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # SentencePiece.Type
UNKNOWN_PENALTY = 10  # below the worst piece, in both libraries
EXACT_SCORE = -(2.0**24)  # scores are float32: below this they no longer count in ones
BYTE_LETTERS = "<0x123456789ABCDEF>"
TRAINING_THREADS = 4  # sums are added up in an order that depends on it
KINDS: dict[str, dict[str, Any]] = {
    # LLaMA (Touvron et al. 2023): nothing normalized, digits apart
    "bpe": {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "split_digits": True,
        "allow_whitespace_only_pieces": True,
    },
    # T5 (Raffel et al. 2020): NFKC, blanks collapsed
    "unigram": {"normalization_rule_name": "nmt_nfkc"},
}

Model = Any  # sentencepiece_model_pb2.ModelProto, a class made when it is imported


def train(
    texts: Iterable[str],
    vocab_size: int,
    algorithm: str,
    *,
    end_of_text: str,
    special_tokens: tuple[str, ...] = (),
    character_coverage: float = 0.9995,
    or_fewer: bool = False,
) -> Model:
    """A model that knows every text: rare characters become bytes. A line is a sentence, as SentencePiece has it, or
    several where `training_text` cuts it.

    Raises InputError where the text has more characters than that, or yields fewer pieces; unigram may then train what
    there is (`or_fewer`).
    """
    target = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(training_text.cut(texts, special_tokens, training_text.BETWEEN_BLANKS)),
            model_writer=target,
            model_type=algorithm,
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            byte_fallback=True,
            hard_vocab_limit=not or_fewer,
            control_symbols=list(special_tokens),
            required_chars="".join(sorted({*BYTE_LETTERS, *end_of_text, *"".join(special_tokens)} - {" "})),
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            eos_piece=end_of_text,
            **KINDS[algorithm],
            max_sentence_length=2**30,
            num_threads=TRAINING_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(
            f"vocab_size: SentencePiece cannot train {vocab_size} pieces on this text: {str(error).splitlines()[0]}",
            "Give another vocabulary size, more text or a smaller character_coverage.",
        ) from None
    return parse(target.getvalue(), "the trained model")


def read(path: Path) -> Model:
    """The model of a `.model` file. Raises InputError for what is none, or is of words or characters."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "Give a SentencePiece model.") from None
    return parse(data, str(path))


def parse(data: bytes, where: str) -> Model:
    from google.protobuf.message import DecodeError

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise InputError(f"{where}: not a SentencePiece model", "Give the file that SentencePiece wrote.") from None
    kinds = {piece.type for piece in model.pieces}
    if not kinds >= {NORMAL, UNKNOWN} or model.trainer_spec.model_type not in (UNIGRAM, BPE):
        raise InputError(f"{where}: holds no pieces of BPE or unigram", "Other kinds of models cannot be read.")
    if model.trainer_spec.treat_whitespace_as_suffix:
        raise InputError(f"{where}: has blanks at the ends of words", "Only models with blanks in front can be read.")
    return model


def append(model: Model, pieces: Iterable[str], scores: dict[str, float] | None = None) -> list[str]:
    """Append the pieces that are new to a model and return them; the model is changed.

    Their scores count on behind the old ones, in the order given, so that old merges keep priority (Cui et al. 2023
    gave all of them 0, the best score, and left ties to their place in the text). A unigram model takes `scores`,
    log-probabilities, but none below its own worst: that would change what an unknown character costs.
    """
    known = {piece.piece for piece in model.pieces}
    normal = [piece.score for piece in model.pieces if piece.type == NORMAL]
    lowest = min(score for score in normal if score > EXACT_SCORE)
    added = []
    for piece in pieces:
        if piece in known:
            continue
        known.add(piece)
        added.append(piece)
        score = lowest - len(added)
        if model.trainer_spec.model_type == UNIGRAM:
            score = max(min(normal), (scores or {}).get(piece, lowest))
        model.pieces.add(piece=piece, score=score, type=NORMAL)
    model.trainer_spec.vocab_size = len(model.pieces)
    return added


def tokenizer(model: Model) -> Tokenizer:
    """The same model as a Hugging Face tokenizer. Control pieces spelled in a text are not taken for such."""
    unknown = next(piece.piece for piece in model.pieces if piece.type == UNKNOWN)
    if model.trainer_spec.model_type == BPE:
        built = Tokenizer(
            models.BPE(
                {piece.piece: number for number, piece in enumerate(model.pieces)},
                _merges(model),
                unk_token=unknown,
                fuse_unk=True,
                byte_fallback=model.trainer_spec.byte_fallback,
            )
        )
    else:
        unknown_id = next(number for number, piece in enumerate(model.pieces) if piece.type == UNKNOWN)
        built = Tokenizer(models.Unigram(_scored(model), unknown_id, byte_fallback=model.trainer_spec.byte_fallback))
    steps = _normalizers(model.normalizer_spec)
    if steps:
        built.normalizer = normalizers.Sequence(steps)
    prefixed = model.normalizer_spec.add_dummy_prefix
    built.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prefixed else [])
    )
    special = [piece.piece for piece in model.pieces if piece.type in (UNKNOWN, CONTROL)]
    built.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    defined = [piece.piece for piece in model.pieces if piece.type == USER_DEFINED]
    built.add_tokens([AddedToken(piece, normalized=False) for piece in defined])
    return built


def _merges(model: Model) -> list[tuple[str, str]]:
    ranked = {piece.piece: -piece.score for piece in model.pieces if piece.type == NORMAL}
    splits = [
        (cost, number, piece[:at], piece[at:])
        for number, (piece, cost) in enumerate(ranked.items())
        for at in range(1, len(piece))
        if piece[:at] in ranked and piece[at:] in ranked
    ]
    return [(left, right) for _, _, left, right in sorted(splits, key=lambda split: split[:2])]


def _scored(model: Model) -> list[tuple[str, float]]:
    """Pieces and scores. What may not be found in a text costs more than its characters do.

    For that they must be known, each alone, as `train` sees to: the library derives the cost of an unknown character
    from the worst score of all, so that two of them would cost more again.
    """
    worst = min(piece.score for piece in model.pieces if piece.type == NORMAL)
    longest = max(len(piece.piece) for piece in model.pieces if piece.type != NORMAL)
    never = (longest + 1) * (worst - UNKNOWN_PENALTY)
    return [(piece.piece, piece.score if piece.type == NORMAL else never) for piece in model.pieces]


def _normalizers(spec: Any) -> list[Any]:
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"^ +| +$|(?<= ) +"), ""))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    return steps


def _lines(texts: Iterable[str]) -> Iterator[str]:
    return (line for text in texts for line in text.split("\n") if line)
