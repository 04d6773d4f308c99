"""The interface that gloo exchanges over: the node's, whatever /etc/hosts says of the machine's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.training.interface import VARIABLE, interface_of, use_node_interface
from tests.conftest import ROOT

# Two ranks that add their numbers, and the interface that each takes.
RANK = """
import sys, torch, torch.distributed as dist
from pipelines.stages.training.interface import use_node_interface
rank, address = int(sys.argv[1]), sys.argv[2]
use_node_interface(address)
dist.init_process_group("gloo", init_method="tcp://10.213.77.1:29571", rank=rank, world_size=2)
value = torch.tensor([float(rank + 1)])
dist.all_reduce(value)
print(value.item(), flush=True)
dist.destroy_process_group()
"""

NAMES = st.sampled_from(["lo", "eth0", "eth1", "wlan0", "br-1"])
ADDRESSES = st.sampled_from(["127.0.0.1", "127.0.1.1", "10.0.0.1", "10.0.0.2", "fe80::1%eth0", "fd00::2"])


@given(st.dictionaries(NAMES, st.lists(ADDRESSES, max_size=3)), ADDRESSES)
def test_it_is_one_with_the_address_or_none(interfaces: dict[str, list[str]], address: str) -> None:
    found = interface_of(address, interfaces)
    has = {name for name, own in interfaces.items() if address in own and "%" not in address}
    assert found in has or (not found and not has)


def test_what_the_user_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "mine")
    use_node_interface("127.0.0.1")
    assert os.environ[VARIABLE] == "mine"
    monkeypatch.delenv(VARIABLE)
    use_node_interface("127.0.0.1")
    assert os.environ[VARIABLE] == "lo"
    monkeypatch.delenv(VARIABLE)
    use_node_interface("192.0.2.200")  # translated on the way
    assert VARIABLE not in os.environ


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)


@pytest.fixture
def two_machines() -> Iterator[list[list[str]]]:
    """Two network namespaces with an address each; what runs a command in each. Their name leads to loopback."""
    if os.getuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    names = [f"trunkline-{os.getpid()}-{number}" for number in (1, 2)]
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "tl-1", "netns", names[0], "type", "veth", "peer", "name", "tl-2", "netns", names[1])
        for number, name in enumerate(names, 1):
            _ip("-n", name, "addr", "add", f"10.213.77.{number}/24", "dev", f"tl-{number}")
            _ip("-n", name, "link", "set", f"tl-{number}", "up")
            _ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        _remove(names)
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    yield [["ip", "netns", "exec", name] for name in names]
    _remove(names)


def _remove(names: list[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=60, check=False)


@pytest.mark.exhaustive
def test_two_machines_whose_names_lead_to_loopback(two_machines: list[list[str]]) -> None:
    running = [
        subprocess.Popen(
            [*within, sys.executable, "-c", RANK, str(rank), f"10.213.77.{rank + 1}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, within in enumerate(two_machines)
    ]
    try:
        assert [process.communicate(timeout=300)[0] for process in running] == ["3.0\n", "3.0\n"]
    finally:
        for process in running:
            process.kill()
