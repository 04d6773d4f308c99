r"""HuaTuo's two rounds (Wang et al. 2023, arXiv:2304.06975): questions made from a Chinese medical knowledge graph,
then dialogues about the literature, by LoRA as in the authors' script.

ctl run pipelines/huatuo.py --set knowledge.path=data/llama_data.json --set literature.path=data/liver_cancer.json
ctl run pipelines/huatuo.py --set pretrained.source=hub:OWNER/NAME ...

The files are those of the authors' repository (SCIR-HI/Huatuo-Llama-Med-Chinese, folders data and data-literature).
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ConversationsSpec, GenerationSpec, Lora, PretrainedSpec, SftSpec

RECIPE = {
    "template": "alpaca",
    "method": Lora(rank=8, alpha=16, dropout=0.05, targets=("q_proj", "v_proj")),
    "epochs": 10.0,
    "global_batch_size": 128,
    "sequence_length": 256,
    "too_long": "cut-end",
    "learning_rate": 3e-4,
    "warmup_steps": 100,
    "schedule": "linear",
}


@pipeline
def huatuo(step):
    """Knowledge, then literature with a tenth of the knowledge again; the loss on the first round is told of both."""
    base = step(PretrainedSpec(source="hub:huggyllama/llama-7b"))
    read = {"source": "file", "format": "huatuo", "license": "Apache-2.0"}
    knowledge = step(ConversationsSpec(path="data/llama_data.json", **read), name="knowledge")
    literature = step(ConversationsSpec(path="data-literature/liver_cancer.json", **read), name="literature")
    first = step(SftSpec(**RECIPE), name="knowledge_sft", model=base, conversations=knowledge)
    second = step(
        SftSpec(**RECIPE, replay_fraction=0.1),
        name="literature_sft",
        model=first,
        conversations=literature,
        replay_knowledge=knowledge,
        validation_knowledge=knowledge,
    )
    for name, model, prompts in (("knowledge", first, knowledge), ("literature", second, literature)):
        step(GenerationSpec(language="chinese", max_prompts=200), name=f"{name}_answers", model=model, prompts=prompts)
    return second


if __name__ == "__main__":
    main(huatuo)
