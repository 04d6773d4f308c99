"""Further sets to validate on: how they are named, and what cannot be read by the model."""

from __future__ import annotations

import pytest

from cluster.core.context import Context
from cluster.core.errors import InputError, SpecError
from cluster.core.graph import record
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec, ScalingSpec
from pipelines.stages.training.stage import validate
from tests.training.tiny import LENGTH, make_tokens, pretrain

pytestmark = pytest.mark.heavy


def context(inputs: dict[str, Artifact]) -> Context[PretrainSpec]:
    return Context(pretrain(2), inputs, Location("memory://none"), ScalingSpec(num_workers=1), "tiny", "0" * 64)


def test_sets_that_fit_are_taken(store: Store) -> None:
    validate(context({"tokens": make_tokens(store), "validation_web": make_tokens(store, "web")}))


def test_an_input_of_another_name_is_a_mistake(store: Store) -> None:
    tokens = make_tokens(store)
    for name in ("web", "validation_"):
        with pytest.raises(SpecError, match=rf"no input is called '{name}'\. A set to validate on is validation_NAME"):
            record("mine", lambda step, name=name: step(pretrain(2), tokens=tokens, **{name: tokens}), {}, store)
    record("mine", lambda step: step(pretrain(2), tokens=tokens, validation_web=tokens), {}, store)


def test_longer_sequences_than_the_model_has_seen_are_refused(store: Store) -> None:
    longer = make_tokens(store, "web", length=2 * LENGTH)
    with pytest.raises(InputError, match=f"validation_web: sequences of {2 * LENGTH} tokens"):
        validate(context({"tokens": make_tokens(store), "validation_web": longer}))


def test_a_set_without_a_whole_sequence_is_refused(store: Store) -> None:
    empty = make_tokens(store, "web", documents=0)
    with pytest.raises(InputError, match="the held-out split of 'web' has 0 tokens"):
        validate(context({"tokens": make_tokens(store), "validation_web": empty}))
