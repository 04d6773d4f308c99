"""A rank's part of a training state as one safetensors file: copied quickly, written at leisure, read in any cut.

A parameter is a matrix of its first dimension by all others. Tensors are rectangles of it, named
KEY/PARAMETER/ROW/COLUMN by where they begin. Whoever reads asks for another rectangle, and does not see how the writers
had divided the parameter; of files in an object store only those that hold some of it are fetched.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

from cluster.core.errors import InputError
from cluster.core.storage.artifact import FileEntry
from cluster.core.storage.location import Location

CHUNK_BYTES = 1 << 24
HEADER_BYTES = 8  # the length of the header that follows
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64", torch.uint8: "U8"}
TYPES = {name: dtype for dtype, name in DTYPES.items()}


class Snapshot:
    """A buffer that tensors are copied to, in the layout of the file; kept from one checkpoint to the next."""

    def __init__(self) -> None:
        self._header = b""
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def copy(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Copy named tensors."""
        ordered = sorted(tensors, key=lambda named: -named[1].element_size())  # each aligned to its own size
        header: dict[str, Any] = {}
        ends = [0]
        for name, tensor in ordered:
            ends.append(ends[-1] + tensor.numel() * tensor.element_size())
            header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends[-2:]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        if self._buffer.numel() != ends[-1]:
            self._buffer = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        for (_, tensor), begin, end in zip(ordered, ends, ends[1:], strict=False):
            self._buffer[begin:end].view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def write(self, file: IO[bytes]) -> FileEntry:
        """Write the copy, and return the file's size and digest."""
        digest = hashlib.sha256(self._header)
        file.write(self._header)
        data = memoryview(self._buffer.numpy())
        for start in range(0, len(data), CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            digest.update(chunk)
            file.write(chunk)
        return FileEntry(len(self._header) + len(data), digest.hexdigest())


class PartFile:
    """One file of a training state: its header, and the whole once a tensor of it is asked for.

    From an object store it is copied into `folder` then, and compared with what was written.
    """

    def __init__(self, place: Location, name: str, entry: FileEntry | None = None, folder: Path | None = None) -> None:
        self.place, self.name, self.entry = place, name, entry
        self._path = place.path / name if folder is None or place.is_local else folder / name

    def header(self) -> dict[str, tuple[str, list[int]]]:
        """Type and shape of each tensor by name."""
        length = int.from_bytes(self.place.read_range(self.name, 0, HEADER_BYTES), "little")
        header = json.loads(self.place.read_range(self.name, HEADER_BYTES, HEADER_BYTES + length))
        header.pop("__metadata__", None)
        return {name: (tensor["dtype"], tensor["shape"]) for name, tensor in header.items()}

    def local(self) -> Path:
        """The whole file on a local disk. Raises InputError where what arrives from an object store is damaged."""
        if not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self.place.open(self.name) as source, self._path.open("wb") as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)
            self.verify()
        return self._path

    def verify(self) -> None:
        """Raise InputError where the file, on the local disk, is not what was written."""
        here = Location(self._path.parent)
        if self.entry and here.digest(self._path.name) != self.entry.sha256:
            raise InputError(f"{self.place.url}/{self.name} is damaged", "An older training checkpoint may be whole.")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: a rectangle of a parameter, from `row` and `column`."""

    row: int
    column: int
    dtype: str
    shape: list[int]
    file: PartFile
    name: str


class State:
    """The parts of a training state, open for reading. A context: the files are closed at its end."""

    def __init__(self, files: Iterable[PartFile], numbers: dict[str, dict[str, float]]) -> None:
        """`numbers`: what is one number for a whole group of the optimizer, by group and name."""
        self.numbers = numbers
        self._stack = ExitStack()
        self._opened: dict[PartFile, Any] = {}
        self._parts: dict[str, dict[str, list[Stored]]] = defaultdict(lambda: defaultdict(list))
        for file in files:
            for name, (dtype, shape) in file.header().items():
                key, parameter, row, column = name.split("/")
                self._parts[parameter][key].append(Stored(int(row), int(column), dtype, shape, file, name))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def keys(self, parameter: str) -> dict[str, torch.dtype]:
        """What there is of a parameter: its weights and its state in the optimizer, by name, and their types."""
        return {key: TYPES[stored[0].dtype] for key, stored in sorted(self._parts[parameter].items())}

    def read(self, key: str, parameter: str, row: int, column: int, into: Tensor) -> None:
        """Fill a matrix with the elements from `row` and `column`. Raises InputError where some are in no part."""
        height, width = into.shape
        filled = 0
        for stored in self._parts[parameter][key]:
            top, left, (high, wide) = stored.row, stored.column, stored.shape
            first, last = max(row, top), min(row + height, top + high)
            begin, end = max(column, left), min(column + width, left + wide)
            if first < last and begin < end:
                tensor = self._open(stored.file).get_slice(stored.name)
                found = tensor[first - top : last - top, begin - left : end - left]
                into[first - row : last - row, begin - column : end - column].copy_(found)
                filled += found.numel()
        if filled != into.numel():
            raise InputError(f"the training checkpoint has {filled} of {into.numel()} elements of {key} of {parameter}")

    def _open(self, file: PartFile) -> Any:
        if file not in self._opened:
            self._opened[file] = self._stack.enter_context(safe_open(file.local(), framework="pt"))
        return self._opened[file]
