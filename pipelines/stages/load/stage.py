"""The load stage: ask an endpoint as planned, and write what became of every request."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from cluster.core.context import Context, unheard
from cluster.core.errors import InputError, JobError
from cluster.core.specs.spec import fields
from pipelines.stages.generation import background
from pipelines.stages.load.driver import drive
from pipelines.stages.load.figures import Summary, figures
from pipelines.stages.load.report import RESULTS_FILE, SAMPLES_FILE, Report, encode, encode_samples, this_machine
from pipelines.stages.load.spec import LoadSpec
from pipelines.stages.load.target import probe, unsaid
from pipelines.stages.load.workload import plan

KEY_VARIABLE = "OPENAI_API_KEY"
Progress = Callable[[int, int], None]


def build(ctx: Context[LoadSpec]) -> dict[str, Any]:
    """Write results.json and samples.jsonl. Returns the figures that a list of artifacts shows.

    Raises InputError where the model that answers is not the input, JobError where nothing was answered.
    """
    wanted = ctx.inputs["model"].record.ref if "model" in ctx.inputs else ""
    report = measure(ctx.spec, lambda done, total: ctx.progress(done, total, "requests"), ctx.notice, wanted)
    ctx.output.write_bytes(SAMPLES_FILE, encode_samples(report.samples))
    ctx.output.write_bytes(RESULTS_FILE, encode(replace(report, samples=[])))
    found = report.figures
    shown: dict[str, Summary | None] = {"ttft": found.ttft, "tpot": found.tpot, "e2e": found.e2e}
    latencies = {
        f"{name}_{at}_seconds": round(getattr(each, at), 6)
        for name, each in shown.items()
        if each
        for at in ("p50", "p99")
    }
    rates = {
        "requests_per_second": round(found.requests_per_second, 3),
        "output_tokens_per_second": round(found.output_tokens_per_second, 3),
    }
    good = {} if found.goodput_per_second is None else {"goodput_per_second": round(found.goodput_per_second, 3)}
    return {"answered": found.answered, "failed": found.failed, **latencies, **rates, **good}


def measure(
    spec: LoadSpec,
    progress: Progress = lambda done, total: None,
    notice: Callable[[str], None] = unheard,
    wanted: str = "",
) -> Report:
    """Ask the endpoint of a spec as it says. `wanted`: the artifact that is to answer, if one is."""
    key = os.environ.get(KEY_VARIABLE, "")
    base_url = spec.url.rstrip("/")
    target = probe(base_url, key, spec.model)
    if wanted and target.seen["artifact"] != wanted:
        raise InputError(
            f"{base_url} answers by {target.seen['artifact'] or 'what names no artifact'}, not by {wanted}",
            "Give the model that is served there, or none.",
        )
    notes = unsaid(spec, target)
    for note in notes:
        notice(f"{base_url}: {note}")
    warm, measured = plan(spec, target)
    work = drive(
        base_url, key, warm, measured, concurrency=spec.concurrency, timeout_seconds=spec.timeout_seconds,
        progress=progress,
    )  # fmt: skip
    driven = background.run(work)
    found = figures(driven, spec.slo)
    if not found.answered:
        said = next((sample.said for sample in driven.samples if sample.said), "")
        ends = ", ".join(f"{end}: {count}" for end, count in found.failed.items())
        raise JobError(f"{base_url} answered none of {found.requests} requests ({ends}) {said}".rstrip())
    if found.client.bottleneck:
        notice(f"the client itself was slow: {found.client.bottleneck}; the figures are not the endpoint's alone")
    return Report(
        spec=fields(spec),
        endpoint=target.seen,
        machine=this_machine(),
        figures=found,
        notes=notes,
        samples=driven.samples,
    )
