"""Environments of verifiers, as their packages have them: a game of several turns, and one with tools."""

from __future__ import annotations

import random
from typing import Any


def load_environment(kind: str = "game", numbers: int = 8) -> Any:
    import verifiers as vf
    from datasets import Dataset

    class Game(vf.MultiTurnEnv):  # type: ignore[misc,name-defined]
        """Higher or lower; the state counts the guesses. `dice`: it says something else whenever it is asked."""

        async def setup_state(self, state: Any) -> Any:
            state["guesses"] = 0
            return state

        async def env_response(self, messages: Any, state: Any, **_: Any) -> Any:
            state["guesses"] += 1
            said = messages[-1].content
            if said == "fail":
                raise RuntimeError("no such guess")
            if kind == "dice":
                return [vf.UserMessage(role="user", content=str(random.SystemRandom().random()))]
            throw = random.randrange(6)
            word = "higher" if int(said) < int(state["answer"]) else "lower"
            return [vf.UserMessage(role="user", content=f"{word}, {throw}, guess {state['guesses']}")]

        @vf.stop  # type: ignore[untyped-decorator]
        async def found(self, state: Any) -> bool:
            turns = state["trajectory"]
            return bool(turns) and turns[-1]["completion"][-1].content == state["answer"]

    def right(completion: Any, answer: str, state: Any) -> float:
        return float(completion[-1].content == answer) - 0.1 * state.get("guesses", 0)

    def short(completion: Any) -> float:
        return float(len(completion) < 3)

    def double(number: int) -> int:
        """Twice a number."""
        return 2 * number

    def used(completion: Any) -> float:
        return float(any(message.role == "tool" for message in completion))

    def grouped(completions: Any) -> list[float]:
        return [0.0 for _ in completions]

    rows = [{"question": f"Find number {n}.", "answer": str(n)} for n in range(numbers)]
    if kind == "tools":
        return vf.ToolEnv(dataset=Dataset.from_list(rows), tools=[double], rubric=vf.Rubric(funcs=[used]), max_turns=4)
    rubric = vf.Rubric(
        funcs=[grouped] if kind == "group" else [right, short], weights=None if kind == "group" else [1, 2]
    )
    return Game(dataset=Dataset.from_list(rows), system_prompt="Play.", rubric=rubric, max_turns=4)
