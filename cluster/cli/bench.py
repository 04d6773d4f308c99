"""`ctl bench`: how endpoints bear load."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.lazy import group
from cluster.cli.options import KeyFile, StoreRoot, fields_of, key_in
from cluster.cli.output import AsJson, Progress, print_json, print_table

if TYPE_CHECKING:
    from pipelines.stages.load.report import Report
    from pipelines.stages.load.spec import LoadSpec

bench = group("Load tests of endpoints: serve, compare.")

SERVE_PATH = "/api/serve/applications/"


@bench.command()
def serve(
    endpoint: Annotated[str, typer.Argument(metavar="URL_OR_ENDPOINT", help="Address, or name on this cluster.")],
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Requests a second, whatever the endpoint does.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Clients that wait for their answers [1].")
    ] = None,
    requests: Annotated[int | None, typer.Option("--requests", min=1, help="How many [100].")] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option("--prompt-tokens", help="128, 64..256 or lognormal:MEDIAN,SIGMA [128].")
    ] = None,
    output_tokens: Annotated[str | None, typer.Option("--output-tokens", help="Likewise [64].")] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", help="File of prompts: JSON lines, or lines.")] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Request log to repeat: of `ctl serve keys log --json`.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat/--completions", help="Which API is asked.")] = False,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Whether answers are streamed.")] = True,
    slo: Annotated[str, typer.Option("--slo", help="What a good answer takes: ttft=200ms,tpot=50ms,e2e=2s.")] = "",
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of arrivals, lengths and prompts [0].")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="load.FIELD=VALUE", help="Override a field; may be repeated.")
    ] = None,
    key_file: KeyFile = None,
    name: Annotated[str, typer.Option("--name", help="Name of the artifact.")] = "load",
    out: Annotated[Path | None, typer.Option("--out", help="Write a JSON file instead of an artifact.")] = None,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Ask an endpoint at a rate, or with so many clients, and tell latencies, throughput and goodput.

    Latencies count from when a request should have been sent: at a rate, one that waits behind a slow answer is not
    sent later, and counts its wait. `ctl spec schema load` lists all fields.
    """
    import datetime

    from cluster.core.errors import UsageError

    if rate and concurrency:
        raise UsageError("--rate or --concurrency", "A rate does not wait for answers, and clients do.")
    if key := key_in(key_file):
        os.environ["OPENAI_API_KEY"] = key  # the stage takes it from there; no spec holds it
    given = {
        "url": _address(endpoint),
        "rate": rate,
        "concurrency": concurrency,
        "requests": requests,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "prompts": str(prompts.absolute()) if prompts else None,
        "replay": str(replay.absolute()) if replay else None,
        "api": "chat" if chat else "completions",
        "stream": stream,
        "slo": _slo(slo),
        "seed": seed,
        "run": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    }
    spec = _spec({field: value for field, value in given.items() if value is not None}, set_ or [])
    report, said = _measured(spec, name, out, store, quiet=as_json)
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(report))
        return
    _tell(report)
    print(said)


def _measured(spec: "LoadSpec", name: str, out: Path | None, store: str | None, quiet: bool) -> "tuple[Report, str]":
    """The report, and where it is."""
    import sys

    from cluster.core.build import build
    from cluster.core.errors import InputError
    from cluster.core.storage.store import Store
    from pipelines.stages.load import stage, target
    from pipelines.stages.load.report import encode, read

    def notice(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    progress = Progress("requests", quiet)
    if out is not None:
        report = stage.measure(spec, progress, notice)
        out.write_bytes(encode(report))
        return report, f"the report: {out}"
    opened, inputs = Store(store), {}
    answering = target.probe(spec.url, os.environ.get("OPENAI_API_KEY", ""), spec.model).seen["artifact"]
    if answering:
        try:
            inputs["model"] = opened.resolve(answering)
        except InputError:
            notice(f"{answering}, which answers, is not in {opened.root.url}: the report's lineage ends there")
    artifact = build(
        spec, inputs, store=opened, name=name, report=lambda done, total, *_: progress(done, total), notice=notice
    )
    return read(artifact.record.ref, store)[1], f"the report: {artifact.record.ref}"


def _address(endpoint: str) -> str:
    """The base URL of an address, or of a name on the running cluster."""
    if "://" in endpoint:
        base = endpoint.rstrip("/")
        return base if base.endswith("/v1") else f"{base}/v1"
    from cluster.control.dashboard import dashboard_url, request
    from cluster.core.errors import InputError, nearest
    from serving.endpoints import from_details

    found = {each.name: each.base_url for each in from_details(request("GET", dashboard_url(), SERVE_PATH))}
    if endpoint not in found:
        raise InputError(
            f"no endpoint is called {endpoint!r}", nearest(endpoint, list(found)) if found else "None is running."
        )
    return found[endpoint]


def _slo(text: str) -> dict[str, float] | None:
    from pipelines.stages.load.spec import read_slo

    return read_slo(text) if text else None


def _spec(given: dict[str, Any], sets: list[str]) -> "LoadSpec":
    from cluster.core.specs.spec import override
    from pipelines.stages.load.spec import LoadSpec

    return override(LoadSpec(), {**given, **fields_of("load", sets)}, "load")


def _tell(report: "Report") -> None:
    found, spec = report.figures, report.spec
    how = f"{spec['rate']:g} a second ({spec['arrivals']})" if spec["rate"] else f"{spec['concurrency']} clients"
    how = f"replayed from {Path(spec['replay']).name}" if spec["replay"] else how
    print(f"{found.requests} requests, {how}, in {found.duration_seconds:.1f} s; answered: {found.answered}")
    for end, count in found.failed.items():
        print(f"  failed, {end}: {count}")
    rows = [
        (told, *(f"{1000 * getattr(each, at):,.1f}" for at in ("mean", "p50", "p95", "p99", "most")))
        for told, each in (
            ("TTFT", found.ttft),
            ("TPOT", found.tpot),
            ("inter-token", found.itl),
            ("whole answer", found.e2e),
        )
        if each
    ]
    print_table(("ms", "mean", "p50", "p95", "p99", "most"), rows, "")
    print(
        f"{found.requests_per_second:.2f} requests, {found.output_tokens_per_second:,.1f} output tokens, "
        f"{found.total_tokens_per_second:,.1f} tokens a second"
    )
    if found.goodput_per_second is not None:
        within = ", ".join(f"{name} {1000 * seconds:g} ms" for name, seconds in found.slo.items())
        print(f"goodput {found.goodput_per_second:.2f} a second: {found.good} of {found.requests} within {within}")
    if found.artifacts:
        print(f"answered by {', '.join(f'{ref} ({count})' for ref, count in found.artifacts.items())}")
    client = found.client
    late = f"late by {1000 * client.lateness.p99:.1f} ms (p99), " if client.lateness else ""
    print(f"the client: {late}{client.cpu_share:.0%} of a core")


@bench.command()
def compare(
    refs: Annotated[
        list[str],
        typer.Argument(help="Load tests: artifacts, or files of --out. The first is what others are held to."),
    ],
    plot: Annotated[Path | None, typer.Option("--plot", help="Picture to write: FILE.svg or FILE.png.")] = None,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Lay load tests side by side, and draw their latencies."""
    import sys

    import msgspec

    from cluster.core.errors import UsageError
    from pipelines.stages.load.compare import picture, table, unlike
    from pipelines.stages.load.report import read

    if len(refs) < 2:
        raise UsageError("two load tests are needed, or more", "Name each once.")
    reports = [read(ref, store) for ref in refs]
    if as_json:
        print_json({name: msgspec.to_builtins(report.figures) for name, report in reports})
    else:
        for number, (name, report) in enumerate(reports, 1):
            print(f"[{number}] {name}: {report.endpoint.get('artifact') or report.spec['url']}")
        headings = ("", "better", *(f"[{number}]" for number in range(1, len(reports) + 1)))
        print_table(headings, table(reports), "No figures.")
    if fields := unlike(reports):
        print(f"they were not asked the same: {', '.join(fields)}", file=sys.stderr)
    for name, report in reports:
        if report.figures.client.bottleneck:
            print(f"{name}: the client itself was slow: {report.figures.client.bottleneck}", file=sys.stderr)
    if plot is not None:
        plot.write_bytes(picture(reports, plot.suffix.removeprefix(".")))
        if not as_json:
            print(f"the picture: {plot}")
