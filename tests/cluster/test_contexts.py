"""Contexts as typed, the file that they are in, and which cluster is meant by whom."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.app import without_context
from cluster.control import clusters
from cluster.control.clusters import KINDS as CLUSTERS
from cluster.core.clusters import book, meant
from cluster.core.clusters.kinds import KINDS, STORE_FOLDER, Address, Local, Ssh, make
from cluster.core.errors import InputError, NotReadyError, SpecError
from cluster.core.import_strings import import_string
from cluster.core.storage.store import Store
from cluster.pipeline import load_script
from tests.cli.command import ctl
from tests.conftest import ROOT


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (meant.CONTEXT, meant.ADDRESS, "TRUNKLINE_STORE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path / "own"))
    monkeypatch.setattr(meant, "_chosen", [])
    return tmp_path / "own"


@pytest.mark.heavy
def test_a_life_of_contexts(home: Path) -> None:
    assert "No contexts" in ctl("context", "list").stdout
    hosts = ("--set", "hosts=[gpu1, ml@gpu2:2222]", "--set", "scaling.num_workers=8", "--set", "prices.GPU=2.5")
    assert ctl("context", "add", "lab", "ssh", *hosts, "--set", "store=s3://models/t", "--use").returncode == 0
    assert ctl("context", "add", "big", "address", "--set", "address=head:6379").returncode == 0
    told = {each["name"]: each for each in json.loads(ctl("context", "list", "--json").stdout)}
    assert told["lab"]["current"] and not told["big"]["current"]
    assert told["lab"]["hosts"] == ["gpu1", "ml@gpu2:2222"] and told["lab"]["scaling"] == {"num_workers": 8}
    assert json.loads(ctl("context", "show", "--json").stdout)["said by"] == "the current context"
    assert json.loads(ctl("context", "show", "--json", "--context", "big").stdout)["address"] == "head:6379"
    assert book.path().stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert ctl("context", "add", "lab", "local").returncode == 2, "it is there"
    assert ctl("context", "add", "lab", "local", "--replace").returncode == 0
    assert ctl("context", "remove", "lab").returncode == 0
    assert list(book.read().contexts) == ["big"] and book.read().current == ""


@pytest.mark.heavy
def test_many_at_once_lose_none(home: Path) -> None:
    command = [sys.executable, "-c", "from cluster.cli.app import run; run()", "context", "add"]
    running = [subprocess.Popen([*command, f"c{number}", "local"], cwd=ROOT) for number in range(4)]
    assert [process.wait(timeout=240) for process in running] == [0] * 4
    assert sorted(book.read().contexts) == ["c0", "c1", "c2", "c3"]


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        ("ssh", {"hots": ["a"]}, "lab.hots: unknown field. Did you mean 'hosts'?"),
        ("ssh", {"hosts": []}, "lab.hosts: Expected `array` of length >= 1"),
        ("ssh", {"hosts": ["-oProxyCommand=touch x"]}, "is no host"),
        ("ssh", {"hosts": ["a", "a"]}, "twice"),
        ("ssh", {"hosts": ["a"], "port": 8265}, "both 8265"),
        ("local", {"scaling": {"num_worker": 2}}, "lab.scaling.num_worker: unknown field"),
        ("local", {"prices": {"TPU": 1}}, "lab.prices.TPU"),
        ("local", {"token_file": "a", "token_env": "B"}, "two places"),
        ("local", {"token_env": "abc-123"}, "not the name of a variable"),
        ("local", {"store": "http://me:secret@s3/x"}, "password"),
        ("address", {"address": "ray://head:10001"}, "neither a head nor a dashboard"),
        ("address", {"address": "http://me:secret@head:8265"}, "password"),
        ("kubernetes", {"store": "/data"}, "lab.store: pods do not see a folder of this machine"),
        ("kubernetes", {"infra": {"head_cpu": 1}}, "lab.infra.head_cpu: unknown field. Did you mean 'head_cpus'?"),
        ("kubernetes", {"infra": {"namespace": "other"}}, "a field of its own"),
        ("kubernetes", {"image": "a b"}, "lab.infra.image: not an image"),
    ],
)
def test_what_a_context_cannot_say(kind: str, fields: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as raised:
        make(kind, fields, "lab")
    assert words in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_broken_file_is_named_with_the_field(home: Path) -> None:
    home.mkdir()
    book.path().write_text('{"contexts": {"lab": {"kind": "ssh", "hosts": ["a"], "usr": "me"}}}')
    with pytest.raises(InputError, match=r"contexts\.json: contexts\.lab\.usr: unknown field"):
        book.read()
    book.path().write_text('{"contexts": {"lab": {"kind": "slurm"}}}')
    with pytest.raises(InputError, match=r"contexts\.lab\.kind"):
        book.read()
    book.path().write_text("{")
    assert ctl("status").returncode == 3


def test_who_says_which_cluster_is_meant(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert meant.meant().here and not meant.meant().said_by
    with book.changed() as mine:
        mine.contexts = {"a": Address(address="a:1"), "b": Address(address="b:1"), "mine": Local(store="/mine")}
        mine.current = "a"
    assert meant.meant().name == "a"
    monkeypatch.setenv(meant.ADDRESS, "other:6379")
    assert meant.meant().context == Address(address="other:6379")
    monkeypatch.setenv(meant.ADDRESS, "local")
    assert meant.meant().here
    monkeypatch.setenv(meant.CONTEXT, "b")
    assert meant.meant().name == "b"
    assert meant.environment("x:1").get(meant.CONTEXT) is None and meant.environment("x:1")[meant.ADDRESS] == "x:1"
    monkeypatch.setenv(meant.CONTEXT, "c")
    with pytest.raises(InputError, match="there is no context 'c'"):
        meant.meant()
    meant.choose(meant.Meant(Address(address="found:1")))
    assert meant.meant().context == Address(address="found:1"), "a process that has found its cluster stays with it"


def test_what_a_context_says_of_store_and_scaling(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with book.changed() as mine:
        mine.contexts["lab"] = Local(store=str(tmp_path / "s"), scaling={"num_workers": 7, "zero_stage": 2})
    assert Store().root.url == os.path.abspath("artifacts")
    monkeypatch.setenv(meant.CONTEXT, "lab")
    assert Store().root.url == str(tmp_path / "s")
    pipeline = load_script(ROOT / "pipelines" / "pretrain.py")
    scaling = pipeline.graph(Store(), {"scaling": {"num_workers": 3}}).scaling
    assert (scaling.num_workers, scaling.zero_stage) == (3, 2)
    monkeypatch.setenv("TRUNKLINE_STORE", "/elsewhere")
    assert Store().root.url == "/elsewhere"


def test_pods_see_no_folder_of_this_machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not meant.is_hidden(STORE_FOLDER) and meant.require_shared("/data") is None
    with book.changed() as mine:
        mine.contexts = {"volume": KINDS["kubernetes"](), "s3": KINDS["kubernetes"](store="s3://models/t")}
    monkeypatch.setenv(meant.CONTEXT, "volume")
    assert meant.is_hidden(Store().root.url)
    with pytest.raises(InputError, match=r"pods of context 'volume' do not see a folder of this machine"):
        meant.require_shared("/data")
    monkeypatch.setenv(meant.CONTEXT, "s3")
    assert Store().root.url == "s3://models/t" and not meant.is_hidden("s3://models/t")
    assert meant.require_shared("s3://models/t") is None


@pytest.mark.heavy
def test_what_training_costs_by_the_prices_of_a_context(home: Path, tmp_path: Path) -> None:
    with book.changed() as mine:
        mine.contexts["lab"] = Local(prices={"GPU": 2.5, "CPU": 0.1})
    scaling = (
        "--set",
        "scaling.num_workers=4",
        "--set",
        "scaling.gpus_per_worker=1",
        "--set",
        "pretrain.precision=bf16",
    )
    asked = ("plan", "pipelines/pretrain.py", "--store", tmp_path, "--hardware", "a100-80gb", *scaling)
    done = ctl(*asked, "--context", "lab", "--json")
    found = {step["step"]: step for step in json.loads(done.stdout)}["pretrain"]
    hours = found["prediction"]["duration_seconds"] / 3600
    assert found["cost"] == pytest.approx(hours * 4 * (2.5 + 0.1))
    assert "cost" not in ctl(*asked).stdout


def test_nothing_else_asks_the_environment() -> None:
    """Which cluster is meant is said in one place."""
    asks = re.compile(rf"environ\b[^\n]*({meant.ADDRESS}|{meant.CONTEXT})")
    sources = [path for package in ("cluster", "pipelines", "serving") for path in (ROOT / package).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in sources if asks.search(path.read_text())}
    assert found <= {"cluster/cli/app.py"}, "cluster.core.clusters.meant knows; the command line sets it"


def test_every_kind_can_be_reached_or_says_why_not() -> None:
    assert set(CLUSTERS) == set(KINDS)
    for name in CLUSTERS:
        assert issubclass(import_string(CLUSTERS[name]), clusters.Cluster)
    for context in (KINDS["kubernetes"](), Ssh(hosts=("a",)), Address(address="http://a:1")):
        with pytest.raises(NotReadyError):
            clusters.find(meant.Meant(context, "x")).head_address()


def test_a_script_takes_a_context_too(home: Path) -> None:
    command = [sys.executable, "pipelines/pretrain.py", "--context", "nope"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 3 and "there is no context 'nope'" in done.stderr


@pytest.mark.heavy
def test_nothing_is_built_for_a_cluster_that_cannot_be_joined(home: Path, tmp_path: Path) -> None:
    with book.changed() as mine:
        mine.contexts = {"lab": Ssh(hosts=("a",)), "pods": KINDS["kubernetes"]()}
    named = [{"RAY_ADDRESS": "http://127.0.0.1:1"}, {meant.CONTEXT: "lab"}, {meant.CONTEXT: "pods"}]
    for environment in named:
        done = ctl("run", "pipelines/pretrain.py", "--store", tmp_path / "s", **environment)
        assert done.returncode == 4 and done.stderr.count("\n") == 1, done.stderr
        assert not [path for path in (tmp_path / "s").rglob("*") if path.is_file()]


def test_a_cluster_of_others_is_neither_started_nor_ended(home: Path) -> None:
    for command in ("up", "down"):
        done = ctl(command, RAY_ADDRESS="head:6379")
        assert done.returncode == 2 and "somebody else starts and ends" in done.stderr


WORDS = st.lists(st.sampled_from(["ctl", "status", "-x", "--set", "a=b", "--json"]), max_size=5)


@given(WORDS, WORDS, st.booleans())
def test_the_option_may_stand_anywhere(before: list[str], after: list[str], joined: bool) -> None:
    given_ = ["--context=lab"] if joined else ["--context", "lab"]
    assert without_context(before + given_ + after) == (before + after, "lab")
    assert without_context(before + after) == (before + after, "")
    assert without_context(["--", *given_]) == (["--", *given_], "")


def test_the_token_is_where_the_context_says(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.control import runtime

    for variable in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(variable, "of another cluster")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("LAB_TOKEN", "x" * 64)
    with book.changed() as mine:
        mine.contexts = {"env": Local(token_env="LAB_TOKEN"), "file": Local(token_file=str(tmp_path / "token"))}
    monkeypatch.setenv(meant.CONTEXT, "env")
    assert runtime.use_token(create=False) and os.environ["RAY_AUTH_TOKEN"] == "x" * 64
    monkeypatch.setenv(meant.CONTEXT, "file")
    assert not runtime.use_token(create=False)
    assert runtime.use_token(create=True) and "RAY_AUTH_TOKEN" not in os.environ
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv("LAB_TOKEN")
    monkeypatch.setenv(meant.CONTEXT, "env")
    with pytest.raises(NotReadyError, match="LAB_TOKEN, which is not set"):
        runtime.use_token(create=False)
