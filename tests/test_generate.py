"""Answers of small GLM models: what they say, where they end, how tokens are chosen, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from glm_answers import Scripted, picture, script
from mlx_lm.generate import generate_step
from tiny import write_json

from mlx_mm import PromptCache, generate, load, stream_generate, to_mlx
from mlx_mm.errors import ConfigError, InputError, MediaError, ModalityError, OutputError
from mlx_mm.generation.answer import join
from mlx_mm.generation.sampling import make_sampler
from mlx_mm.models.glm4v import language

Checkpoint = Callable[..., Path]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@pytest.fixture
def loaded(tiny_checkpoint: Checkpoint) -> tuple[Any, Any]:
    return load(tiny_checkpoint("glm46v"))


def by_step(model: Any, processor: Any, prompt: str, count: int, images: Any = (), **options: Any) -> str:
    """The raw text of greedy tokens by mlx_lm's loop over a request."""
    batch = processor.chat([{"role": "user", "content": prompt}], images=images)
    steps = generate_step(mx.array(batch["input_ids"][0]), model.request(batch), max_tokens=count, **options)
    tokens = []
    for token, _ in steps:
        if token in processor.defaults.stop_ids:
            break
        tokens.append(int(token))
    return str(processor.decode(tokens, skip_special_tokens=False))


# --- what is said -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["glm46v", "glm4v", "glm4v_moe"])
def test_greedy_tokens_are_those_of_the_loop(family: str, tiny_checkpoint: Checkpoint) -> None:
    model, processor = load(tiny_checkpoint(family))
    for images in ([], [picture(0), picture(1, 60, 60)]):
        expected = by_step(model, processor, "What is it?", 12, images)
        answer = generate(model, processor, "What is it?", images=images, max_tokens=12)
        assert answer.raw == expected
        assert answer.raw != generate(model, processor, "What is that?", images=images, max_tokens=12).raw


def test_pieces_add_up_to_the_whole(loaded: Any) -> None:
    model = script(*loaded, "<think>a b</think>\nThe <|begin_of_box|>[[1,2,3,4]]<|end_of_box|> it is.")
    pieces = list(stream_generate(model, loaded[1], "q"))
    whole = generate(model, loaded[1], "q")
    assert whole.text == "The [[1,2,3,4]] it is."
    assert whole.reasoning == "a b"
    assert whole.raw == "<think>a b</think>\nThe <|begin_of_box|>[[1,2,3,4]]<|end_of_box|> it is."
    assert whole.boxes == [[1, 2, 3, 4]]
    assert whole.finish_reason == "stop"
    assert "".join(piece.text for piece in pieces) == whole.text
    assert "".join(piece.reasoning or "" for piece in pieces) == whole.reasoning
    assert "".join(piece.raw for piece in pieces) == whole.raw
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert pieces[-1].boxes == whole.boxes
    assert len([piece for piece in pieces if piece.text]) > 5  # it does not come at once
    assert whole.generation_tokens == len(pieces)  # one for each token, the end token's is the last
    assert whole.prompt_tokens == loaded[1].chat([{"role": "user", "content": "q"}])["input_ids"].shape[1]
    assert min(whole.prompt_tps, whole.generation_tps, whole.peak_memory) > 0


def test_no_half_character_is_shown(loaded: Any) -> None:
    text = "日本語 🦊 é"
    model = script(*loaded, f"<think></think>{text}")
    pieces = [piece.text for piece in stream_generate(model, loaded[1], "q")]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) == len(text.replace(" ", ""))


def test_bytes_that_never_become_a_character_come_at_the_end(loaded: Any) -> None:
    fox = loaded[1].tokenizer.encode_prompt("a🦊")
    assert generate(script(*loaded, fox[:-1]), loaded[1], "q").text == "a\ufffd"
    broken = [*fox[:-1], *fox[:1]]
    assert generate(script(*loaded, broken), loaded[1], "q").text == "a\ufffda"


def test_prompt_that_ends_inside_a_think_block(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("glm46v")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8") + "{{- '<think>\\n' if add_generation_prompt -}}", "utf-8")
    loaded = load(folder)
    answer = generate(script(*loaded, "hm</think>yes"), loaded[1], "q")
    assert (answer.reasoning, answer.text) == ("hm", "yes")
    assert generate(script(*loaded, "abcdef</think>yes"), loaded[1], "q", thinking_budget=2).reasoning == "ab"


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|user|>", "<|observation|>"])
def test_end_tokens(end: str, loaded: Any) -> None:
    answer = generate(script(*loaded, f"<think></think>yes{end}more"), loaded[1], "q")
    assert (answer.text, answer.finish_reason) == ("yes", "stop")
    assert answer.raw == "<think></think>yes"
    assert answer.generation_tokens == 6


def test_end_tokens_of_all_files_count(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("glm46v")
    letters = load(folder)[1].tokenizer.encode_prompt("xyz")
    write_json(folder / "generation_config.json", {"eos_token_id": letters[0]})
    config = json.loads((folder / "config.json").read_text("utf-8"))
    write_json(folder / "config.json", config | {"eos_token_id": [letters[1]]})
    loaded = load(folder)
    for text, end in (("abx", "ab"), ("aby", "ab"), ("abz", "abz"), ("a<|user|>b", "a")):
        assert generate(script(*loaded, f"<think></think>{text}"), loaded[1], "q").text == end


def test_max_tokens(loaded: Any) -> None:
    answer = generate(script(*loaded, "<think></think>abcdef"), loaded[1], "q", max_tokens=5)
    assert (answer.text, answer.finish_reason, answer.generation_tokens) == ("abc", "length", 5)


def test_answer_ends_with_the_context(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("glm46v")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["text_config"]["max_position_embeddings"] = 20
    write_json(folder / "config.json", config)
    model, processor = load(folder)
    answer = generate(script(model, processor, "a" * 40), processor, "ask")
    assert (answer.prompt_tokens + answer.generation_tokens, answer.finish_reason) == (20, "length")
    missing = "a" * (23 - answer.prompt_tokens)
    with pytest.raises(InputError, match="20 tokens"):
        generate(model, processor, missing)
    with pytest.raises(InputError, match=r"21 tokens.*expected 1 to 20"):
        generate(model, processor, missing + "a")


@pytest.mark.parametrize(
    ("stop", "text"),
    [("lo w", "hel"), (["xyz", "wor"], "hello"), ("never", "hello world"), (["world", "o"], "hell"), ("he", "")],
)
def test_stop_strings_over_the_borders_of_pieces(stop: Any, text: str, loaded: Any) -> None:
    model = script(*loaded, "<think>lo wor o he</think>\nhello world")
    pieces = list(stream_generate(model, loaded[1], "q", stop=stop))
    answer = join(pieces)
    assert answer.text == text
    assert answer.reasoning == "lo wor o he"  # not looked for there
    assert answer.finish_reason == "stop"
    if stop == "lo w":
        assert answer.generation_tokens == len("<lo wor o he>\nhello w")


def test_tool_calls_in_the_openai_shape(loaded: Any) -> None:
    call = (
        "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>12\nBonn</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
    )
    model = script(*loaded, f"<think>Look.</think>\nOne moment.\n{call}\n{call}<|observation|>")
    pieces = list(stream_generate(model, loaded[1], "q", tools=[WEATHER]))
    answer = join(pieces)
    assert (answer.finish_reason, answer.text, answer.reasoning) == ("tool_calls", "One moment.", "Look.")
    assert [call["id"] for call in answer.tool_calls] == ["call_0", "call_1"]
    assert answer.tool_calls[0]["type"] == "function"
    function = answer.tool_calls[0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("weather", {"city": "12\nBonn", "days": 3})
    assert [len(piece.tool_calls) for piece in pieces if piece.tool_calls] == [1, 1]  # each as soon as it is whole
    cut = generate(model, loaded[1], "q", tools=[WEATHER], max_tokens=answer.generation_tokens - 3)
    assert (cut.finish_reason, len(cut.tool_calls)) == ("length", 1)


def test_thinking_off_is_the_templates(loaded: Any) -> None:
    prompts = []
    usual = loaded[0].request

    def request(batch: Any) -> Any:
        prompts.append(loaded[1].decode(batch["input_ids"][0].tolist(), skip_special_tokens=False))
        return Scripted(usual(batch), [])

    loaded[0].request = request
    for value in (None, False):
        generate(*loaded, "q", enable_thinking=value)
    assert [prompt.endswith("/nothink<|assistant|>\n<think></think>\n") for prompt in prompts] == [False, True]


@pytest.mark.parametrize(
    ("budget", "said", "raw"),
    [
        (0, "<think>abcdef", "<think></think>bcdef"),
        (3, "<think>abcdef", "<think>abc</think>ef"),
        (6, "<think>abcdef</think>g", "<think>abcdef</think>g"),
        (6, "<think>abc</think>defghij", "<think>abc</think>defghij"),
        (2, "abcdef", "abcdef"),
        (2, " <think>cdef", " <think>cd</think>f"),
        (2, "ab<think>cdef", "ab<think>cdef"),
    ],
)
def test_thinking_budget(budget: int, said: str, raw: str, loaded: Any) -> None:
    assert generate(script(*loaded, said), loaded[1], "q", thinking_budget=budget).raw == raw


# --- how tokens are chosen --------------------------------------------------------------------------------------


def test_seed(loaded: Any) -> None:
    def say(**options: Any) -> str:
        return generate(*loaded, "Tell", max_tokens=10, temperature=1.5, **options).raw

    assert say(seed=4) == say(seed=4)
    assert len({say(seed=seed) for seed in range(4)}) == 4
    assert say() != say()


def test_seed_leaves_the_global_generator_alone(loaded: Any) -> None:
    mx.random.seed(9)
    expected = mx.random.uniform().item()
    mx.random.seed(9)
    generate(*loaded, "Tell", max_tokens=4, temperature=1.5, seed=1, top_k=20, top_p=0.9, min_p=0.01)
    assert mx.random.uniform().item() == expected
    mx.random.seed(9)
    first = generate(*loaded, "Tell", max_tokens=8, temperature=1.5).raw
    mx.random.seed(9)
    assert generate(*loaded, "Tell", max_tokens=8, temperature=1.5).raw == first


def test_filters_come_in_the_order_of_transformers(loaded: Any) -> None:
    """Each case has another support in another order of temperature, top_k and top_p."""
    probabilities = np.array([0.5, 0.25, 0.15, 0.06, 0.04])
    logprobs = mx.array(np.log(probabilities)[None].astype(np.float32))

    def support(**options: Any) -> set[int]:
        sampler = make_sampler(dataclasses.replace(loaded[1].defaults.sampling, **options), seed=0)
        return {int(sampler(logprobs).item()) for _ in range(300)}

    assert support(temperature=1.0) == {0, 1, 2, 3, 4}
    assert support(temperature=2.0, top_p=0.7) == {0, 1, 2}  # at temperature 1 two tokens have 0.75
    assert support(temperature=1.0, top_k=3, top_p=0.8) == {0, 1}  # 0.75 of 0.9 are more than 0.8
    assert support(temperature=1.0, top_k=1) == {0}
    assert support(temperature=1.0, top_k=99) == {0, 1, 2, 3, 4}
    assert support(temperature=0.5, min_p=0.2) == {0, 1}  # 0.25 and 0.09 of the first
    assert support(temperature=0.001, top_p=0.99) == {0}  # exponents as they are would all be zero
    assert support() == {0}


def test_sampled_frequencies(loaded: Any) -> None:
    logprobs = mx.array(np.log([[0.7, 0.2, 0.1]]).astype(np.float32))
    sampler = make_sampler(dataclasses.replace(loaded[1].defaults.sampling, temperature=2.0), seed=3)
    counts = np.bincount([int(sampler(logprobs).item()) for _ in range(3000)], minlength=3) / 3000
    expected = np.sqrt([0.7, 0.2, 0.1])
    assert np.abs(counts - expected / expected.sum()).max() < 0.03


def penalized(model: Any, processor: Any, messages: Any, images: Any, penalty: float, count: int) -> str:
    """Greedy tokens of whole prompts, with the penalty of transformers over prompt and answer, in NumPy."""
    batch = to_mlx(processor.chat(messages, images=images))
    tokens: list[int] = []
    for _ in range(count):
        more = mx.array([tokens], mx.int32)
        ids = mx.concatenate([batch["input_ids"], more], axis=1)
        types = mx.concatenate([batch["mm_token_type_ids"], mx.zeros_like(more)], axis=1)
        whole = {**batch, "input_ids": ids, "mm_token_type_ids": types, "attention_mask": mx.ones_like(ids)}
        scores = np.array(model(**whole, logits_to_keep=1).logits[0, -1], dtype=np.float64)
        seen = np.unique(np.array(ids))
        scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
        tokens.append(int(scores.argmax()))
        if tokens[-1] in processor.defaults.stop_ids:
            tokens.pop()
            break
    return str(processor.decode(tokens, skip_special_tokens=False))


def test_repetition_penalty_counts_prompt_and_answer(loaded: Any) -> None:
    question = "What is it? " * 4
    expected = penalized(*loaded, [{"role": "user", "content": question}], [picture()], 1.6, 16)
    options = {"images": [picture()], "max_tokens": 16}
    assert generate(*loaded, question, repetition_penalty=1.6, prefill_step_size=7, **options).raw == expected
    assert generate(*loaded, question, repetition_penalty=1.6, **options).raw == expected
    assert generate(*loaded, question, **options).raw != expected
    cache = PromptCache()  # what is in a cache already counts too
    generate(*loaded, question, cache=cache, images=[picture()], max_tokens=1)
    again = generate(*loaded, question, repetition_penalty=1.6, cache=cache, **options)
    assert (again.raw, again.cached_tokens) == (expected, again.prompt_tokens - 1)


def test_the_checkpoints_own_sampling(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("glm46v")
    greedy = {"temperature": 0.0, "top_p": None, "top_k": None, "min_p": None, "repetition_penalty": None}
    for written, expected in [
        ({}, greedy),
        ({"top_p": 0.6, "do_sample": False, "temperature": 0.8}, greedy | {"top_p": 0.6}),
        ({"top_k": 2, "temperature": 0.8}, greedy | {"top_k": 2, "temperature": 0.8}),
        ({"do_sample": True}, greedy | {"temperature": 1.0}),
        ({"repetition_penalty": 1.6}, greedy | {"repetition_penalty": 1.6}),
    ]:
        write_json(folder / "generation_config.json", written)
        model, processor = load(folder)
        assert dataclasses.asdict(processor.defaults.sampling) == expected
    question = [{"role": "user", "content": "What is it? " * 4}]
    expected_raw = penalized(model, processor, question, [], 1.6, 16)
    assert generate(model, processor, question, max_tokens=16).raw == expected_raw
    plain = generate(model, processor, question, max_tokens=16, repetition_penalty=1).raw
    assert plain == by_step(model, processor, "What is it? " * 4, 16) != expected_raw
    (folder / "generation_config.json").unlink()
    assert load(folder)[1].defaults.stop_ids == processor.defaults.stop_ids
    for wrong in ({"top_k": 0.5}, {"temperature": "warm"}, {"eos_token_id": ["a"]}, {"top_p": True}):
        write_json(folder / "generation_config.json", wrong)
        with pytest.raises(ConfigError, match=r"generation_config\.json has"):
            load(folder)


# --- memory -----------------------------------------------------------------------------------------------------


def test_prefill_in_pieces(loaded: Any) -> None:
    options = {"images": [picture(), picture(1, 200, 60)], "max_tokens": 10}
    whole = generate(*loaded, "What is it?", **options)
    for size in (1, 5, 23):
        assert generate(*loaded, "What is it?", prefill_step_size=size, **options).raw == whole.raw


def test_quantised_and_rotating_caches(loaded: Any) -> None:
    question = "What is it? " * 6
    quantised = by_step(*loaded, question, 12, kv_bits=4, kv_group_size=32, quantized_kv_start=0)
    assert generate(*loaded, question, max_tokens=12, kv_bits=4).raw == quantised
    rotating = by_step(*loaded, question, 12, max_kv_size=24, prefill_step_size=8)
    assert generate(*loaded, question, max_tokens=12, max_kv_size=24, prefill_step_size=8).raw == rotating
    assert len({quantised, rotating, generate(*loaded, question, max_tokens=12).raw}) == 3


def test_cache_of_a_prompt_that_begins_alike(loaded: Any) -> None:
    cache, options = PromptCache(), {"max_tokens": 8}
    for question in ("What is it?", "What is that?", "What is it?"):
        answer = generate(*loaded, question, cache=cache, **options)
        assert answer.raw == generate(*loaded, question, **options).raw
        assert len(cache) == answer.prompt_tokens + answer.generation_tokens
    assert answer.cached_tokens == len("[g]") + len("<|user|>\n") // 9 + len("What is ")


def test_cache_knows_pictures_of_one_size_apart(loaded: Any) -> None:
    cache = PromptCache()
    first = generate(*loaded, "q", images=[picture(0)], cache=cache, max_tokens=8)
    second = generate(*loaded, "q", images=[picture(1)], cache=cache, max_tokens=8)
    assert second.raw == generate(*loaded, "q", images=[picture(1)], max_tokens=8).raw != first.raw
    assert 0 < second.cached_tokens < 8
    assert generate(*loaded, "q", images=[picture(1)], cache=cache, max_tokens=8).cached_tokens > 15


def test_keys_of_tokens(loaded: Any) -> None:
    frames = [np.array(picture(seed, 60, 60)) for seed in range(4)]
    options = {"fps": 2.0}
    messages = [{"role": "user", "content": [{"type": "video", "video": np.stack(frames)}]}]
    batch = loaded[1].chat(messages, images=[picture(0), picture(1), picture(0)], **options)
    keys, ids, types = (
        np.array(loaded[0].request(batch).token_keys()),
        batch["input_ids"][0],
        batch["mm_token_type_ids"][0],
    )
    assert (keys[types == 0] == ids[types == 0]).all()
    assert (keys[types != 0] < 0).all()
    tokens = batch["image_grid_thw"][0].prod() // 4
    images = keys[types == 1]
    assert (images[:tokens] == images[2 * tokens :]).all()
    assert set(images[:tokens]).isdisjoint(images[tokens : 2 * tokens])
    assert len(set(keys[types == 2])) == 1
    assert not set(keys[types == 2]) & set(images)


def test_cache_with_other_limits_or_another_model_begins_anew(loaded: Any, tiny_checkpoint: Checkpoint) -> None:
    cache = PromptCache()
    generate(*loaded, "What is it?", cache=cache, max_tokens=2)
    for options in ({"kv_bits": 8}, {"max_kv_size": 64}, {}):
        answer = generate(*loaded, "What is it?", cache=cache, max_tokens=2, **options)
        assert answer.cached_tokens == 0
    other = load(tiny_checkpoint("glm4v_moe"))
    answer = generate(*other, "What is it?", cache=cache, max_tokens=6)
    assert answer.raw == generate(*other, "What is it?", max_tokens=6).raw
    assert answer.cached_tokens == 0


def test_full_rotating_cache_begins_anew(loaded: Any) -> None:
    cache, options = PromptCache(), {"max_tokens": 6, "max_kv_size": 24}
    for question in ("What is it? " * 6, "What is it? " * 6 + "Say!"):
        answer = generate(*loaded, question, cache=cache, **options)
        assert answer.raw == generate(*loaded, question, **options).raw
        assert answer.cached_tokens == 0


@pytest.mark.parametrize("at", [-12, -1, 0, 2])
@pytest.mark.parametrize("options", [{}, {"kv_bits": 8}, {"max_kv_size": 96}])
def test_interruption_leaves_the_cache_usable(at: int, options: dict[str, Any], loaded: Any) -> None:
    model, processor = loaded
    expected = generate(model, processor, "What is it?", images=[picture()], max_tokens=6, **options).raw
    cache = PromptCache()

    def interrupt(done: int) -> None:
        if done >= at:
            raise KeyboardInterrupt

    usual = model.request
    model.request = lambda batch: Scripted(usual(batch), [40] * 9, interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(model, processor, "What is it?", images=[picture()], cache=cache, prefill_step_size=8, **options)
    model.request = usual
    answer = generate(model, processor, "What is it?", images=[picture()], max_tokens=6, cache=cache, **options)
    assert answer.raw == expected
    if not options:
        assert answer.cached_tokens > 0


def test_interruption_in_the_middle_of_a_layer(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer has the token already, the second has it half, the third has not."""
    model, processor = loaded
    expected = generate(model, processor, "What is it?", max_tokens=6).raw
    cache, usual, calls = PromptCache(), language.append, []

    def append(layer: Any, keys: mx.array, values: mx.array) -> Any:
        calls.append(1)
        if len(calls) == 3 * 4 + 2:
            layer.offset += keys.shape[2]
            raise KeyboardInterrupt
        return usual(layer, keys, values)

    monkeypatch.setattr(language, "append", append)
    with pytest.raises(KeyboardInterrupt):
        generate(model, processor, "What is it?", cache=cache, max_tokens=6)
    monkeypatch.undo()
    answer = generate(model, processor, "What is it?", max_tokens=6, cache=cache)
    assert (answer.raw, answer.cached_tokens) == (expected, answer.prompt_tokens - 1)


def torn_growth(layers: list[Any]) -> None:
    layers[1].keys = mx.concatenate([layers[1].keys, layers[1].keys], axis=2)


def torn_count(layers: list[Any]) -> None:
    layers[1].offset -= 12


def torn_place(layers: list[Any]) -> None:
    layers[1].offset += 1


@pytest.mark.parametrize(
    ("options", "tear"),
    [
        ({}, torn_growth),
        ({}, torn_count),
        ({"kv_bits": 8}, torn_count),
        ({"max_kv_size": 96}, torn_growth),
        ({"max_kv_size": 96}, torn_count),
        ({"max_kv_size": 96}, torn_place),
    ],
)
def test_torn_layers_are_not_used(options: dict[str, Any], tear: Any, loaded: Any) -> None:
    """As an interruption can leave one, between two of the lines that bring it up to date."""
    cache = PromptCache()
    first = generate(*loaded, "What is it?", max_tokens=6, cache=cache, **options)
    tear(cache.layers)
    answer = generate(*loaded, "What is it?", max_tokens=6, cache=cache, **options)
    assert (answer.raw, answer.cached_tokens) == (first.raw, 0)


def test_cache_can_be_saved_after_an_interruption(loaded: Any, tmp_path: Path) -> None:
    model, processor = loaded
    cache, file = PromptCache(), tmp_path / "cache.safetensors"

    def interrupt(done: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    usual = model.request
    model.request = lambda batch: Scripted(usual(batch), [40] * 9, interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate(model, processor, "What is it?", cache=cache)
    cache.save(file)
    assert PromptCache.load(file, model)[0].keys == cache.keys
    assert {layer.offset for layer in cache.layers} == {len(cache)}


def test_leaving_a_stream_leaves_the_cache_usable(loaded: Any) -> None:
    cache = PromptCache()
    pieces = stream_generate(*loaded, "What is it?", cache=cache)
    first = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert len(cache) == first.prompt_tokens + 1
    answer = generate(*loaded, "What is it?", max_tokens=6, cache=cache)
    assert answer.raw == generate(*loaded, "What is it?", max_tokens=6).raw


@pytest.mark.parametrize("options", [{}, {"kv_bits": np.int64(4)}, {"max_kv_size": np.int64(64)}])
def test_cache_file(options: dict[str, Any], loaded: Any, tmp_path: Path) -> None:
    cache, file = PromptCache(), tmp_path / "cache.safetensors"
    first = generate(*loaded, "What is it?", images=[picture()], cache=cache, max_tokens=4, **options)
    cache.save(file, about={"note": "a.b"})
    assert [path.name for path in tmp_path.glob("*cache*")] == ["cache.safetensors"]
    read, about = PromptCache.load(file, loaded[0])
    assert (about, read.keys) == ({"note": "a.b"}, cache.keys)
    again = generate(*loaded, "What is it?", images=[picture()], cache=read, max_tokens=4, **options)
    assert (again.raw, again.cached_tokens) == (first.raw, first.prompt_tokens - 1)


def test_cache_files_that_are_refused(loaded: Any, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    cache, file = PromptCache(), tmp_path / "cache.safetensors"
    with pytest.raises(InputError, match="nothing in the cache"):
        cache.save(file)
    generate(*loaded, "q", cache=cache, max_tokens=2)
    with pytest.raises(InputError, match=r"\.safetensors"):
        cache.save(tmp_path / "cache.bin")
    with pytest.raises(OutputError, match=r"Writing .* failed"):
        cache.save(tmp_path / "missing" / "cache.safetensors")
    cache.save(file)
    other = load(tiny_checkpoint("glm4v"))[0]
    PromptCache.load(file, other)  # the same weights under another name
    layer = other.language_model.model.layers[0].self_attn.o_proj
    layer.weight = layer.weight + 0.001
    with pytest.raises(InputError, match="another checkpoint"):
        PromptCache.load(file, other)
    with pytest.raises(InputError, match="is no prompt cache"):
        PromptCache.load(tiny_checkpoint("siglip") / "model.safetensors", other)
    with pytest.raises(InputError, match="cannot be read"):
        PromptCache.load(tmp_path / "none.safetensors", other)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cannot be read|damaged"):
        PromptCache.load(file, loaded[0])


def test_interrupted_save_leaves_the_old_file(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, file = PromptCache(), tmp_path / "cache.safetensors"
    generate(*loaded, "q", cache=cache, max_tokens=2)
    cache.save(file)
    before = file.read_bytes()

    def half(name: str, *_rest: Any) -> None:
        Path(name).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("mlx_lm.models.cache.save_prompt_cache", half)
    with pytest.raises(KeyboardInterrupt):
        cache.save(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["cache.safetensors"]


def test_numbers_of_numpy(loaded: Any) -> None:
    plain = {"temperature": 1.0, "top_p": 0.5, "top_k": 5, "min_p": 0.25, "repetition_penalty": 1.5, "seed": 1}
    numbers = {name: np.int64(value) if isinstance(value, int) else np.float32(value) for name, value in plain.items()}
    right = generate(*loaded, "What is it?", max_tokens=6, **plain)
    assert generate(*loaded, "What is it?", max_tokens=np.int32(6), **numbers).raw == right.raw


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"prefill_step_size": 0}, "prefill_step_size is 0"),
        ({"thinking_budget": -1}, "thinking_budget is -1"),
        ({"max_kv_size": 4}, "max_kv_size is 4"),
        ({"kv_bits": 3}, "kv_bits is 3"),
        ({"kv_bits": 4.0}, "kv_bits is 4.0"),
        ({"kv_bits": 4, "max_kv_size": 64}, "both given"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1, "top_p": 0}, "top_p is 0"),
        ({"temperature": 1, "top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": 1, "top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": 5}, "top_k is given, and the temperature is 0"),
        ({"temperature": 0, "min_p": 0.1}, "min_p is given"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": ["a", ""]}, "stop strings"),
        ({"max_pixels": -5}, "max_pixels|pixels"),
        ({"tools": [{"type": "retrieval"}]}, "tools\\[0\\]"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools\\[0\\]"),
        ({"tools": WEATHER}, "tools is dict"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str, loaded: Any) -> None:
    with pytest.raises(InputError, match=message):
        stream_generate(*loaded, "q", **options)  # before the first piece is asked for


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("What is <|image|>?", "<|image|>"),
        ("A <|begin_of_video|> b", "begin_of_video"),
        ([], "messages"),
        ([{"role": "robot", "content": "q"}], "robot"),
        ([{"role": "user", "content": [{"type": "sound"}]}], "sound"),
        (7, "messages is int"),
    ],
)
def test_prompts_that_are_refused(prompt: Any, message: str, loaded: Any) -> None:
    with pytest.raises(InputError, match=message.replace("|", r"\|")):
        generate(*loaded, prompt)


def test_template_that_fails(tiny_checkpoint: Checkpoint) -> None:
    folder = tiny_checkpoint("glm46v")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no system here') }}", "utf-8")
    with pytest.raises(InputError, match="no system here"):
        generate(*load(folder), "q")
    (folder / "chat_template.jinja").write_text("{{ messages.nothing.at_all }}", "utf-8")
    with pytest.raises(ConfigError, match="fails on these messages"):
        generate(*load(folder), "q")


def test_missing_picture(loaded: Any, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"none\.png"):
        generate(*loaded, "q", images=[tmp_path / "none.png"])


def test_model_without_a_head(tiny_checkpoint: Checkpoint) -> None:
    """Named over a file that has one, it leaves the head out."""
    folder = tiny_checkpoint("glm46v")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    write_json(folder / "config.json", config | {"architectures": ["Glm46VModel"]})
    with pytest.raises(ModalityError, match="no head"):
        generate(*load(folder), "q")


def test_progress_is_shown_where_asked_for(
    loaded: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_mm.progress.SECONDS_BETWEEN_LINES", 0.0)
    generate(*loaded, "q", max_tokens=2)
    assert capsys.readouterr().err == ""
    generate(*loaded, "q", max_tokens=2, progress=True)
    assert "prompt" in capsys.readouterr().err
