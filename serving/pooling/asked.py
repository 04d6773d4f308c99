"""What the routes of pooling are asked, in the forms of OpenAI (embeddings), vLLM (score, pooling) and Jina (rerank).

A text is a string; of `/v1/embeddings` and `/pooling` it may be token ids. A conversation is a list of messages, and
stands wherever the request of a scored answer may stand.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from serving.limits import Refused

Message: TypeAlias = dict[str, Any]
Text: TypeAlias = str | list[int]
Said: TypeAlias = str | list[Message]
Given = str | list[str | int | list[int]]
Requests = str | list[str | Message | list[Message]]
Document = str | Message


class Common(Struct, kw_only=True, forbid_unknown_fields=True):
    """What every route takes."""

    model: str = ""
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    """A longer text is cut to so many tokens (-1: what the model takes), and refused without this. Of a conversation
    the end is kept, of other texts the beginning."""


class Embeddings(Common, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's embeddings."""

    input: Given
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """Only the number that the model has."""


class Pooled(Common, kw_only=True, forbid_unknown_fields=True):
    """What the model makes of texts, or of a conversation."""

    input: Given | None = None
    messages: list[Message] | None = None
    continue_final_message: bool = False
    """The last message was cut off: what would end its turn is not shown."""
    use_activation: bool = False
    """Probabilities instead of logits; of vectors, length 1."""
    encoding_format: Literal["float", "base64"] = "float"


class Score(Common, kw_only=True, forbid_unknown_fields=True):
    """How good each document is for its query, or for the one that there is: of a reward model, an answer for what was
    asked. `text_1` and `text_2` are the same by vLLM's other names."""

    queries: Requests | None = None
    documents: Document | list[Document] | None = None
    text_1: Requests | None = None
    text_2: Document | list[Document] | None = None
    continue_final_message: bool = False
    """The answers were cut off: what would end their turns is not shown."""
    use_activation: bool = False
    """Probabilities instead of scores."""


class Rerank(Common, kw_only=True, forbid_unknown_fields=True):
    """Documents in the order of their scores for a query, the best first."""

    query: Said
    documents: list[Document]
    top_n: Annotated[int, Meta(ge=0)] = 0
    """So many alone; 0: all."""
    return_documents: bool = True


FORMS: dict[str, type[Common]] = {
    "/v1/embeddings": Embeddings,
    "/v1/score": Score,
    "/score": Score,
    "/v1/rerank": Rerank,
    "/rerank": Rerank,
    "/pooling": Pooled,
}


def read(path: str, body: bytes) -> Any:
    """The request of a route. Raises Refused for one of another form, with the field that is wrong."""
    try:
        return msgspec.json.decode(body, type=FORMS[path])
    except msgspec.ValidationError as error:
        told, _, place = str(error).partition(" - at ")
        field = place.strip("`$.").partition("[")[0].partition(".")[0]
        raise Refused(400, f"{told}{f' ({field})' if field else ''}", field or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None


def texts(given: Given) -> list[Text]:
    """The texts of `input`: one or several, each a string or token ids. Raises Refused for none, or a mixture."""
    if isinstance(given, str):
        return [given]
    if not given:
        raise Refused(400, "there is no text in it", "input")
    if all(isinstance(each, int) for each in given):
        return [given]  # type: ignore[list-item]
    if any(isinstance(each, int) for each in given):
        raise Refused(400, "texts and token ids are mixed", "input")
    return given  # type: ignore[return-value]


def pairs(asked: Score) -> list[tuple[Said, str]]:
    """What is scored: requests and answers, or queries and documents. Raises Refused."""
    first = asked.queries if asked.queries is not None else asked.text_1
    second = asked.documents if asked.documents is not None else asked.text_2
    for value, names in ((first, "queries"), (second, "documents")):
        if value is None:
            raise Refused(400, f"{names} are missing (or text_1 and text_2)", names)
    assert first is not None and second is not None
    said, documents = requests(first), [document(each) for each in _listed(second)]
    if len(said) == 1 and documents:
        said *= len(documents)
    if not documents or len(said) != len(documents):
        raise Refused(400, f"{len(said)} queries and {len(documents)} documents: as many, or one query", "queries")
    return list(zip(said, documents, strict=True))


def requests(given: Requests) -> list[Said]:
    """One or several: texts, or conversations. Raises Refused for a mixture of messages and others."""
    if isinstance(given, str):
        return [given]
    messages = [isinstance(each, dict) for each in given]
    if given and all(messages):
        return [given]  # type: ignore[list-item]
    if any(messages):
        raise Refused(400, "messages of a conversation are mixed with others", "queries")
    return given  # type: ignore[return-value]


def document(given: Document) -> str:
    """The text of a document: itself, or its `text`. Raises Refused."""
    text = given.get("text") if isinstance(given, dict) else given
    if not isinstance(text, str):
        raise Refused(400, "a document is a text, or an object with its `text`", "documents")
    return text


def _listed(given: Document | list[Document]) -> list[Document]:
    return given if isinstance(given, list) else [given]
