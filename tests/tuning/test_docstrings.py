"""Functions as requests and answers: what is cut out is the function that was there, or there is a reason."""

from __future__ import annotations

import ast
import asyncio.base_events
import inspect
import pathlib
import textwrap
from types import ModuleType

import pytest

from pipelines.stages.tuning.docstrings import LINE_ENDS, Unfit, documented_functions, parse, request_and_answer


def cut(source: str) -> list[tuple[str, str]]:
    lines = LINE_ENDS.split(source)
    return [request_and_answer(function, lines) for function in documented_functions(parse(source))]


def written(text: str) -> str:
    return textwrap.dedent(text).strip("\n")


FIT = {
    "a method, decorated, with a long docstring": (
        '''
        class Counter:
            @property
            def value(self) -> int:
                """The value so far.

                Never negative.
                """

                # nothing to add
                return self._value
        ''',
        'def value(self) -> int:\n    """The value so far."""',
        "    # nothing to add\n    return self._value",
    ),
    "async, over several lines, with comments": (
        '''
        async def fetch(
            url: str,  # where
          timeout: float = 1.0,
        ) -> bytes:
            # how
            """
            Fetch a page
            from somewhere.
            """
            async with session() as s:

                return await s.get(url)   # done
        ''',
        'async def fetch(\n    url: str,  # where\n  timeout: float = 1.0,\n) -> bytes:\n    """Fetch a page"""',
        "    async with session() as s:\n\n        return await s.get(url)   # done",
    ),
    "quotes and backslashes in the docstring": (
        r"""
        def quote(text):
            r'''Write \d as "\\d" or as \"""."'''
            return text
        """,
        'def quote(text):\n    """Write \\\\d as "\\\\\\\\d" or as \\\\\\"\\"\\".\\""""',
        "    return text",
    ),
    "a string over several lines at the margin": (
        '''
        def usage():
            """Say how."""
            return """
        use it
            well"""
        ''',
        'def usage():\n    """Say how."""',
        '    return """\nuse it\n    well"""',
    ),
}

UNFIT = {
    "indented with tabs": 'def f():\n\t"""Do."""\n\treturn 1\n',
    "not indented by four": 'def f():\n  """Do."""\n  return 1\n',
    "stub": 'def f():\n    """Do."""\n    ...\n',
    "docstring shares a line with other code": 'def f():\n    """Do."""; x = 1\n    return x\n',
    "empty docstring": 'def f():\n    """ """\n    return 1\n',
    "changed by cutting it out": 'class A:\n    def f():\n        """Do."""\n        return """\n    a"""\n',
}


@pytest.mark.parametrize("case", FIT)
def test_request_and_answer(case: str) -> None:
    source, request, answer = FIT[case]
    assert cut(written(source)) == [(request, answer)]
    assert cut(written(source).replace("\n", "\r\n")) == [(request, answer)]
    [function] = ast.parse(f"{request}\n{answer}").body
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)


@pytest.mark.parametrize("reason", UNFIT)
def test_reasons(reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        cut(UNFIT[reason])


@pytest.mark.parametrize("body", ["pass", "...", "raise NotImplementedError", "raise NotImplementedError('later')"])
def test_stubs_teach_nothing(body: str) -> None:
    with pytest.raises(Unfit, match="stub"):
        cut(f'def f():\n    """Do."""\n    {body}\n')
    assert cut(f'def f():\n    """Do."""\n    x = 1\n    {body}\n')


def test_what_is_not_asked_for() -> None:
    assert cut('"""A module."""\ndef f():\n    return 1\ndef g():\n    """Only this."""\n') == []


@pytest.mark.parametrize("source", ["def f(:\n", "x = '\0'\n", "(" * 500 + ")" * 500, "def f():\n\t  x\n        y\n"])
def test_what_is_not_python_is_said(source: str) -> None:
    with pytest.raises(Unfit, match="not Python"):
        parse(source)


def test_inner_functions_are_asked_for_too() -> None:
    source = 'def f():\n    """Outer."""\n    def g():\n        """Inner."""\n        return 1\n    return g\n'
    assert [request.split("(")[0] for request, _ in cut(source)] == ["def f", "def g"]


@pytest.mark.parametrize("module", [pathlib, textwrap, asyncio.base_events], ids=lambda module: module.__name__)
def test_the_standard_library(module: ModuleType) -> None:
    """What is cut out compiles to the same instructions as what was there."""
    source = inspect.getsource(module)
    lines = LINE_ENDS.split(source)
    found = 0
    for function in documented_functions(parse(source)):
        try:
            request, answer = request_and_answer(function, lines)
        except Unfit:
            continue
        found += 1
        original = ast.Module([function], [])
        function.decorator_list = []
        assert instructions(ast.parse(f"{request}\n{answer}")) == instructions(original)
    assert found >= 5


def instructions(tree: ast.Module) -> bytes:
    code = compile(tree, "cut", "exec", dont_inherit=True)
    return next(const.co_code for const in code.co_consts if hasattr(const, "co_code"))
