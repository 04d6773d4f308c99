"""Which calls of OpenAI's API servers answer as its package expects: a table of ours, bare vLLM, and Ray Serve LLM.

    python benchmarks/conformance.py [--model sft/mine] [--only ours --only vllm --only ray]
    python benchmarks/conformance.py --at ours=http://127.0.0.1:8000/v1 --at other=https://api.example.org/v1

Without --at each is started in turn on the same model (without --model a random Llama with a chat template) with the
same engine settings, and ended. Every call is made by the `openai` package and looked at: `yes` is an answer of the
right form; a number is the status of a refusal; what else went wrong is said in a word. Nothing here is about speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import openai

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store

Check = Callable[[openai.OpenAI, str], None]
CHECKS: dict[str, Check] = {}
ASKED: list[Any] = [{"role": "user", "content": "Say something."}]
FUNCTION: dict[str, Any] = {"type": "function", "function": {"name": "weather", "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"],
                   "additionalProperties": False}}}  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
WAIT_SECONDS, WAITS = 0.2, 600
CALL_TOKENS = 512  # the form of a call alone is some 70 tokens of the random model's
NOT_SO = "not so"  # an answer, but not of the right form

# What Ray's own builder serves, on a cluster of its own that ends with the process.
RAY = """
import sys, json
import ray
from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app
given = json.loads(sys.argv[1])
ray.init(num_cpus=8, include_dashboard=False, _temp_dir=given["folder"])  # its actors ask for more than there are
config = LLMConfig(
    model_loading_config=dict(model_id=given["name"], model_source=given["model"]),
    engine_kwargs=given["engine"], placement_group_config=dict(bundles=[dict(CPU=1)]),
    runtime_env=dict(env_vars=given["environment"]), deployment_config=dict(num_replicas=1),
)
serve.start(http_options=dict(host="127.0.0.1", port=given["port"]))
serve.run(build_openai_app(dict(llm_configs=[config])), blocking=True)
"""


def check(name: str) -> Callable[[Check], Check]:
    def added(found: Check) -> Check:
        CHECKS[name] = found
        return found

    return added


def chat(client: openai.OpenAI, model: str, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": model, "messages": ASKED, "max_tokens": 8, **more})


def complete(client: openai.OpenAI, model: str, **more: Any) -> Any:
    return client.completions.create(**{"model": model, "prompt": "def f(", "max_tokens": 8, **more})


@check("models.list, models.retrieve")
def models(client: openai.OpenAI, model: str) -> None:
    assert model in [each.id for each in client.models.list()]
    assert client.models.retrieve(model).id == model


@check("chat.completions")
def chats(client: openai.OpenAI, model: str) -> None:
    reply = chat(client, model)
    assert reply.choices[0].message.role == "assistant" and reply.usage.total_tokens > 0


@check("chat.completions, streamed, with usage")
def chat_streams(client: openai.OpenAI, model: str) -> None:
    chunks = list(chat(client, model, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")


@check("chat.completions: n, seed, stop, logprobs")
def chat_options(client: openai.OpenAI, model: str) -> None:
    reply = chat(client, model, n=2, seed=1, stop=["\n"], logprobs=True, top_logprobs=2)
    assert len(reply.choices) == 2 and len(reply.choices[0].logprobs.content[0].top_logprobs) == 2
    again = chat(client, model, n=2, seed=1, stop=["\n"], logprobs=True, top_logprobs=2)
    assert [c.message.content for c in reply.choices] == [c.message.content for c in again.choices]


@check("chat.completions: JSON schema")
def chat_schema(client: openai.OpenAI, model: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    told = json.loads(chat(client, model, max_tokens=64, response_format=wanted).choices[0].message.content)
    assert isinstance(told["ok"], bool)


@check("chat.completions: regex")
def chat_regex(client: openai.OpenAI, model: str) -> None:
    wanted = {"structured_outputs": {"regex": "[ab]{4}"}}
    text = chat(client, model, temperature=0, extra_body=wanted).choices[0].message.content
    assert len(text) == 4 and set(text) <= set("ab")


@check("chat.completions: grammar")
def chat_grammar(client: openai.OpenAI, model: str) -> None:
    wanted = {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}}
    assert chat(client, model, extra_body=wanted).choices[0].message.content in ("yes", "no")


@check("chat.completions: a function by name")
def chat_function(client: openai.OpenAI, model: str) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    reply = chat(client, model, tools=[FUNCTION], tool_choice=choice, max_tokens=CALL_TOKENS)
    [call] = reply.choices[0].message.tool_calls
    assert call.function.name == "weather" and "city" in json.loads(call.function.arguments)


@check("chat.completions: functions, the model's choice")
def chat_auto(client: openai.OpenAI, model: str) -> None:
    assert chat(client, model, tools=[FUNCTION], tool_choice="auto").choices


@check("chat.completions: plug-ins, run by the server")
def chat_plugins(client: openai.OpenAI, model: str) -> None:
    listed: Any = client.get("/plugins", cast_to=object)
    assert "calculator" in [each["id"] for each in listed["data"]]
    choice = {"type": "function", "function": {"name": "calculator"}}  # a random model would not call it by itself
    asked = {"max_tokens": CALL_TOKENS, "extra_body": {"plugins": ["calculator"], "tool_choice": choice}}
    [first, *_] = chat(client, model, **asked).model_extra["plugins"]
    assert first["name"] == "calculator" and first["state"] in ("done", "failed")
    states = [c.model_extra.get("plugin") for c in chat(client, model, **asked, stream=True)]
    assert next(each["state"] for each in states if each) == "running"


@check("completions")
def completes(client: openai.OpenAI, model: str) -> None:
    assert complete(client, model, temperature=0).choices[0].finish_reason in ("stop", "length")


@check("completions, streamed, with usage")
def complete_streams(client: openai.OpenAI, model: str) -> None:
    chunks = list(complete(client, model, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens > 0


@check("completions: prompts, token ids, echo, logprobs")
def complete_options(client: openai.OpenAI, model: str) -> None:
    assert len(complete(client, model, prompt=["a", "b"]).choices) == 2
    assert complete(client, model, prompt=[1, 2, 3]).choices
    reply = complete(client, model, echo=True, logprobs=1, max_tokens=1)
    assert reply.choices[0].text.startswith("def f(") and len(reply.choices[0].logprobs.tokens) > 1


@check("responses")
def responds(client: openai.OpenAI, model: str) -> None:
    reply = client.responses.create(model=model, input="Say something.", max_output_tokens=8)
    assert reply.object == "response" and reply.usage


@check("responses, streamed")
def responds_streamed(client: openai.OpenAI, model: str) -> None:
    events = [e.type for e in client.responses.create(model=model, input="Hello", max_output_tokens=8, stream=True)]
    assert events[0] == "response.created" and events[-1] in ("response.completed", "response.incomplete")


@check("embeddings, score, rerank, pooling (of a model that writes): refused in OpenAI's shape")
def pools(client: openai.OpenAI, model: str) -> None:
    refused(400, lambda: client.embeddings.create(model=model, input="x"))
    asked = {"model": model, "query": "x", "documents": ["y"]}
    refused(400, lambda: client.post("/rerank", body=asked, cast_to=object))
    refused(400, lambda: client.post("/score", body={"model": model, "text_1": "x", "text_2": "y"}, cast_to=object))
    refused(400, lambda: client.post(outside(client, "/pooling"), body={"model": model, "input": "x"}, cast_to=object))


@check("files")
def files(client: openai.OpenAI, model: str) -> None:
    file = client.files.create(file=("a.jsonl", b"{}\n"), purpose="batch")
    assert client.files.retrieve(file.id).bytes == 3 and client.files.content(file.id).content == b"{}\n"
    assert file.id in [each.id for each in client.files.list()]
    assert client.files.delete(file.id).deleted


@check("batches")
def batches(client: openai.OpenAI, model: str) -> None:
    body = {"model": model, "prompt": "x", "max_tokens": 1}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}).encode()
    file = client.files.create(file=("a.jsonl", line), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    pause = threading.Event()
    for _ in range(WAITS):
        batch = client.batches.retrieve(batch.id)
        if batch.status in ("completed", "failed"):
            break
        pause.wait(WAIT_SECONDS)
    assert batch.status == "completed" and batch.output_file_id
    assert json.loads(client.files.content(batch.output_file_id).text)["response"]["status_code"] == 200
    assert batch.id in [each.id for each in client.batches.list()]


def refused(status: int, ask: Callable[[], Any]) -> None:
    """A refusal with a status, in OpenAI's shape, and without an engine's internals."""
    try:
        ask()
    except openai.APIStatusError as error:
        assert error.status_code == status, error.status_code
        assert isinstance(error.body, dict) and {"message", "type", "param", "code"} <= set(error.body), error.body
        assert error.request_id, "no request id"
        assert "Traceback" not in str(error) and "site-packages" not in str(error)
        return
    raise AssertionError("was answered")


@check("errors: a model that is not there, in OpenAI's shape")
def no_model(client: openai.OpenAI, model: str) -> None:
    refused(404, lambda: complete(client, "no-such-model"))


@check("errors: a field that cannot be, in OpenAI's shape")
def bad_field(client: openai.OpenAI, model: str) -> None:
    refused(400, lambda: complete(client, model, max_tokens=-1))
    refused(400, lambda: complete(client, model, extra_body={"temperature": "hot"}))


@check("errors: a pattern that is none, in OpenAI's shape")
def bad_pattern(client: openai.OpenAI, model: str) -> None:
    refused(400, lambda: complete(client, model, extra_body={"structured_outputs": {"regex": "("}}))


@check("errors: 16,384 answers at once")
def too_many(client: openai.OpenAI, model: str) -> None:
    refused(400, lambda: complete(client, model, n=16_384, max_tokens=1))


@check("errors: a path that is not there, in OpenAI's shape")
def no_path(client: openai.OpenAI, model: str) -> None:
    refused(404, lambda: client.post("/no-such-thing", body={}, cast_to=object))


def outside(client: openai.OpenAI, path: str) -> str:
    return str(client.base_url).rstrip("/").removesuffix("/v1") + path


@check("/tokenize, /detokenize")
def tokenizes(client: openai.OpenAI, model: str) -> None:
    body = {"model": model, "prompt": "def f("}
    told: Any = client.post(outside(client, "/tokenize"), body=body, cast_to=object)
    back: Any = client.post(
        outside(client, "/detokenize"), body={"model": model, "tokens": told["tokens"]}, cast_to=object
    )
    assert "def f(" in back["prompt"]


@check("/health, /metrics")
def watched(client: openai.OpenAI, model: str) -> None:
    for path in ("/health", "/metrics"):
        client.get(outside(client, path), cast_to=str)


@check("/openapi.json")
def described(client: openai.OpenAI, model: str) -> None:
    told: Any = client.get(outside(client, "/openapi.json"), cast_to=object)
    assert "/v1/chat/completions" in told["paths"]


def verdict(found: Check, client: openai.OpenAI, model: str) -> str:
    try:
        found(client, model)
    except openai.APIStatusError as error:
        return str(error.status_code)
    except (openai.APIError, AssertionError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        told = str(error).splitlines()[0][:40] if str(error) else ""
        return f"{NOT_SO}: {told or type(error).__name__}"
    return "yes"


def verdicts(url: str) -> dict[str, str]:
    """What became of each call."""
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
    model = client.models.list().data[0].id
    return {name: verdict(found, client, model) for name, found in CHECKS.items()}


def told(columns: dict[str, dict[str, str]]) -> str:
    """A table in Markdown."""
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[name, *(column[name] for column in columns.values())] for name in CHECKS]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def made_model(folder: Path) -> Artifact:
    """A random Llama with a chat template that has tools."""
    from transformers import AutoTokenizer

    from pipelines.specs import PretrainSpec
    from tests.evaluation.tiny_run import commit_model
    from tests.serving.conftest import write_model

    model = folder / "model"
    write_model(model, context_tokens=2048)
    tokenizer = AutoTokenizer.from_pretrained(model)
    template = Path(__file__).resolve().parents[1] / "pipelines/stages/tuning/templates/chatml.jinja"
    tokenizer.chat_template = template.read_text()
    tokenizer.save_pretrained(model)
    return commit_model(Store(folder / "store"), model, PretrainSpec(), {})


def started(model: Artifact, folder: Path) -> dict[str, Any]:
    """The servers by name, to be started one after another."""
    from benchmarks.serving import NAME, Server, servers
    from cluster.core.specs.endpoint import EndpointSpec
    from serving.engine import engine_arguments, engine_environment
    from tests.cluster.local_cluster import free_port

    ours, theirs = servers(model, False, folder / "home")
    arguments = engine_arguments(EndpointSpec(model=model.record.ref), model)
    ours.command.extend(["--set", f"endpoint.batches.path={folder / 'batches'}"])
    ours.command.extend(["--set", "endpoint.plugins.allowed=[calculator]"])
    if parser := arguments.get("tool_call_parser"):
        theirs.command.extend(["--enable-auto-tool-choice", "--tool-call-parser", str(parser)])
    engine = {k: v for k, v in arguments.items() if k not in ("disable_log_stats", "kv_cache_memory_bytes")}
    environment = {**engine_environment(EndpointSpec(model="m")), "VLLM_CPU_KVCACHE_SPACE": "1"}
    given = {"name": NAME, "model": str(model.local()), "engine": engine, "environment": environment,
             "folder": str(folder / "ray"), "port": free_port()}  # fmt: skip
    ray = Server("Ray Serve LLM", [sys.executable, "-c", RAY, json.dumps(given)], environment, int(given["port"]))
    return {"ours": ours, "vllm": theirs, "ray": ray}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="artifact; without one a random Llama")
    parser.add_argument("--store", default=None)
    parser.add_argument("--only", action="append", choices=("ours", "vllm", "ray"), help="start these alone")
    parser.add_argument("--at", action="append", default=[], metavar="NAME=URL", help="a server that runs already")
    given = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    for each in given.at:
        name, _, url = each.partition("=")
        columns[name] = verdicts(url)
    if not given.at:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = Store(given.store).resolve(given.model) if given.model else made_model(folder)
            for which, server in started(model, folder).items():
                if given.only and which not in given.only:
                    continue
                try:
                    with server.running(folder / f"{which}.log"):
                        columns[server.name] = verdicts(server.url)
                except RuntimeError as error:  # it does not start here: the others are told
                    print(error, file=sys.stderr, flush=True)
    print(told(columns))


if __name__ == "__main__":
    main()
