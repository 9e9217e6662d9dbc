"""Text files and lines of stdin that commands read: labels, lists, tools, recipes, conversations, cards."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from fuzz.kinds.chats import CHAT, TOOLS
from fuzz.kinds.commands import inside, make_files
from fuzz.kinds.media import LABELS
from fuzz.mutation import as_json, odd_text, odd_value, spoil_bytes, spoil_json
from fuzz.outcome import Trial
from fuzz.place import Place


def text_files(random: Random, place: Place) -> Trial:
    """Labels, lists of files, tools, recipes and saved conversations with faults."""
    make_files(random, place)
    what = random.choice(("labels", "inputs", "texts", "tools", "recipe", "chat", "card"))
    lines = [*LABELS, "a.png", odd_text(random), "b.png", odd_text(random)[:100], ""]
    ending = random.choice(("\n", "\n", "\r\n", "\r", "\x0c", "\u2028"))
    data = ending.join(random.choices(lines, k=random.randrange(12))).encode("utf-8", "surrogatepass")
    data = random.choice(
        (
            data,
            data,
            b"\xef\xbb\xbf" + data,
            data.decode("utf-8", "replace").encode("utf-16"),
            spoil_bytes(random, data),
        )
    )
    json_flag = random.choice(([], ["--json"]))
    model = ["-m", str(place.seeds.checkpoint("siglip2"))]
    answering = ["-m", str(place.seeds.checkpoint("glm46v")), "--max-tokens", "1"]
    file = place.folder / "list.txt"
    file.write_bytes(data)
    stdin = b""
    if what == "labels":
        argv = ["classify", "a.png", "--labels-file", "list.txt", *model]
    elif what in ("inputs", "texts"):
        argv, stdin = ["embed", "-", *(["--text"] if what == "texts" else []), *model], data
    elif what == "tools":
        Path("tools.json").write_bytes(as_json(random, spoil_json(random, TOOLS)))
        argv = ["generate", "Find cats.", "--tools", "tools.json", *answering]
    elif what == "recipe":
        recipe = {
            "*.fc1": {"bits": 8, "group_size": 32},
            "text_model.*": False,
            "vision_model.head": {"bits": 4, "mode": "affine"},
        }
        Path("recipe.json").write_bytes(as_json(random, spoil_json(random, recipe)))
        argv = [
            "convert",
            str(place.seeds.checkpoint("siglip2")),
            "new",
            "--recipe",
            "recipe.json",
            "--group-size",
            "32",
        ]
    elif what == "chat":
        _saved_chat(random, place)
        argv, stdin = ["chat", *answering], b"/load saved.safetensors\nAnd then?\n/save other.safetensors\n"
        json_flag = []
    else:
        card = f"---\nlicense: {odd_text(random)}\nbase_model: {odd_value(random)}\n---\n{odd_text(random)}"
        model_folder = place.folder / "model"
        (model_folder / "README.md").unlink(missing_ok=True)
        (model_folder / "README.md").write_bytes(
            spoil_bytes(random, card.encode("utf-8", "surrogatepass"))
            if random.random() < 0.3
            else card.encode("utf-8", "surrogatepass")
        )
        argv = ["info", "model"] if random.random() < 0.7 else ["convert", "model", "new"]
    argv += json_flag
    return lambda: inside(argv, stdin).check(argv)


def _saved_chat(random: Random, place: Place) -> None:
    """A conversation as it is saved, then with faults."""
    import mlx_mm

    path = place.folder / "saved.safetensors"
    conversation = mlx_mm.Conversation(*place.loaded("glm46v"))
    for _ in conversation.ask("What is it?", max_tokens=1):
        pass
    conversation.save(path)
    data, roll = path.read_bytes(), random.random()
    if roll < 0.5:
        data = spoil_bytes(random, data)
    elif roll < 0.9:
        size = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:size])
        about = header.setdefault("__metadata__", {})
        for key in [key for key in about if random.random() < 0.4]:
            about[key] = random.choice(
                (odd_text(random), json.dumps(spoil_json(random, CHAT)), "[]", str(odd_value(random))[:999])
            )
        raw = as_json(random, header if random.random() < 0.5 else spoil_json(random, header))
        data = len(raw).to_bytes(8, "little") + raw + data[size:]
    path.unlink()
    path.write_bytes(data)
