"""`ctl artifacts`: what was built, from what, and whether it is still whole."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.lazy import group
from cluster.cli.options import StoreRoot
from cluster.cli.output import AsJson, print_json, print_table, size

artifacts = group("Artifacts: list, show, trace, verify, compare, export, alias, collect.")

ORIGIN_FILE = "trunkline.json"  # how a folder outside the store names its origin


class Format(StrEnum):
    """What an artifact is exported as."""

    files = "files"
    gguf = "gguf"
    onnx = "onnx"


class Numbers(StrEnum):
    """What llama.cpp calls the numbers of weights."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"
    q4_1 = "q4_1"
    q4_0 = "q4_0"


Ref = Annotated[str, typer.Argument(help="Alias, kind/name, name, or the beginning of a fingerprint.")]


@artifacts.command("list")
def list_(
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind.")] = None,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """List the finished artifacts, oldest first."""
    from cluster.core.storage.store import Store

    opened = Store(store)
    names = {target: alias for alias, target in opened.aliases().items()}
    found: list[dict[str, Any]] = [
        {
            "ref": a.record.ref,
            "alias": names.get(f"{a.kind}/{a.fingerprint}", ""),
            "size_bytes": a.record.size_bytes,
            "duration_seconds": a.record.duration_seconds,
            "built_at": a.record.started_at,
        }
        for a in opened.list(kind)
    ]
    if as_json:
        print_json(found)
        return
    rows = [
        (i["ref"], i["alias"], size(i["size_bytes"]), f"{i['duration_seconds']:.1f} s", i["built_at"]) for i in found
    ]
    print_table(("artifact", "alias", "size", "took", "built at"), rows, f"No artifacts in {opened.root.url}.")


@artifacts.command()
def show(ref: Ref, store: StoreRoot = None, as_json: AsJson = False) -> None:
    """Show one artifact's record: spec, parents, code, versions, metrics, files."""
    import msgspec

    from cluster.core.storage.store import Store

    artifact = Store(store).resolve(ref)
    record = msgspec.to_builtins(artifact.record)
    if as_json:
        print_json(record)
        return
    import yaml

    files = record.pop("files")
    print(f"{artifact.record.ref}  ({artifact.location.url})")
    print(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), end="")
    rows = [(name, size(entry["size_bytes"]), entry["sha256"][:12]) for name, entry in files.items()]
    print_table(("file", "size", "sha256"), rows, "no files")


@artifacts.command()
def lineage(ref: Ref, store: StoreRoot = None, as_json: AsJson = False) -> None:
    """Show everything an artifact was made from: specs, metrics, code commits, package versions."""
    from cluster.core.lineage import lineage as trace
    from cluster.core.lineage import render
    from cluster.core.storage.store import Store

    tree = trace(Store(store).resolve(ref))
    if as_json:
        print_json(tree)
    else:
        print(render(tree))


@artifacts.command()
def sources(
    ref: Annotated[str, typer.Argument(help="The artifact that answered, as the header trunkline-artifact names it.")],
    answer: Annotated[str, typer.Argument(metavar="FILE", help="Its answer: text, or the API's JSON; - reads it in.")],
    words: Annotated[int, typer.Option("--words", min=12, help="Words in a row that must be the same.")] = 12,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Documents that are shown, at most.")] = 20,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Find the training documents that share long runs of words with an answer, and their licences.

    They are looked for in the corpora that the artifact comes from, by an index that is built once for each and kept on
    this machine. What is shared may be common: it is no proof of where an answer comes from.
    """
    import sys

    import msgspec

    from cluster.core.errors import InputError
    from cluster.core.storage.store import Store
    from pipelines.stages.corpus.shared_text import answer_in, corpora_of, shared_with

    try:
        saved = sys.stdin.read() if answer == "-" else Path(answer).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{answer}: {error}", "Give a file with the answer, or -.") from None
    found = shared_with(corpora_of(Store(store).resolve(ref)), answer_in(saved), words)[:limit]
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [(each.longest_words, f"{each.share:.0%}", each.license, each.document, each.corpus) for each in found]
    headings = ("words in a row", "of the answer", "licence", "document", "corpus")
    print_table(headings, rows, f"No training document shares {words} words in a row with it.")
    for each in found:
        print(f"\n{each.document}{each.url and f' ({each.url})'}\n  {each.text}")


@artifacts.command()
def verify(
    ref: Annotated[str | None, typer.Argument(help="Artifact to check; all of them without it.")] = None,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Compare every file with the digest in its artifact's record; exit code 5 where one differs."""
    from cluster.core.errors import JobError
    from cluster.core.storage.store import Store, problems

    opened = Store(store)
    chosen = [opened.resolve(ref)] if ref else opened.list()
    found = {a.record.ref: problems(a) for a in chosen}
    if as_json:
        print_json(found)
    else:
        for name, wrong in found.items():
            print(f"{name}: {'; '.join(wrong) if wrong else 'ok'}")
    if damaged := [name for name, wrong in found.items() if wrong]:
        raise JobError(f"{len(damaged)} damaged: {', '.join(damaged)}", "Remove the folder and build it again.")


@artifacts.command()
def diff(old: Ref, new: Ref, store: StoreRoot = None, as_json: AsJson = False) -> None:
    """Show how two artifacts differ: fields of the spec, parents, code, versions, metrics."""
    import msgspec

    from cluster.core.specs.spec import diff as compare
    from cluster.core.storage.store import Store

    opened = Store(store)
    pair = [msgspec.to_builtins(opened.resolve(ref).record) for ref in (old, new)]
    sections = {
        name: compare(pair[0][name], pair[1][name]) for name in ("spec", "named", "parents", "code", "versions")
    }
    sections["metrics"] = compare(pair[0]["metrics"], pair[1]["metrics"])
    if as_json:
        print_json(sections)
        return
    rows = [(section, line) for section, lines in sections.items() for line in lines]
    print_table(("part", "difference"), rows, "No difference.")


@artifacts.command()
def export(
    ref: Ref,
    folder: Annotated[Path, typer.Argument(help="New folder to write, such as a Hugging Face model folder.")],
    format: Annotated[
        Format, typer.Option("--format", help="`files` as they are; a model also as `gguf` (llama.cpp) or `onnx`.")
    ] = Format.files,
    numbers: Annotated[
        Numbers | None, typer.Option(help="Numbers of a GGUF's matrices [the model's own, or of as many bits].")
    ] = None,
    store: StoreRoot = None,
) -> None:
    """Copy an artifact's files, verified, into a new folder; or write a model in a format of other programs."""
    import shutil

    from cluster.core.errors import InputError, JobError, UsageError
    from cluster.core.storage.artifact import RECORD_FILE
    from cluster.core.storage.store import Store, problems

    if numbers and format != Format.gguf:
        raise UsageError("--numbers are those of a GGUF", "Add `--format gguf`.")
    artifact = Store(store).resolve(ref)
    if folder.exists():
        raise InputError(f"{folder} exists already", "Give a new folder, so that nothing is overwritten.")
    if wrong := problems(artifact):
        raise JobError(f"{artifact.record.ref} is damaged: {wrong[0]}", "Build it again.")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    if format == Format.files:
        artifact.location.get(partial)
        (partial / RECORD_FILE).rename(partial / ORIGIN_FILE)
    else:
        from pipelines.stages.export.other_formats import write_other

        partial.mkdir(parents=True)
        write_other(artifact, partial, format.value, numbers.value if numbers else "")
        (partial / ORIGIN_FILE).write_bytes(artifact.location.read_bytes(RECORD_FILE))
    partial.rename(folder)
    print(f"{artifact.record.ref} -> {folder}")


@artifacts.command()
def alias(
    name: Annotated[str | None, typer.Argument(help="Alias, such as chat@prod; lists all without it.")] = None,
    ref: Annotated[str | None, typer.Argument(help="Artifact that it shall point to.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias to an artifact, atomically; list or remove aliases."""
    from cluster.core.errors import UsageError
    from cluster.core.storage.store import Store

    opened = Store(store)
    if name is None:
        if as_json:
            print_json(opened.aliases())
        else:
            print_table(("alias", "artifact"), sorted(opened.aliases().items()), "No aliases.")
    elif remove:
        opened.remove_alias(name)
        print(f"{name} removed")
    elif ref is None:
        raise UsageError("which artifact?", f"Write `ctl artifacts alias {name} ARTIFACT`.")
    else:
        artifact = opened.resolve(ref)
        opened.set_alias(name, artifact)
        print(f"{name} -> {artifact.record.ref}")


@artifacts.command()
def gc(
    older_than_days: Annotated[float, typer.Option(help="Keep everything younger.", min=0)] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it only list what would go.")] = False,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Collect garbage: old artifacts that no alias, run or endpoint needs, and begun work that is as old.

    Begun work that is younger is listed and kept: the same command resumes from it.
    """
    from cluster.core.storage.gc import collect, resumable
    from cluster.core.storage.store import Store

    opened = Store(store)
    garbage = collect(opened, older_than_days, dry_run=not yes)
    begun = resumable(opened, older_than_days)
    if as_json:
        import msgspec

        print_json(msgspec.to_builtins(garbage + begun))
        return
    rows = [(item.place, size(item.size_bytes), item.reason) for item in garbage]
    print_table(("removed" if yes else "would go", "size", "why"), rows, "Nothing to collect.")
    if garbage and not yes:
        print("Add --yes to remove them.")
    if begun:
        print()
        print_table(("kept", "size", "why"), [(item.place, size(item.size_bytes), item.reason) for item in begun], "")
