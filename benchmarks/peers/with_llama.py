"""llama.cpp through node-llama-cpp, on random weights of the same sizes: GLM-4's text model, or GLM-4.5's with experts.

`npm install node-llama-cpp@3.21.1` in a folder, and LLAMA_FOLDER=that folder. Its build picks the kernels of this
processor itself.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
from workers import Case, MissingError, Run, Timed, cpus

BLOCK, BLOCK_BYTES = 32, 18  # of Q4_0: a float16 scale, and 32 numbers of 4 bits


def prepare(kind: str, folder: Path, variant: str):
    """A function from cases of that kind to runs."""
    modules = Path(os.environ.get("LLAMA_FOLDER", ".")) / "node_modules" / "node-llama-cpp"
    if kind != "language":
        raise MissingError("it runs language models")
    if not modules.is_dir():
        raise MissingError(f"node-llama-cpp is not in {modules.parent}: npm install node-llama-cpp, and LLAMA_FOLDER")
    path = folder / f"{variant}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        write(part, json.loads((folder / "source" / "config.json").read_text())["text_config"])
        part.rename(path)
    return functools.partial(answer, started(modules, path))


def started(modules: Path, path: Path) -> subprocess.Popen:
    """The process with the model, which ends with this one."""
    script = Path(__file__).with_name("llama.mjs")
    command = ["node", str(script), str(modules / "dist" / "index.js"), str(path), str(cpus())]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    if process.stdout.readline().strip() != "ready":
        raise MissingError("node-llama-cpp did not load the model")
    return process


def answer(process: subprocess.Popen, case: Case) -> Run:
    """As `ours.answer`; that process measures."""
    from works import DECODED

    def run() -> Timed:
        print(json.dumps({**case, "decoded": DECODED}), file=process.stdin, flush=True)
        taken = json.loads(process.stdout.readline())
        return Timed(None, taken["seconds"], taken["processor"], taken["memory"])

    return run


def write(path: Path, text: dict) -> None:
    """A GGUF file of a text_config, all matrices in Q4_0 with random numbers."""
    try:
        import gguf
    except ImportError as error:
        raise MissingError("gguf is not installed") from error
    experts = text.get("n_routed_experts", 0)
    width = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    writer = gguf.GGUFWriter(path, "glm4moe" if experts else "glm4")
    writer.add_block_count(text["num_hidden_layers"])
    writer.add_context_length(4096)
    writer.add_embedding_length(text["hidden_size"])
    writer.add_feed_forward_length(text["intermediate_size"])
    writer.add_head_count(text["num_attention_heads"])
    writer.add_head_count_kv(text["num_key_value_heads"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(text["rms_norm_eps"])
    writer.add_rope_dimension_count(width // 2)
    writer.add_rope_freq_base(500000.0)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(text["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(text["moe_intermediate_size"])
        writer.add_expert_shared_count(text["n_shared_experts"])
        writer.add_leading_dense_block_count(text["first_k_dense_replace"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_expert_weights_norm(True)
        writer.add_expert_weights_scale(1.0)
    _add_words(writer, text["vocab_size"])
    random = np.random.default_rng(0)
    for name, shape in _shapes(text, width):
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, np.float32))
        elif name.endswith("ffn_gate_inp.weight"):
            writer.add_tensor(name, random.standard_normal(shape, dtype=np.float32) / 64)
        else:
            packed = _packed(random, shape)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_words(writer, count: int) -> None:
    """A vocabulary that nobody reads: what it must have, a token for each byte, and words."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [2, 3, 3, *[6] * 256]  # unknown, control, byte; 1 is a word
    words += [f"w{number}" for number in range(len(words), count)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * count)
    writer.add_token_types(kinds + [1] * (count - len(kinds)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _shapes(text: dict, width: int):
    """Names and shapes of the tensors, rows first."""
    wide, heads, kv = text["hidden_size"], text["num_attention_heads"] * width, text["num_key_value_heads"] * width
    experts, inner = text.get("n_routed_experts", 0), text.get("moe_intermediate_size", 0)
    yield from (("token_embd.weight", (text["vocab_size"], wide)), ("output.weight", (text["vocab_size"], wide)))
    yield "output_norm.weight", (wide,)
    for layer in (f"blk.{number}." for number in range(text["num_hidden_layers"])):
        for name, rows, columns in (("attn_q", heads, wide), ("attn_k", kv, wide), ("attn_v", kv, wide)):
            yield from ((f"{layer}{name}.weight", (rows, columns)), (f"{layer}{name}.bias", (rows,)))
        yield from ((f"{layer}attn_output.weight", (wide, heads)), (f"{layer}attn_norm.weight", (wide,)))
        yield f"{layer}post_attention_norm.weight", (wide,)
        if experts:
            yield from ((f"{layer}ffn_gate_inp.weight", (experts, wide)), (f"{layer}exp_probs_b.bias", (experts,)))
            for name, rows, columns in (("gate", inner, wide), ("up", inner, wide), ("down", wide, inner)):
                yield f"{layer}ffn_{name}_exps.weight", (experts, rows, columns)
                yield f"{layer}ffn_{name}_shexp.weight", (rows, columns)
        else:
            yield from ((f"{layer}ffn_norm.weight", (wide,)), (f"{layer}post_ffw_norm.weight", (wide,)))
            yield f"{layer}ffn_up.weight", (2 * text["intermediate_size"], wide)
            yield f"{layer}ffn_down.weight", (wide, text["intermediate_size"])


def _packed(random, shape: tuple[int, ...]) -> np.ndarray:
    """Random blocks of a matrix; products of it stay of the order of one."""
    blocks = int(np.prod(shape, dtype=np.int64)) // BLOCK
    packed = np.frombuffer(random.bytes(blocks * BLOCK_BYTES), np.uint8).reshape(blocks, BLOCK_BYTES).copy()
    scale = np.float16(1 / (5 * shape[-1] ** 0.5))  # 4.6 is the deviation of -8 to 7
    packed[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return packed.reshape(*shape[:-1], shape[-1] // BLOCK * BLOCK_BYTES)
