"""Checkpoints: committed last, verified before use, kept by policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from cluster.errors import InputError
from cluster.location import Location
from pipelines.training.checkpoints import MANIFEST, Checkpoints

LAYOUT = {"num_workers": 1, "zero_stage": 1}


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one."""
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class State:
    """A training state that is one number."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def write(self, folder: Path) -> None:
        (folder / "state").mkdir(parents=True)
        (folder / "state" / "weights.pt").write_text(str(self.value) * 1000)

    def read(self, folder: Path) -> None:
        self.value = int((folder / "state" / "weights.pt").read_text()[:1])


@pytest.fixture(params=["local", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    """With the checkpoints 10, 20 and 30, of values 1, 2 and 3, of which two are kept."""
    place = Location(tmp_path / "run" if request.param == "local" else f"memory://{tmp_path.name}")
    place.remove()
    found = Checkpoints(place, LAYOUT, keep=2)
    for step in (1, 2, 3):
        found.save(10 * step, 70 * step, State(step).write)
    return found


def test_the_newest_is_loaded_and_the_oldest_dropped(checkpoints: Checkpoints) -> None:
    state = State()
    assert checkpoints.steps() == [30, 20]
    assert checkpoints.load(state.read) == (30, 210)
    assert state.value == 3


def test_a_little_plain_state_comes_along(checkpoints: Checkpoints) -> None:
    checkpoints.load(State().read)
    assert checkpoints.state == {}
    told = {"losses": [0.1 + 0.2, 1e-300], "skipped": 3}
    checkpoints.save(40, 280, State(4).write, told)
    again = Checkpoints(checkpoints.place, LAYOUT, keep=2)
    again.load(State().read)
    assert again.state == told


def test_without_any_the_run_begins_at_step_0(tmp_path: Path) -> None:
    assert Checkpoints(Location(tmp_path / "none"), LAYOUT, 2).load(State().read) == (0, 0)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_passed_over(checkpoints: Checkpoints, damage: str) -> None:
    place, file = checkpoints.place, "step-00000030/state/weights.pt"
    data = place.read_bytes(file)
    if damage == "remove":
        place.remove(file)
    else:
        place.write_bytes(file, data[:-1] if damage == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    state = State()
    assert checkpoints.load(state.read) == (20, 140)
    assert state.value == 2
    assert checkpoints.steps() == [20]


def test_a_checkpoint_without_its_manifest_does_not_count(checkpoints: Checkpoints) -> None:
    checkpoints.place.remove(f"step-00000030/{MANIFEST}")
    state = State()
    assert checkpoints.load(state.read) == (20, 140)
    checkpoints.save(30, 210, State(4).write)  # what was left of it is replaced
    assert checkpoints.load(state.read) == (30, 210)
    assert state.value == 4


def test_a_manifest_cut_short_does_not_count(checkpoints: Checkpoints) -> None:
    checkpoints.place.write_bytes(f"step-00000030/{MANIFEST}", b'{"step": 30, "la')
    assert checkpoints.load(State().read) == (20, 140)


def test_another_layout_is_refused(checkpoints: Checkpoints) -> None:
    other = Checkpoints(checkpoints.place, LAYOUT | {"num_workers": 4}, keep=2)
    with pytest.raises(InputError, match="num_workers=1"):
        other.load(State().read)
