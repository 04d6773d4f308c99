"""vLLM's engine and its own OpenAI application, as a replica of an endpoint and a batch hold them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from cluster.control.forkserver.children import Forked, can_fork
from cluster.control.tied_embeddings import register
from cluster.core.storage.artifact import Artifact
from serving.ending import end_children_with_this


def open_engine(artifact: Artifact, name: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The client of an engine on a model, called `name`, and vLLM's arguments as its command line has them.

    To be called in the loop that its requests will run in.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    register()
    _fork_engines()
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", str(artifact.local())])
    vars(parsed).update(arguments, served_model_name=[name], disable_fastapi_docs=True)
    parsed.allowed_origins = []  # the gateway says whose pages may ask
    config = AsyncEngineArgs.from_cli_args(parsed).create_engine_config()
    engine = AsyncLLM.from_vllm_config(config, disable_log_stats=parsed.disable_log_stats)
    end_children_with_this()
    return engine, parsed


def _fork_engines() -> None:
    """Have vLLM fork its engine's process where that can be: started by `spawn` it imports everything once more."""
    from vllm.v1.engine import utils

    if can_fork():
        utils.get_mp_context = Forked


def end_process() -> None:
    os._exit(1)


async def engine_app(engine: Any, parsed: Any, on_death: Callable[[], None] = end_process) -> Any:
    """vLLM's application over an engine. `on_death` is called where it has found the engine dead."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await engine.get_supported_tasks()
    app = build_app(parsed, tasks, engine.model_config)
    await init_app_state(engine, app.state, parsed, tasks)
    app.state.server = _Ended(on_death)
    return app


class _Ended:
    """What vLLM takes for its server, which it asks to end when the engine is dead. Nothing could be answered any more,
    and at once, which a proxy that looks for the least busy replica would take for the best one."""

    def __init__(self, on_death: Callable[[], None]) -> None:
        self.on_death = on_death

    @property
    def should_exit(self) -> bool:
        return False

    @should_exit.setter
    def should_exit(self, wanted: bool) -> None:
        if wanted:
            self.on_death()
