"""Python as a tool: what a program prints in the sandbox."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from cluster.core.sandbox import sandbox


class Program(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a program may use. It has Python's standard library, and nothing that another one has left."""

    cpu_seconds: Annotated[int, Meta(ge=1)] = 5
    """Processor time."""
    wall_seconds: Annotated[float, Meta(gt=0)] = 10.0
    """Time where it waits, the start of Python included; less than the environment's `timeout_seconds`."""
    memory_bytes: Annotated[int, Meta(ge=1 << 26)] = 1 << 29
    """Memory."""
    output_characters: Annotated[int, Meta(ge=1, le=1500)] = 500
    """What the model is shown of the output: its beginning."""
    isolation: Literal["namespaces", "process"] = "namespaces"
    """`namespaces`: it sees no file, network or process of this machine; `process`, where the kernel does not allow
    that, only limits it."""

    def limits(self) -> sandbox.Limits:
        return sandbox.Limits(self.cpu_seconds, self.wall_seconds, self.memory_bytes, self.isolation)


def printed(code: str, program: Program) -> str:
    """What Python code prints, and the value that it ends with; why it ended early, where it did, on a last line.

    Raises ValueError for what is no text.
    """
    if not isinstance(code, str):
        raise ValueError("a program is text")
    found = sandbox.execute(code, program.limits())
    text = found.output.decode(errors="replace").rstrip()
    if len(text) > program.output_characters:
        text = f"{text[: program.output_characters]} ... ({len(text)} characters)"
    lines = [*([text] if text else []), *([f"error: {found.error}"] if found.error else [])]
    return "\n".join(lines) or "nothing was printed"
