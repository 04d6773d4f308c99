"""llama2.c's format: the published story word for word, its tokens by its own algorithm, and what is said of damage."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cluster.core.errors import InputError
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import PretrainedSpec
from pipelines.stages.tuning import llama2c
from tests.conftest import SHARED_DATA

STORIES = SHARED_DATA / "weights" / "stories260K"
RUN_C_STEPS = 256  # what run.c generates if not told otherwise


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not STORIES.exists():
        pytest.skip(f"{STORIES} is not there")
    store = Store(tmp_path_factory.mktemp("store"))
    made = build(PretrainedSpec(source=f"llama2c:{STORIES}"), {}, store=store, name="stories")
    assert made.metrics == {"parameters": 260_032, "vocab_size": 512}
    return made.local()


def published_story() -> str:
    """The one that `run.c` prints at temperature 0."""
    blocks = re.findall(r"^```\n(.*?)^```", (STORIES / "stories260K.md").read_text(), re.DOTALL | re.MULTILINE)
    story = next(block for block in blocks if "-t 0.0" in block)
    return str(story.split("\n", 1)[1].strip())


@pytest.mark.heavy
def test_the_greedy_story_is_the_published_one(stories: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(stories)
    model = AutoModelForCausalLM.from_pretrained(stories)
    begin = tokenizer("", return_tensors="pt")["input_ids"]
    assert begin.tolist() == [[1]]
    written = model.generate(begin, max_new_tokens=RUN_C_STEPS, do_sample=False)[0]
    assert tokenizer.decode(written, skip_special_tokens=True).strip() == published_story()


def loss(folder: Path, text: str) -> float:
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokens = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(tokens, labels=tokens).loss)


def test_the_loss_is_sane(stories: Path) -> None:
    """Of a story like those it learned, near the published 1.2968 (of TinyStories' validation split, which is not
    here); of its own greedy story below that; of the same words in another order far above."""
    story = (
        "Once upon a time, there was a little boy named Tim. Tim loved to play with his red ball in the park. One day, "
        "the ball rolled under a big tree. Tim was sad. His mom came and helped him. They were very happy."
    )
    words = published_story().split()
    assert loss(stories, published_story()) < 1.0
    assert 0.8 < loss(stories, story) < 1.6
    assert loss(stories, " ".join(sorted(words))) > 3.0


def as_run_c_encodes(text: str, pieces: list[bytes], scores: list[float]) -> list[int]:
    """`encode` of llama2.c's run.c, by its letter: characters or bytes, then the best merge until there is none."""
    known = {piece: number for number, piece in reversed(list(enumerate(pieces)))}
    tokens = [known[b" "]] if text else []
    for character in text:
        found = known.get(character.encode())
        tokens += [found] if found is not None else [byte + 3 for byte in character.encode()]
    while True:
        best, place = -1e10, -1
        for at in range(len(tokens) - 1):
            merged = known.get(pieces[tokens[at]] + pieces[tokens[at + 1]])
            if merged is not None and scores[merged] > best:
                best, place = scores[merged], at
        if place < 0:
            return tokens
        tokens[place : place + 2] = [known[pieces[tokens[place]] + pieces[tokens[place + 1]]]]


def read_pieces() -> tuple[list[bytes], list[float]]:
    data, at, pieces, scores = (STORIES / "tok512.bin").read_bytes(), 4, [], []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8 : at + 8 + length])
        scores.append(score)
        at += 8 + length
    return pieces, scores


@settings(max_examples=100)
@given(text=st.text("Onceupatim, \n.\"'é中TLy") | st.text().filter(lambda text: "▁" not in text))
def test_tokens_are_those_of_run_c(stories: Path, text: str) -> None:
    tokenizer = ENCODERS.setdefault("it", AutoTokenizer.from_pretrained(stories))
    expected = as_run_c_encodes(text, *read_pieces())
    assert tokenizer(text, split_special_tokens=True)["input_ids"] == [1, *expected]


ENCODERS: dict[str, object] = {}


def write_v0(path: Path, model: LlamaForCausalLM, tied: bool) -> None:
    """A model in v0: rows of wq and wk so that rotated pairs are neighbours, as Meta's and llama2.c's are."""
    config, state = model.config, model.state_dict()
    head = config.hidden_size // config.num_attention_heads

    def stacked(name: str) -> list[torch.Tensor]:
        weights = [state[f"model.layers.{layer}.{name}.weight"] for layer in range(config.num_hidden_layers)]
        if name.endswith(("q_proj", "k_proj")):
            order = [start + half * head // 2 + i for start in range(0, len(weights[0]), head)
                     for i in range(head // 2) for half in (0, 1)]  # fmt: skip
            weights = [weight[order] for weight in weights]
        return weights

    names = ("input_layernorm", *(f"self_attn.{x}_proj" for x in "qkvo"), "post_attention_layernorm",
             "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj")  # fmt: skip
    parts = [state["model.embed_tokens.weight"], *(weight for name in names for weight in stacked(name))]
    parts += [state["model.norm.weight"], torch.zeros(config.max_position_embeddings * head)]
    parts += [] if tied else [state["lm_head.weight"]]
    header = (config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.num_attention_heads,
              config.num_key_value_heads, config.vocab_size * (1 if tied else -1),
              config.max_position_embeddings)  # fmt: skip
    path.write_bytes(struct.pack("<7i", *header) + b"".join(part.numpy().astype("<f4").tobytes() for part in parts))


@pytest.mark.parametrize("tied", [True, False])
def test_any_v0_model_comes_back(tmp_path: Path, tied: bool) -> None:
    """Also with a classifier of its own, which stories260K has not."""
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8, tie_word_embeddings=tied, rms_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    write_v0(tmp_path / "model.bin", model, tied)
    again = llama2c.read_model(tmp_path / "model.bin")
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    tokens = torch.arange(8)[None]
    assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_damage_is_named(tmp_path: Path) -> None:
    def said(source: Path) -> str:
        with pytest.raises(InputError) as raised:
            build(PretrainedSpec(source=f"llama2c:{source}"), {}, store=Store(tmp_path / "store"), name="x")
        return str(raised.value)

    assert "holds 0 models and 0 tokenizers" in said(tmp_path)
    (tmp_path / "tok.bin").write_bytes(b"\0" * 10)
    (tmp_path / "model.bin").write_bytes(b"\0" * 10)
    assert "too short" in said(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"\0" * 100)
    assert "no header" in said(tmp_path)
    config = LlamaConfig(vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=8)  # fmt: skip
    write_v0(tmp_path / "model.bin", LlamaForCausalLM(config), tied=False)
    assert "not a tokenizer of llama2.c with 300 pieces" in said(tmp_path)
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:-4])
    assert "its header asks for" in said(tmp_path)
