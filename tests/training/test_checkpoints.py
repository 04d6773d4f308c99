"""Checkpoints: written in the background, whole or not at all, verified before use, kept by policy."""

from __future__ import annotations

import itertools
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.stages.training.checkpoints.checkpoints import Checkpoints, Part
from pipelines.stages.training.checkpoints.snapshots import PartFile, Snapshot, State

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Model:
    """A training state that is one tensor and a counter."""

    def __init__(self, value: float = 0.0) -> None:
        self.weights = torch.full((50, 20), value)
        self.steps = value

    def save_state(self, snapshot: Snapshot) -> dict[str, dict[str, float]]:
        snapshot.copy([("weight/layer/0/0", self.weights)])
        return {"0": {"step": self.steps}}

    def load_state(self, state: State, notes: dict[str, Any]) -> None:
        state.read("weight", "layer", 0, 0, self.weights)
        self.steps = state.numbers["0"]["step"]


@pytest.fixture(params=["local", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    """With the checkpoints 10, 20 and 30, of values 1, 2 and 3, of which two are kept."""
    place = Location(tmp_path / "run" if request.param == "local" else f"memory://{tmp_path.name}")
    place.remove()
    found = Checkpoints(place, keep=2)
    found.load(Model().load_state)
    for step in (1, 2, 3):
        found.save(10 * step, 70 * step, Model(step).save_state, {"note": step})
        found.finish()
    return found


def newest(checkpoints: Checkpoints) -> tuple[int, float] | None:
    """The step of what a process that comes now would go on from, and the value it would find."""
    model = Model()
    part = Checkpoints(checkpoints.place, keep=2).load(model.load_state)
    assert part is None or model.weights.unique().item() == model.steps == part.notes["note"]
    return (part.step, model.steps) if part else None


def folder(checkpoints: Checkpoints, step: int) -> str:
    (found,) = (name for name in checkpoints.place.names() if name.startswith(f"step-{step:08d}"))
    return found


DATA, PART = "00000-of-00001.safetensors", "00000-of-00001.part"


def test_the_newest_is_loaded_and_the_oldest_dropped(checkpoints: Checkpoints) -> None:
    assert [name[:13] for name in checkpoints.whole()] == ["step-00000030", "step-00000020"]
    assert newest(checkpoints) == (30, 3)


def test_without_any_the_run_begins_at_its_beginning(tmp_path: Path) -> None:
    assert Checkpoints(Location(tmp_path / "none"), 2).load(Model().load_state) is None


@pytest.mark.parametrize("damage", ["flip 0", "flip 9", "flip 200", "truncate", "remove"])
@pytest.mark.parametrize("file", [DATA, PART])
def test_a_damaged_checkpoint_is_passed_over(checkpoints: Checkpoints, damage: str, file: str) -> None:
    place, name = checkpoints.place, f"{folder(checkpoints, 30)}/{file}"
    data = place.read_bytes(name)
    if damage == "remove":
        place.remove(name)
    else:
        at = int(damage.removeprefix("flip ")) if damage != "truncate" else -1
        place.write_bytes(name, data[:-1] if at < 0 else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert newest(checkpoints) == (20, 2)
    assert [name[:13] for name in checkpoints.whole()] == ["step-00000020"]


def test_a_half_uploaded_checkpoint_is_passed_over(checkpoints: Checkpoints) -> None:
    """Of two ranks one had written all of its part, the other half of its data."""
    place, whole = checkpoints.place, folder(checkpoints, 30)
    data, part = place.read_bytes(f"{whole}/{DATA}"), place.read_bytes(f"{whole}/{PART}")
    place.write_bytes("step-00000040-009/00000-of-00002.safetensors", data)
    later = msgspec.structs.replace(Part.decode(part), step=40)
    place.write_bytes("step-00000040-009/00000-of-00002.part", later.encode())
    place.write_bytes("step-00000040-009/00001-of-00002.safetensors", data[: len(data) // 2])
    assert newest(checkpoints) == (30, 3)
    assert not [name for name in place.names() if name.startswith("step-00000040")]


def test_two_attempts_do_not_write_into_one_folder(checkpoints: Checkpoints) -> None:
    checkpoints.place.remove(f"{folder(checkpoints, 30)}/{PART}")
    other = Checkpoints(checkpoints.place, keep=2)
    assert other.load(Model().load_state) is not None
    other.save(30, 210, Model(4).save_state, {"note": 4})
    other.finish()
    assert newest(checkpoints) == (30, 4)
    assert folder(checkpoints, 30) > folder(checkpoints, 20)


def test_the_loop_waits_for_the_copy_and_not_for_the_writing(tmp_path: Path) -> None:
    """`before_update` returns as soon as the state may change, though the file is not written yet."""
    copied, written = threading.Event(), threading.Event()
    model = Model(1)

    class Slow(Snapshot):
        def write(self, file):  # type: ignore[no-untyped-def]
            copied.set()
            assert written.wait(60)
            return super().write(file)

    found = Checkpoints(Location(tmp_path), keep=1)
    found._snapshot = Slow()
    found.load(model.load_state)
    found.save(1, 7, model.save_state, {"note": 1})
    found.before_update()
    model.weights += 1  # the next step
    assert copied.wait(60) and found.writing and not found.whole()
    written.set()
    found.finish()
    assert not found.writing
    assert newest(found) == (1, 1)


def test_what_goes_wrong_in_the_background_is_raised(tmp_path: Path) -> None:
    place = Location(tmp_path / "run")
    found = Checkpoints(place, keep=1)
    found.load(Model().load_state)
    (tmp_path / "run").write_text("a file where a folder should be")
    found.save(1, 7, Model(1).save_state, {})
    found.before_update()
    with pytest.raises(OSError):
        found.finish()


CUTS = st.tuples(*[st.lists(st.integers(0, 12), max_size=3).map(lambda cuts: [0, *sorted(cuts), 12])] * 2)


def grid(cuts: tuple[list[int], list[int]]) -> Iterator[tuple[slice, slice]]:
    """The rectangles that cuts of rows and columns make."""
    for rows in itertools.pairwise(cuts[0]):
        for columns in itertools.pairwise(cuts[1]):
            yield slice(*rows), slice(*columns)


@given(CUTS, CUTS)
def test_whatever_the_cut_a_state_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, cuts: tuple[list[int], list[int]], others: tuple[list[int], list[int]]
) -> None:
    """Writers that divide a parameter in one way, and readers that divide it in another."""
    root = tmp_path_factory.mktemp("cut")
    values = torch.arange(144, dtype=torch.float32).view(12, 12)
    files = []
    for number, part in enumerate(grid(cuts)):
        snapshot, name = Snapshot(), f"w/{part[0].start}/{part[1].start}"
        snapshot.copy([(f"weight/{name}", values[part]), (f"levels/{name}", values[part].byte())])
        files.append(root / f"{number}.safetensors")
        with files[-1].open("wb") as file:
            entry = snapshot.write(file)
        assert files[-1].stat().st_size == entry.size_bytes
        assert torch.equal(load_file(files[-1])[f"weight/{name}"], values[part])  # any safetensors reader can
    with State([PartFile(Location(root), file.name) for file in files], {}) as state:
        assert state.keys("w") == {"levels": torch.uint8, "weight": torch.float32}
        for part in grid(others):
            found, levels = torch.empty_like(values[part]), torch.empty_like(values[part], dtype=torch.uint8)
            state.read("weight", "w", part[0].start, part[1].start, found)
            state.read("levels", "w", part[0].start, part[1].start, levels)
            assert torch.equal(found, values[part]) and torch.equal(levels, values[part].byte())


def test_elements_that_no_part_has_are_an_error(tmp_path: Path) -> None:
    snapshot = Snapshot()
    snapshot.copy([("weight/w/10/0", torch.zeros(10, 1))])
    with (tmp_path / "a.safetensors").open("wb") as file:
        snapshot.write(file)
    with (
        State([PartFile(Location(tmp_path), "a.safetensors")], {}) as state,
        pytest.raises(InputError, match="10 of 15 elements"),
    ):
        state.read("weight", "w", 10, 0, torch.empty(15, 1))


RANKS = 3


class Divided:
    """A training state that ranks divide by rows; a reader asks for the rows of `wanted` ranks."""

    def __init__(self, rank: int, wanted: list[int]) -> None:
        self.rank, self.wanted = rank, wanted
        self.folder = tempfile.gettempdir()

    def save_state(self, snapshot: Snapshot) -> dict[str, dict[str, float]]:
        snapshot.copy([(f"weight/layer/{100 * self.rank}/0", torch.full((100, 50), float(self.rank)))])
        return {"0": {"step": 1.0}}

    def load_state(self, state: State, notes: dict[str, Any]) -> None:
        for rank in self.wanted:
            rows = torch.empty(100, 50)
            state.read("weight", "layer", 100 * rank, 0, rows)
            assert rows.unique().tolist() == [rank]
        self.fetched = {path.name[:5]: path.stat().st_size for path in Path(self.folder).rglob("*.safetensors")}


def _rank_main(rank: int, root: str, url: str, wanted: list[list[int]]) -> None:
    """Save, and load what this rank wants; tell what it fetched, and how many bytes it read by ranges."""
    tempfile.tempdir = f"{root}/temporary-{rank}"
    Path(tempfile.tempdir).mkdir()
    fsspec.config.conf["file"] = {"auto_mkdir": True}  # an object store has no folders to make
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=RANKS)
    divided, checkpoints = Divided(rank, wanted[rank]), Checkpoints(Location(url), keep=1)
    assert checkpoints.load(divided.load_state) is None
    checkpoints.save(1, 7, divided.save_state, {})
    checkpoints.finish()
    dist.barrier()
    ranges: list[int] = []
    read_range = Location.read_range

    def counted(self: Location, name: str, start: int, end: int) -> bytes:
        found = read_range(self, name, start, end)
        ranges.append(len(found))
        return found

    Location.read_range = counted  # type: ignore[method-assign]
    assert Checkpoints(Location(url), keep=1).load(divided.load_state) is not None
    Path(root, f"{rank}.json").write_text(json.dumps({"fetched": divided.fetched, "ranges": sum(ranges)}))
    assert not list(Path(tempfile.tempdir).iterdir()), "nothing is left"
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("store", "wanted", "fetched"),
    [
        ("file://", [[0], [1], [2]], [["00000"], ["00001"], ["00002"]]),  # as many ranks as wrote: each its own part
        ("file://", [[0], [0, 1], [1]], [["00000"], ["00000", "00001"], ["00001", "00002"]]),  # and the one it verifies
        ("", [[0, 1, 2], [1], [2]], [[], [], []]),  # a local disk is read in place
    ],
)
def test_each_rank_fetches_the_parts_that_it_needs(
    tmp_path: Path, store: str, wanted: list[list[int]], fetched: list[list[str]]
) -> None:
    """Of an object store: `file://` goes the way of one, and processes share it."""
    mp.spawn(_rank_main, (str(tmp_path), f"{store}{tmp_path}/run", wanted), nprocs=RANKS)
    part = 100 * 50 * 4
    for rank in range(RANKS):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        assert sorted(told["fetched"]) == fetched[rank]
        assert all(part < size < part + 500 for size in told["fetched"].values())
        assert told["ranges"] < RANKS * 500, "of all others the header alone"
