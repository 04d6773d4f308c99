r"""ChatDoctor's line (Li et al. 2023, arXiv:2303.14070): a model learns to follow instructions, then to answer
patients, round after round, each with its answers to held-out questions and the loss on all rounds before.

ctl run pipelines/chatdoctor.py --set pretrained.source=hub:OWNER/NAME
ctl run pipelines/chatdoctor.py --set healthcaremagic.path=HealthCareMagic-100k.json --set icliniq.path=iCliniq.json

Batches, rates and lengths are those of the published training script. Ours is that a tenth of each later round are
conversations of the rounds before it, so that less is forgotten: `replay_fraction` of its step.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, ExportSpec, GenerationSpec, PretrainedSpec, SftSpec

# The rounds in their order. iCliniq was held out by the authors; it is the last round here.
ROUNDS = {
    "alpaca": ConversationsSpec(source="file", path="hub:tatsu-lab/alpaca", format="alpaca", license="CC-BY-NC-4.0"),
    "genmedgpt": ConversationsSpec(source="file", path="hub:wangrongsheng/GenMedGPT-5k-en", format="genmedgpt"),
    "healthcaremagic": ConversationsSpec(
        source="file", path="hub:lavita/ChatDoctor-HealthCareMagic-100k", format="healthcaremagic"
    ),
    "icliniq": ConversationsSpec(source="file", path="hub:lavita/ChatDoctor-iCliniq", format="icliniq"),
}
REPLAYED = 0.1
RECIPE = {
    "template": "alpaca",
    "epochs": 3.0,
    "global_batch_size": 192,
    "sequence_length": 512,
    "too_long": "cut-end",
    "learning_rate": 2e-5,
    "warmup_fraction": 0.03,
    "weight_decay": 0.0,
    "schedule": "cosine",
}


@pipeline
def chatdoctor(step):
    """Four rounds over one base, each measured on all before it, and the last model's folder with its card."""
    model = step(PretrainedSpec(source="hub:huggyllama/llama-7b"))
    earlier = {}
    for name, spec in ROUNDS.items():
        conversations = step(spec, name=name)
        replayed = REPLAYED if earlier else 0.0
        before = {f"validation_{known}": given for known, given in earlier.items()}
        before |= {f"replay_{known}": given for known, given in earlier.items()} if replayed else {}
        tuning = SftSpec(**RECIPE, replay_fraction=replayed)
        model = step(tuning, name=f"{name}_sft", model=model, conversations=conversations, **before)
        step(GenerationSpec(max_prompts=200), name=f"{name}_answers", model=model, prompts=conversations)
        earlier[name] = conversations
    return step(ExportSpec(), model=model)


if __name__ == "__main__":
    main(chatdoctor)
