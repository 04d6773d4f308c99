"""A batch at a served model, from upload to answers, by the public client."""

from __future__ import annotations

import json
import time

import openai
import pytest

from tests.serving.conftest import Served

pytestmark = pytest.mark.heavy


def test_a_batch_at_the_endpoint(served: Served) -> None:
    client = openai.OpenAI(base_url=served.base_url, api_key="none")
    body = {"model": "chat", "prompt": "def function(", "max_tokens": 8, "temperature": 0}
    rows = [
        {"custom_id": str(n), "method": "POST", "url": "/v1/completions", "body": body | ({"n": 99} if n == 7 else {})}
        for n in range(20)
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("asked.jsonl", data), purpose="batch")
    asked = client.completions.create(**body).choices[0].text  # type: ignore[call-overload]
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    assert batch.id in [each.id for each in client.batches.list()]
    while (batch := client.batches.retrieve(batch.id)).status in ("validating", "in_progress", "finalizing"):
        time.sleep(0.1)  # OpenAI's API tells no event
    counts = batch.request_counts
    assert counts and (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 20, 19, 1)
    assert batch.output_file_id and batch.error_file_id
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert [answer["custom_id"] for answer in answers] == [str(n) for n in range(20) if n != 7]
    assert {answer["response"]["body"]["choices"][0]["text"] for answer in answers} == {asked}
    refused = json.loads(client.files.content(batch.error_file_id).text)
    assert "endpoint.limits.completions" in refused["response"]["body"]["error"]["message"]
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)
    for each in (file.id, batch.output_file_id, batch.error_file_id):
        assert client.files.delete(each).deleted
    assert not client.files.list().data
