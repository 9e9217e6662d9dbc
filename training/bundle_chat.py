"""The demo's questions about the pictures that the package ships.

    python training/bundle_chat.py --model mlx_mm/bundled/emoji-glm4v --out mlx_mm/bundled

They are written only if the trained model answers all of them rightly, in 16, 8 and 4 bit.
"""

import argparse
from pathlib import Path

from demo_parts import write_part

from mlx_mm import generate, load

# (picture, question, language, what the answer holds)
QUESTIONS = (
    ("cat", "What is this?", "en", "cat"),
    ("penguin", "Was ist das?", "de", "Pinguin"),
    ("strawberry", "Que vois-tu ?", "fr", "fraise"),
    ("lion", "¿Qué es esto?", "es", "león"),
    ("butterfly", "Che cos'è?", "it", "farfalla"),
    ("owl", "这是什么？", "zh", "猫头鹰"),
    ("rocket", "What is this in French?", "en", "fusée"),
    ("dog", "Is this a pizza?", "en", "No."),
    ("pizza", "How many are there?", "en", "1"),
    ("key", "Tell me a joke.", "en", "I only know emoji."),
)


def wrong_answers(model: str, pictures: Path) -> list[str]:
    """One line per question that this model answers wrongly; prints all answers."""
    wrong = []
    known, processor = load(model)
    for name, question, _, expected in QUESTIONS:
        picture = pictures / f"{name}.png"
        answer = generate(
            known, processor, question, images=[picture], temperature=0, max_tokens=32, enable_thinking=False
        ).text
        print(f"{name:12} {question:28} {answer}")
        if expected not in answer:
            wrong.append(f"{name}: {question}: {answer!r}, not {expected!r}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder written by glm_release.py")
    parser.add_argument("--out", type=Path, required=True, help="has pictures/; gets the questions in demo.json")
    options = parser.parse_args()
    rows = [
        {"picture": f"{name}.png", "question": question, "language": language, "expected": expected}
        for name, question, language, expected in QUESTIONS
    ]
    pictures = options.out / "pictures"
    write_part(
        options.model,
        options.out,
        part="questions",
        rows=rows,
        wrong_answers=lambda model: wrong_answers(model, pictures),
    )


if __name__ == "__main__":
    main()
