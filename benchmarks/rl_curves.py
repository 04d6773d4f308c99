"""What reinforcement learning does to held-out answers, seed by seed. Run after `ctl demo`, on its store.

    python benchmarks/rl_curves.py demo|rlhf|grpo_code [--seeds 0 1 2] [--steps 20]

All begin with the demo's SFT model and learn at its batch size and rate. `demo` is the demo's own step (GRPO, parsing
and its reward model), `rlhf` is `pipelines/rlhf.py` (PPO, the same rewards), `grpo_code` is `pipelines/grpo_code.py`
on 600 functions of one line that are asked for as the demo's are, by head and docstring, with tests of each. Share of
answers that parse and KL (nats per token) are of held-out requests.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from cluster.core.graph import Step
from cluster.core.provenance import PROJECT_ROOT
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import build, load_script
from pipelines.quickstart import quickstart
from pipelines.specs import PassesTests, RlhfSpec
from pipelines.stages.alignment import curve

# Functions of a number, a text or a list: a head, what it says of itself, a call and what that gives.
ASKED = (
    ("add_{n}(number)", "Return number plus {n}.", "(3)", lambda n: 3 + n),
    ("take_{n}_off(number)", "Return number minus {n}.", "(3)", lambda n: 3 - n),
    ("times_{n}(number)", "Return number times {n}.", "(3)", lambda n: 3 * n),
    ("is_above_{n}(number)", "Return True if number is greater than {n}.", "(30)", lambda n: n < 30),
    ("is_{n}(number)", "Return True if number is {n}.", "(30)", lambda n: n == 30),
    ("first_{n}(items)", "Return the first {n} items.", "(list(range(99)))", lambda n: list(range(n))),
    ("without_first_{n}(items)", "Return items without the first {n}.", "('x' * 99)", lambda n: "x" * (99 - n)),
    ("repeat_{n}(text)", "Return text repeated {n} times.", "('ab')", lambda n: "ab" * n),
    ("get_{n}()", "Return {n}.", "()", lambda n: n),
    ("has_{n}(items)", "Return True if {n} is in items.", "([30, 31])", lambda n: n in (30, 31)),
)
NUMBERS = range(1, 61)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("demo", "rlhf", "grpo_code"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--store")
    given = parser.parse_args()
    store = Store(given.store) if given.store else Store()
    demo = quickstart.graph(store)
    step = demo.step("rlhf")
    own: Any = step.spec
    inputs = {name: store.get(i.kind, i.fingerprint) for name, i in step.inputs.items() if isinstance(i, Step)}
    spec: Any = own
    if given.what == "grpo_code":
        script = load_script(PROJECT_ROOT / "pipelines" / "grpo_code.py")
        with tempfile.TemporaryDirectory() as folder:
            changes = {"problems": {"path": str(_problems(Path(folder)))}}
            graph = script.graph(store, changes)
            asked = graph.step("problems")
            inputs = {"model": inputs["model"], "prompts": build(asked.spec, {}, store=store, name="one-line")}
        recipe: Any = graph.step("rlhf").spec
        spec = _as_demo(recipe, own)
        # The demo's answers are bodies: the recipe's other reward is of answers that are programs.
        spec = msgspec.structs.replace(
            spec, rewards={"tests": PassesTests(code="request_and_answer"), "python_parses": 0.1}
        )
    elif given.what == "rlhf":
        spec = _as_demo(load_script(PROJECT_ROOT / "pipelines" / "rlhf.py").graph(store).step("rlhf").spec, own)
    for seed in given.seeds:
        tried = msgspec.structs.replace(spec, seed=seed, steps=given.steps)
        _tell(seed, tried, build(tried, inputs, store=store, scaling=demo.scaling, name=f"{given.what}-{seed}"))


def _as_demo(spec: Any, own: Any) -> Any:
    """A recipe at the demo's size."""
    fields = ("global_batch_size", "learning_rate", "max_kl", "max_prompt_tokens", "max_completion_tokens")
    return msgspec.structs.replace(spec, **{name: getattr(own, name) for name in fields})


def _problems(folder: Path) -> Path:
    lines = []
    for head, says, call, of in ASKED:
        for number in NUMBERS:
            named, name = head.format(n=number), head.format(n=number).partition("(")[0]
            prompt = f'def {named}:\n    """{says.format(n=number)}"""'
            lines.append({"prompt": prompt, "tests": f"assert {name}{call} == {of(number)!r}"})
    path = folder / "one-line.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _tell(seed: int, spec: RlhfSpec, found: Artifact) -> None:
    points = curve.read(found.location)
    parsing = [point["heldout_python_parses"] for point in points]
    print(
        f"seed {seed}: {parsing[0]:.3f} -> {parsing[-1]:.3f}, {100 * (parsing[-1] - parsing[0]):+.1f} points; "
        f"KL {points[-1]['heldout_kl']:.3f} (bound {spec.max_kl}); parsing at steps "
        + ", ".join(f"{point['step']}: {share:.3f}" for point, share in zip(points, parsing, strict=True)),
        flush=True,
    )


if __name__ == "__main__":
    main()
