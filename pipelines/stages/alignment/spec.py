"""The spec of reinforcement learning."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, field

from cluster.core.errors import SpecError
from cluster.core.specs.naming import Function
from cluster.core.specs.scaling import ScalingSpec
from pipelines.stages.alignment.adapter_sync import check_method
from pipelines.stages.alignment.advantages import AnyAdvantage
from pipelines.stages.alignment.advantages.group import Group
from pipelines.stages.alignment.correction import Correction
from pipelines.stages.alignment.environments import AnyEnvironment
from pipelines.stages.alignment.kl_control import AdaptiveKl
from pipelines.stages.alignment.losses import AnyPolicyLoss
from pipelines.stages.alignment.losses.clipped import Clipped
from pipelines.stages.alignment.rewards import AnyReward, JudgeModel, named
from pipelines.stages.alignment.rewards.named import REWARD_MODEL
from pipelines.stages.training.spec import CONVERSATIONS, MODELS, TrainingSpec
from pipelines.stages.tuning.methods import AnyMethod, Full


class RlhfSpec(TrainingSpec, frozen=True):
    """A model tuned by a policy gradient with a KL penalty, on completions that vLLM samples from its own weights."""

    kind: ClassVar[str] = "rlhf"
    stage: ClassVar[str] = "pipelines.stages.alignment.stage:build"
    sizing: ClassVar[str] = "pipelines.stages.alignment.sizing:predict_rlhf"
    inputs: ClassVar[dict[str, str]] = {
        "model": MODELS,
        "prompts": f"{CONVERSATIONS}|tasks",
        "reward": "reward",
        "teacher": MODELS,
        "corpus": "corpus",
        "judge": f"{MODELS}|reward",
    }
    optional_inputs: ClassVar[tuple[str, ...]] = ("reward", "teacher", "corpus", "judge")
    later_fields: ClassVar[tuple[str, ...]] = ("redraws", "environment", "max_staleness", "correction", "method")
    packing: ClassVar[bool] = False  # what methods of tuning ask

    method: AnyMethod = Full()
    """What is trained, as in `sft`: `full`, or an adapter, `lora` or `qlora`, which alone travels to the engines."""
    steps: Annotated[int, Meta(ge=1)] = 50
    """Optimizer steps, each on `global_batch_size` completions."""
    minibatches_per_rollout: Annotated[int, Meta(ge=1)] = 1
    """Steps that the completions of one rollout are divided among, by whole groups."""
    epochs_per_rollout: Annotated[int, Meta(ge=1)] = 1
    """Passes over the completions of a rollout (PPO's epochs, GRPO's mu), each in an order of its own."""
    group_size: Annotated[int, Meta(ge=1)] = 8
    """Completions of one prompt (GRPO's G)."""
    redraws: Annotated[int, Meta(ge=0)] = 0
    """Times that prompts whose answers all have the same reward are dropped for the next ones of the order (DAPO's
    dynamic sampling, arXiv:2503.14476, section 3.2); what is still missing then is filled up with dropped ones."""
    max_staleness: Annotated[int, Meta(ge=0)] = 0
    """Rollouts that a token's weights may be behind when it is first learned from. At 0 engines and learner take turns,
    and a run repeats to the bit; above, so many rollouts are drawn ahead while the learner learns, by weights that
    change in the midst of an answer."""
    correction: Correction | None = None
    """How the loss makes up for tokens that other weights drew, or the engine otherwise than the learner:
    `{kind, over, bound}`, importance sampling beside the ratio that the loss clips (docs/alignment.md); none: that
    ratio is measured from what the engine said."""
    rewards: dict[Function, float | AnyReward] = field(default_factory=lambda: {"python_parses": 1.0})
    """The parts of the reward, whose weighted sum counts. A number is a weight: of a type of
    pipelines/stages/alignment/rewards/, of `module:function`, or of `reward_model` (the sigmoid of the reward model's
    score). A struct says its `type`, its weight and more, under a name of yours."""
    environment: AnyEnvironment | None = None
    """Whom the model speaks to in several turns before its answer ends: `tools`, or a function of your own (`python`);
    none: an answer is one turn."""
    overlong_tokens: Annotated[int, Meta(ge=0)] = 0
    """Over the last so many tokens of `max_completion_tokens` a penalty grows from 0 to 1 (DAPO's soft overlong
    punishment, arXiv:2503.14476, equation 13); 0: none."""
    advantage: AnyAdvantage = Group()
    """How much better an answer is than expected: `group` (GRPO, Dr. GRPO), `leave_one_out` (RLOO), `normalized_batch`
    (REINFORCE++), `gae` (PPO, with a critic), `distillation` (by a teacher)."""
    loss: AnyPolicyLoss = Clipped()
    """The loss of a token: `clipped` (PPO, GRPO, DAPO), `gspo`, `cispo`."""
    mean_over: Literal["tokens", "answers", "length"] = "tokens"
    """The mean of the losses is over all tokens of a step (DAPO), over answers of their own means (GRPO, GSPO), or over
    answers of `max_completion_tokens` each (Dr. GRPO)."""
    kl_coef: Annotated[float, Meta(ge=0)] | AdaptiveKl = 0.02
    """Weight of the KL penalty towards the model that training starts from; at 0 that model is not loaded, and no KL is
    told. Or `{start, target, horizon}`: it follows the KL (Ziegler et al. 2019, arXiv:1909.08593)."""
    kl_penalty: Literal["token", "sequence", "reward"] = "token"
    """What the penalty descends, KL(policy || start): at each token, the tokens before it held fixed (k3 times the
    probability ratio), or of whole completions (the KL of the tokens still to come, too; higher variance). `reward`: it
    is no term of the loss, but taken off the reward of each token, as usual for PPO."""
    max_kl: Annotated[float, Meta(ge=0)] = 0.0
    """Bound on the mean KL (nats per token): a step that finds it exceeded learns from the penalty alone; 0: none."""
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    """Temperature of the samples."""
    max_prompt_tokens: Annotated[int, Meta(ge=1)] = 256
    """Prompts with more tokens are left out and counted."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] = 128
    """Longest completion; with `max_prompt_tokens` it must fit into the model's context."""
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-5
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "constant"
    """Learning rate after warm-up; `wsd` keeps the peak and decays over the last `decay_fraction`."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 5
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """Decoupled weight decay of matrices; none on biases, norms and embeddings."""
    evaluate_every_steps: Annotated[int, Meta(ge=0)] = 10
    """Steps between evaluations on held-out prompts; the first and the last weights are always evaluated."""
    evaluation_prompts: Annotated[int, Meta(ge=1)] = 256
    """Held-out prompts of an evaluation, one completion each."""

    def check(self) -> None:
        super().check()
        if self.start_batch_size is not None:
            raise SpecError("rlhf.start_batch_size: the batch of completions does not grow", "Leave it out.")
        if self.global_batch_size % self.group_size:
            raise SpecError(
                f"rlhf.group_size: {self.group_size} does not divide the global batch of {self.global_batch_size}",
                "The batch is prompts times group_size.",
            )
        if self.group_size == 1 and self.advantage.compares:
            raise SpecError(
                f"rlhf.group_size: {self.advantage.name} compares the answers to one prompt, and there is one",
                "Set it to 2 or more, or rlhf.advantage to normalized_batch.",
            )
        if self.steps % self.steps_per_rollout:
            raise SpecError(
                f"rlhf.steps: {self.steps} steps are not a multiple of the {self.steps_per_rollout} of a rollout "
                "(minibatches_per_rollout times epochs_per_rollout)",
                "The completions of the last rollout would be learned from in part.",
            )
        if self.overlong_tokens > self.max_completion_tokens:
            raise SpecError("rlhf.overlong_tokens: more than rlhf.max_completion_tokens", "Lower it.")
        if self.max_kl and not self.kl_coef:
            raise SpecError(
                "rlhf.max_kl: a step beyond it learns from the KL penalty alone, and kl_coef is 0",
                "Set rlhf.kl_coef above 0, or leave max_kl out.",
            )
        if self.redraws and self.group_size == 1:
            raise SpecError(
                "rlhf.redraws: one answer to a prompt cannot differ from the others",
                "Leave it at 0, or set rlhf.group_size to 2 or more.",
            )
        if self.redraws and self.max_staleness:
            raise SpecError(
                "rlhf.max_staleness: what rlhf.redraws draws depends on the rollout before, which is not known ahead",
                "Set one of them to 0.",
            )
        critic = self.advantage.value_function
        if critic and critic.start == "reward" and REWARD_MODEL not in self.rewards:
            raise SpecError(
                "rlhf.advantage.critic.start: `reward` begins as the reward model, which is not among rlhf.rewards",
                f"Weigh {REWARD_MODEL} there, or set it to policy or head.",
            )
        check_method(self)
        named.check(self.rewards, "rlhf.rewards", learned=not self.advantage.teaches)
        if self.rewards_steps and not self.advantage.takes_steps:
            raise SpecError(
                f"rlhf.rewards: `process` rewards single steps, and rlhf.advantage {self.advantage.name} compares "
                "whole answers",
                "Set rlhf.advantage.type to gae, or to normalized_batch without subtract_group_mean.",
            )
        if self.environment and 2 * self.environment.turn_tokens > self.max_completion_tokens:
            raise SpecError(
                f"rlhf.environment.turn_tokens: two turns of {self.environment.turn_tokens} tokens are more than "
                f"rlhf.max_completion_tokens, {self.max_completion_tokens}, which bounds all turns",
                "Raise the one or lower the other.",
            )

    def check_scaling(self, scaling: ScalingSpec) -> None:
        super().check_scaling(scaling)
        self.method.check_scaling(scaling)
        if scaling.colocated_fraction and self.max_staleness:
            raise SpecError(
                "scaling.colocated_fraction: engines rest while workers learn, when rlhf.max_staleness has them draw",
                "Set one of them to 0.",
            )

    @property
    def steps_per_rollout(self) -> int:
        return self.minibatches_per_rollout * self.epochs_per_rollout

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if (REWARD_MODEL in self.rewards) != ("reward" in inputs):
            raise SpecError("rlhf.rewards: `reward_model` and the input `reward` go together", "Give both, or neither.")
        if self.advantage.teaches != ("teacher" in inputs):
            raise SpecError(
                "rlhf.advantage: `distillation` and the input `teacher` go together", "Give both, or neither."
            )
        if bool(self.model_judges) != ("judge" in inputs):
            raise SpecError(
                "rlhf.rewards: one of type `judge_model` and the input `judge` go together", "Give both, or neither."
            )
        if self.searches != ("corpus" in inputs):
            raise SpecError(
                "rlhf.environment.tools: `search` and the input `corpus` go together", "Give both, or neither."
            )

    @property
    def searches(self) -> bool:
        return self.environment is not None and self.environment.searches

    @property
    def model_judges(self) -> dict[str, JudgeModel]:
        """The rewards that ask the input `judge`, by name."""
        return {name: each for name, each in named.named(self.rewards).items() if isinstance(each, JudgeModel)}

    @property
    def first_kl_coef(self) -> float:
        """The KL coefficient of the first rollout."""
        return self.kl_coef.start if isinstance(self.kl_coef, AdaptiveKl) else self.kl_coef

    @property
    def rewards_steps(self) -> bool:
        """Whether some reward is of single steps of an answer, and learned from."""
        return not self.advantage.teaches and any(each.by_step for each in named.named(self.rewards).values())

    @property
    def looks_back(self) -> bool:
        """Whether more than its rewards must be known of a rollout before it is learned from."""
        known = self.advantage.value_function is not None or self.advantage.teaches or self.rewards_steps
        return known or self.kl_penalty == "reward" or isinstance(self.kl_coef, AdaptiveKl) or self.remembers_policy

    @property
    def remembers_policy(self) -> bool:
        """Whether the policy's log-probabilities before the first step of a rollout are needed in later ones."""
        return self.correction is not None and self.steps_per_rollout > 1

    def unused_inputs(self) -> Collection[str]:
        used = {
            "reward": REWARD_MODEL in self.rewards,
            "teacher": self.advantage.teaches,
            "corpus": self.searches,
            "judge": bool(self.model_judges),
        }
        return [name for name, wanted in used.items() if not wanted]
