"""What others have written for OpenAI's API, and other shapes, against a server at a port: the numbers and answers are
those of the package. Clients: pip install '.[test,clients]'."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asked import idle
from shown import picture, sound, uri

from mlx_mm import encode_audio, encode_image, encode_text, generate, load
from mlx_mm.server.running import Life, tcp_socket

pytestmark = pytest.mark.filterwarnings("ignore")  # of packages that are not ours

EQUAL = 1e-6
TEXTS = ["a frog", "pizza", "une clé"]
PICTURES, SOUNDS, ANSWERS = "emoji-siglip2", "sounds-clap", "emoji-glm4v"
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
QUESTION = "What is this?"
FROG = uri("image/png", picture("frog"))
SHOWN = [
    {"type": "image_url", "image_url": {"url": FROG}},
    {"type": "text", "text": QUESTION},
]
FIND = {
    "name": "find_picture",
    "description": "Find a picture by name.",
    "parameters": {
        "type": "object",
        "properties": {"name": {"type": "string", "description": "Name in English."}},
        "required": ["name"],
    },
}


@pytest.fixture(scope="module")
def address(app: Any) -> Iterator[str]:
    """Where the application listens."""
    life, ready = Life(), threading.Event()
    with tcp_socket("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=life.run, args=(app, bound, ready.set, lambda: None))
        thread.start()
        assert ready.wait(60)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        life.die()
        thread.join(60)


def client_package(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not there: pip install '.[clients]'")


def close(found: Any, expected: Any) -> bool:
    return bool(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64)).max() <= EQUAL)


@pytest.fixture(scope="module")
def pictures() -> Any:
    return load(PICTURES)


@pytest.fixture(scope="module")
def answers() -> Any:
    return load(ANSWERS)


@pytest.fixture(scope="module")
def said(answers: Any) -> str:
    """The greedy answer to SHOWN."""
    text: str = generate(*answers, QUESTION, images=[picture("frog")], temperature=0, enable_thinking=False).text
    assert "frog" in text
    return text


# --- openai -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def openai(address: str) -> Iterator[Any]:
    with client_package("openai").OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_vectors(openai: Any, pictures: Any) -> None:
    own = encode_text(*pictures, TEXTS)
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        found = openai.embeddings.create(model=PICTURES, input=TEXTS, **encoding)
        rows = [row.embedding for row in found.data]
        if encoding.get("encoding_format") == "base64":
            rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
        assert close(rows, own)
        assert found.usage.prompt_tokens > 0
    assert close(openai.embeddings.create(model=PICTURES, input=TEXTS[0]).data[0].embedding, own[0])
    short = openai.embeddings.create(model=PICTURES, input=TEXTS, dimensions=64).data
    assert close([row.embedding for row in short], encode_text(*pictures, TEXTS, dim=64))
    assert not close([row.embedding for row in short], own[:, :64])


def test_openai_vectors_of_pictures_and_sounds(openai: Any, pictures: Any) -> None:
    mixed: Any = [{"image": FROG}, {"text": TEXTS[0]}]
    found = [row.embedding for row in openai.embeddings.create(model=PICTURES, input=mixed).data]
    assert close(found[0], encode_image(*pictures, [picture("frog")])[0])
    assert close(found[1], encode_text(*pictures, TEXTS[:1])[0])
    heard: Any = [{"audio": uri("audio/flac", sound("bell"))}]
    found = openai.embeddings.create(model=SOUNDS, input=heard).data
    assert close(found[0].embedding, encode_audio(*load(SOUNDS), [sound("bell")])[0])


def test_openai_answers(openai: Any, said: str) -> None:
    asked: Any = {"model": ANSWERS, "messages": [{"role": "user", "content": SHOWN}], "temperature": 0}
    whole = openai.chat.completions.create(**asked, extra_body=NO_THINKING)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (said, "stop")
    stream = openai.chat.completions.create(
        **asked, extra_body=NO_THINKING, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == said
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    with openai.chat.completions.with_streaming_response.create(**asked, extra_body=NO_THINKING, stream=True) as raw:
        lines = [line for line in raw.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_openai_thoughts(openai: Any, answers: Any) -> None:
    own = generate(*answers, QUESTION, images=[picture("frog")], temperature=0, enable_thinking=True)
    assert own.reasoning
    asked: Any = {"model": ANSWERS, "messages": [{"role": "user", "content": SHOWN}], "temperature": 0}
    message = openai.chat.completions.create(**asked).choices[0].message
    assert (message.content, message.reasoning_content) == (own.text, own.reasoning)
    plain = openai.chat.completions.create(**asked, reasoning_effort="none").choices[0].message
    assert getattr(plain, "reasoning_content", None) is None


def test_openai_responses(openai: Any, said: str) -> None:
    content: Any = [{"type": "input_image", "image_url": FROG}, {"type": "input_text", "text": QUESTION}]
    asked: Any = {"model": ANSWERS, "input": [{"role": "user", "content": content}], "temperature": 0}
    asked |= {"reasoning": {"effort": "none"}, "store": False}
    assert openai.responses.create(**asked).output_text == said
    events = list(openai.responses.create(**asked, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == said
    assert events[-1].type == "response.completed"


def test_openai_tools(openai: Any) -> None:
    messages: Any = [{"role": "user", "content": "Find a pizza."}]
    asked: Any = {"model": ANSWERS, "tools": [{"type": "function", "function": FIND}], "temperature": 0}
    asked["extra_body"] = NO_THINKING
    choice = openai.chat.completions.create(messages=messages, **asked).choices[0]
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "find_picture")
    assert json.loads(call.function.arguments) == {"name": "pizza"}
    with openai.chat.completions.stream(messages=messages, **asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.arguments for call in streamed] == [call.function.arguments]
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "pizza.png"}]
    last = openai.chat.completions.create(messages=messages, **asked).choices[0]
    assert (last.finish_reason, "pizza.png" in last.message.content) == ("stop", True)


def test_openai_models_and_errors(openai: Any) -> None:
    errors = client_package("openai")
    assert [model.id for model in openai.models.list()] == [PICTURES, SOUNDS, ANSWERS]
    assert openai.models.retrieve(SOUNDS).capabilities["input"] == ["text", "audio"]
    with pytest.raises(errors.NotFoundError, match="There is no model"):
        openai.embeddings.create(model="absent", input="a")
    with pytest.raises(errors.BadRequestError) as refused:
        openai.chat.completions.create(model=ANSWERS, messages=[{"role": "user", "content": "a"}], n=2)
    assert refused.value.param == "n"
    with pytest.raises(errors.BadRequestError, match="has no audio"):
        openai.embeddings.create(model=PICTURES, input=[{"audio": uri("audio/flac", sound("bell"))}])


def test_openai_side_by_side_and_left(address: str, engine: Any, said: str) -> None:
    package = client_package("openai")
    asked: Any = {"model": ANSWERS, "messages": [{"role": "user", "content": SHOWN}], "temperature": 0}

    async def ask() -> list[str]:
        async with package.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            left = await client.chat.completions.create(**asked, stream=True)
            await anext(aiter(left))
            await left.close()
            many = [client.chat.completions.create(**asked, extra_body=NO_THINKING) for _ in range(6)]
            return [whole.choices[0].message.content for whole in await asyncio.gather(*many)]

    assert asyncio.run(ask()) == [said] * 6
    assert idle(engine)["running"] == 0


def test_openai_as_the_readme_shows_it(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    client_package("openai")
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    [text] = [block for block in re.findall(r"^```python\n(.*?)^```$", readme, re.M | re.S) if "openai" in block]
    exec(compile(text.replace("http://localhost:8765", address), "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\)  # (.+)$", text, re.M)


# --- langchain, llama-index -------------------------------------------------------------------------------------


def test_langchain(address: str, pictures: Any, said: str) -> None:
    package = client_package("langchain_openai")
    where: Any = {"base_url": f"{address}/v1", "api_key": "none"}
    # It would send numbers of another model's tokens.
    embeddings = package.OpenAIEmbeddings(model=PICTURES, check_embedding_ctx_length=False, **where)
    assert close(embeddings.embed_documents(TEXTS), encode_text(*pictures, TEXTS))
    assert close(embeddings.embed_query(TEXTS[0]), encode_text(*pictures, TEXTS[:1])[0])
    chat = package.ChatOpenAI(model=ANSWERS, temperature=0, extra_body=NO_THINKING, **where)
    messages: Any = [{"role": "user", "content": SHOWN}]
    assert chat.invoke(messages).content == said
    assert "".join(chunk.content for chunk in chat.stream(messages)) == said
    finding = chat.bind_tools([{"type": "function", "function": FIND}])
    talk: Any = [("user", "Find a pizza.")]
    called = finding.invoke(talk)
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("find_picture", {"name": "pizza"})]
    result = {"role": "tool", "tool_call_id": called.tool_calls[0]["id"], "content": "pizza.png"}
    assert "pizza.png" in finding.invoke([*talk, called, result]).content


def test_llama_index(address: str, pictures: Any) -> None:
    package = client_package("llama_index.embeddings.openai")
    embedding = package.OpenAIEmbedding(model_name=PICTURES, api_base=f"{address}/v1", api_key="none")
    own = encode_text(*pictures, TEXTS)
    assert close(embedding.get_text_embedding_batch(TEXTS), own)
    assert close(embedding.get_query_embedding(TEXTS[0]), own[0])


# --- without a client -------------------------------------------------------------------------------------------


def post(address: str, path: str, body: object) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_infinity(address: str, pictures: Any) -> None:
    found = post(address, "/v1/embeddings", {"model": PICTURES, "modality": "image", "input": [FROG, FROG]})
    own = encode_image(*pictures, [picture("frog")])[0]
    assert close([row["embedding"] for row in found["data"]], [own, own])
    body = {"model": SOUNDS, "modality": "audio", "input": [uri("audio/flac", sound("bell"))]}
    heard = post(address, "/v1/embeddings", body)["data"][0]["embedding"]
    assert close(heard, encode_audio(*load(SOUNDS), [sound("bell")])[0])
    texts = post(address, "/v1/embeddings", {"model": PICTURES, "modality": "text", "input": TEXTS})
    assert close([row["embedding"] for row in texts["data"]], encode_text(*pictures, TEXTS))
