"""Spec of conversations that a model writes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.spec import Spec
from pipelines.stages.generation.endpoint import ChatEndpoint
from pipelines.stages.making.makers import AnyMaker
from pipelines.stages.making.makers.self_instruct import SelfInstruct


class SyntheticSpec(Spec, frozen=True):
    """Conversations that a model behind an endpoint writes, filtered and split."""

    kind: ClassVar[str] = "synthetic"
    stage: ClassVar[str] = "pipelines.stages.making.stage:build"

    maker: AnyMaker = SelfInstruct()
    """What is asked for, and from what: `self-instruct` (seed tasks), `knowledge-graph`, `disease-table`."""
    endpoint: ChatEndpoint = ChatEndpoint()
    """Who writes. How fast it is asked, and for how much, is in `scaling`."""
    license: str = ""
    """Licence of what is made, such as the terms of the endpoint allow; empty: `unknown`."""
    min_request_chars: Annotated[int, Meta(ge=1)] = 4
    """Shortest request."""
    max_request_chars: Annotated[int, Meta(ge=1)] = 4000
    """Longest request."""
    min_answer_chars: Annotated[int, Meta(ge=1)] = 1
    """Shortest answer."""
    max_answer_chars: Annotated[int, Meta(ge=1)] = 8000
    """Longest answer."""
    refused_phrases: tuple[str, ...] = (
        "as an ai language model", "as a language model", "i'm sorry, but i can",
        "作为一个人工智能", "作为一个ai", "作为一个语言模型",
    )  # fmt: skip
    """Answers with one of these are left out: the model spoke of itself, or did not do what was asked."""
    max_rouge_l: Annotated[float, Meta(gt=0, le=1)] = 0.7
    """A request is left out whose ROUGE-L with one before reaches this: of the same topic where there are topics; as
    published (Wang et al. 2022)."""
    heldout_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Share held out; what is about one thing stays together."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of what is shown in prompts, of the answers and of the split."""

    def check(self) -> None:
        self.endpoint.check("synthetic.endpoint")
        self.maker.check("synthetic.maker")
        for name in ("request", "answer"):
            if getattr(self, f"min_{name}_chars") > getattr(self, f"max_{name}_chars"):
                raise SpecError(f"synthetic.min_{name}_chars: above max_{name}_chars", "Lower it.")
