"""Figures of the chat model by the package itself, greedy, on questions that training has not seen.

python training/evaluate_chat.py --artwork artwork --model mlx_mm/bundled/emoji-glm4v
"""

import argparse
import json
import re
from pathlib import Path

from glm_concepts import chat_concepts
from glm_lessons import Lesson
from glm_questions import rows
from glm_scenes import Sprites
from PIL import Image

from mlx_mm import Generation, generate, load

LEAST_OVERLAP = 0.5  # of a box with the right one: intersection over union


def overlap(a: list[float], b: list[float]) -> float:
    width, height = (max(0.0, min(a[2 + i], b[2 + i]) - max(a[i], b[i])) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / max(1e-9, sum(areas) - width * height)


def is_right(lesson: Lesson, answer: Generation) -> bool:
    expected = lesson.messages[-1]
    if calls := expected.get("tool_calls"):
        said = [call["function"] for call in answer.tool_calls]
        wanted = calls[0]["function"]
        return (
            len(said) == 1
            and said[0]["name"] == wanted["name"]
            and json.loads(said[0]["arguments"]) == wanted["arguments"]
        )
    if "<|begin_of_box|>" in expected["content"]:
        wanted = [float(side) for side in expected["content"].split("[")[1].split("]")[0].split(",")]
        return len(answer.boxes) == 1 and overlap(answer.boxes[0], wanted) >= LEAST_OVERLAP
    if lesson.skills[-1] == "is":
        return verdict(answer.text) == verdict(expected["content"])
    return answer.text.lower() == expected["content"].lower()


def verdict(text: str) -> str:
    """The yes or no after what was named."""
    return re.split("[.。]", text.rstrip(" .。"))[-1].strip().lower()


def well_formed(answer: Generation) -> bool:
    """Whether it is one call of the tool with one name."""
    calls = [call["function"] for call in answer.tool_calls]
    if len(calls) != 1 or calls[0]["name"] != "find_picture":
        return False
    arguments = json.loads(calls[0]["arguments"])
    return list(arguments) == ["name"] and bool(arguments["name"])


def ask(model, processor, lesson: Lesson) -> Generation:
    options = {}
    if lesson.seconds:
        frames = [Image.fromarray(picture) for picture in lesson.pictures for _ in range(2)]
        options = {"videos": [frames], "fps": 2 / lesson.seconds[1]}
    elif lesson.pictures:
        options = {"images": [Image.fromarray(lesson.pictures[0])]}
    return generate(
        model,
        processor,
        lesson.messages[:-1],
        tools=lesson.tools,
        enable_thinking=None if lesson.thinking else False,
        max_tokens=60,
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, nargs="+", help="folders, original or converted")
    parser.add_argument("--artwork", type=Path, required=True)
    parser.add_argument("--count", type=int, default=150, help="questions of a row")
    parser.add_argument("--show", type=int, default=0, help="wrong answers of a row to print")
    options = parser.parse_args()
    sprites = Sprites(chat_concepts(), options.artwork)
    questions = rows(sprites, options.artwork, options.count)
    table: dict[str, list[str]] = {}
    for name in options.model:
        model, processor = load(name)
        for row, lessons in questions.items():
            answers = [ask(model, processor, lesson) for lesson in lessons]
            right = [is_right(lesson, answer) for lesson, answer in zip(lessons, answers, strict=True)]
            plain, thought = (100 * sum(right[part::2]) / max(1, len(right[part::2])) for part in (0, 1))
            table.setdefault(f"{row} ({len(lessons)})", []).append(
                f"{100 * sum(right) / len(right):.1f} ({plain:.0f}, {thought:.0f})"
            )
            if row == "call":
                good = 100 * sum(map(well_formed, answers)) / len(answers)
                table.setdefault("call well-formed", []).append(f"{good:.1f}")
            wrong = [item for item in zip(lessons, answers, right, strict=True) if not item[2]]
            for lesson, answer, _ in wrong[: options.show]:
                expected = lesson.messages[-1]["content"] or lesson.messages[-1]["tool_calls"]
                print(f"  {row}: {lesson.messages[-2]['content']} -> {answer.raw!r}, expected {expected!r}")
            print(f"{row}: {table[f'{row} ({len(lessons)})'][-1]}", flush=True)
    print("\n| right of 100 (without, with thinking) | " + " | ".join(Path(name).name for name in options.model) + " |")
    print("|---" * (1 + len(options.model)) + "|")
    for row, cells in table.items():
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
