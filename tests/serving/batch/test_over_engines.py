"""`ctl batch` with a model: engines under Ray Data answer as an endpoint on the model does, and survive a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.core.storage.artifact import Artifact
from tests.cli.command import CTL, ctl

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(1800)]
TOKENS = 8
LINES = 120


def test_a_model_answers_a_batch_that_is_killed(model: Artifact, tmp_path: Path) -> None:
    prompts = [f"def function_{number}(" for number in range(LINES)]
    rows = [
        {
            "custom_id": str(n), "method": "POST", "url": "/v1/completions",
            "body": {"model": "of-somebody-else", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0,
                     "return_token_ids": True},
        }
        for n, prompt in enumerate(prompts)
    ]  # fmt: skip
    rows[7]["body"] |= {"n": 99}  # type: ignore[operator]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{}\n")
    command = ["batch", str(source), str(output), "--model", model.record.ref, "--store", model.store_url]
    process = subprocess.Popen(
        [str(CTL), *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    journal, pause = output.with_name("out.jsonl.partial"), threading.Event()
    while process.poll() is None:  # no event tells that another process has written a line
        if journal.exists() and journal.read_bytes().count(b"\n") > 10:
            process.send_signal(signal.SIGKILL)
        pause.wait(0.005)
    assert process.returncode in (-signal.SIGKILL, 0)
    psutil.wait_procs(engines_of_this_session(), timeout=240)
    assert not engines_of_this_session()
    done = ctl(*command, timeout=900)
    assert done.returncode == 0, done.stderr
    assert f"{LINES + 1} lines (200: {LINES - 1}, 400: 1, invalid_line: 1)" in done.stdout
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == [*map(str, range(LINES)), None]
    assert "endpoint.limits.completions" in lines[7]["response"]["body"]["error"]["message"]
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    transformer = AutoModelForCausalLM.from_pretrained(model.local(), dtype=torch.float32)
    for number in (0, 50, LINES - 1):
        ids = tokenizer(prompts[number], return_tensors="pt", return_token_type_ids=False)
        expected = transformer.generate(**ids, max_new_tokens=TOKENS, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert lines[number]["response"]["body"]["choices"][0]["token_ids"] == expected.tolist()
    assert len({line["id"] for line in lines}) == LINES + 1
    psutil.wait_procs(engines_of_this_session(), timeout=240)
    assert not engines_of_this_session()


def engines_of_this_session() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, IndexError):  # gone, or a thread of the kernel
            if process.cmdline()[0].startswith("VLLM::") and process.environ().get("HOME") == os.environ["HOME"]:
                found.append(process)
    return found
