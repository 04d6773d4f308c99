"""A replica's process without its engine, for tests of what looks at one: `python -m tests.serving.watched PORT`.

Its engine gives a token, and a word between two steps, as long as the files `token` and `turn` are in this folder.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import uvicorn

from cluster.core.specs.endpoint import EndpointSpec, Health
from serving.answers import Answers
from serving.gateway import gateway
from serving.watch import Watch
from tests.serving.keys.small_app import CONTEXT, REF, Small

HEALTH = Health(period_seconds=0.1, timeout_seconds=0.3)


async def main(port: int) -> None:
    small = Small()
    small.go.clear()
    answers = Answers(small.app)
    child = subprocess.Popen([sys.executable, "-c", "import signal; print(flush=True); signal.pause()"])
    Path("child").write_text(str(child.pid))

    async def given(name: str) -> None:
        with Path("asked").open("a") as file:
            file.write(f"{name}\n")
        if Path("raises").exists():
            raise RuntimeError("the engine is dead")
        while not Path(name).exists():
            await asyncio.sleep(0.05)

    async def hand_over() -> None:
        """Where the file `others` is, others finish what has begun, when there is `go`."""
        while Path("others").exists() and not Path("go").exists():
            await asyncio.sleep(0.05)
        if Path("others").exists():
            small.go.set()
            await small.left.wait()

    app = await gateway(answers, "chat", REF, EndpointSpec(model="m"), CONTEXT)
    watch = Watch(HEALTH, answers, lambda: given("token"), lambda: given("turn"), hand_over)
    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="error")).serve()
    watch.end("the server has ended")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
