"""What the chat model is measured with: fixed lessons, whose last answer the model has to give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from artwork import HELD_OUT_ARTWORK
from glm_concepts import LANGUAGES, pair_left_out
from glm_lessons import Lesson, Teacher
from glm_phrases import INTO
from glm_scenes import SQUARE, Scene, Sprites, Thing, one, render, several, several_alike

WHITE = ((255, 255, 255), (255, 255, 255))
SKILLS = ("is", "where", "colour", "empty", "other", "hello", "translate", "call", "result")


def rows(sprites: Sprites, artwork: Path, count: int, seed: int = 99) -> dict[str, list[Lesson]]:
    """Row name -> about `count` lessons, half of them with thinking; the same in every run."""
    teacher = Teacher(sprites, np.random.default_rng(seed), left_out=True)
    found = {
        "name, clean Noto, English": [
            clean(teacher, sprites, concept, "en") for concept in range(len(sprites.concepts))
        ],
        "name, clean Noto, language asked for": [
            clean(teacher, sprites, concept, language)
            for concept, known in enumerate(sprites.concepts)
            for language in [LANGUAGES[1 + concept % 5]]
            if not pair_left_out(known, language)
        ],
        "name, clean Noto, pair left out": [
            clean(teacher, sprites, concept, language)
            for concept, known in enumerate(sprites.concepts)
            for language in LANGUAGES
            if pair_left_out(known, language)
        ],
    }
    for design in HELD_OUT_ARTWORK:
        other = Sprites(sprites.concepts, artwork, (design,))
        known = [number for number, pictures in enumerate(other.pictures) if pictures]
        found[f"name, {design} (never trained), English"] = [clean(teacher, other, number, "en") for number in known]
    found["name, random view"] = [asked(teacher, "name", one(teacher.rng, sprites)) for _ in range(count)]
    for left_out, note in ((False, ""), (True, ", left out")):
        alike = [several_alike(teacher.rng, sprites, left_out=left_out) for _ in range(count)]
        singles = [] if left_out else [one(teacher.rng, sprites) for _ in range(count // 4)]
        found[f"count{note}"] = [asked(teacher, "count", scene) for scene in singles + alike]
        pairs = [several(teacher.rng, sprites, 2, left_out=left_out, row=True) for _ in range(count)]
        found[f"left or right{note}"] = [asked(teacher, teacher.pick(("left", "right")), scene) for scene in pairs]
    found |= {skill: [] for skill in SKILLS}
    found |= {"video": [], "follow-up": []}
    drawing = Teacher(sprites, np.random.default_rng(seed + 1))
    while any(len(found[row]) < count for row in (*SKILLS, "video", "follow-up")):
        lesson = drawing.lesson()
        skill = lesson.skills[-1]
        row = "video" if skill.startswith("video") else "follow-up" if skill == "and_into" else skill
        if row in found and len(found[row]) < count:
            found[row].append(lesson)
        if skill == "result" and len(found["call"]) < count:
            found["call"].append(until_call(lesson))
    found["count, clean Noto"] = [clean_count(teacher, sprites) for _ in range(count)]
    found["left or right, clean Noto"] = [clean_sides(teacher, sprites) for _ in range(count)]
    for lessons in found.values():
        for number, lesson in enumerate(lessons):
            lesson.thinking = number % 2 == 1
    return found


def clean(teacher: Teacher, sprites: Sprites, concept: int, language: str) -> Lesson:
    """The first picture of a concept, upright on white; asked in English, or in the language of the answer."""
    scene = Scene(SQUARE, (Thing(concept, 0, 0.5, 0.5, 100.0),), WHITE, "white")
    answer = teacher.name(concept, language)
    question = teacher.question("name", language)
    if language != "en" and teacher.rng.random() < 0.5:
        question = teacher.question("name_into", "en", into=INTO["en"][language])
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    messages.append({"role": "assistant", "content": answer})
    return Lesson(messages, False, ["name"], [render(scene, sprites)[0]])


def asked(teacher: Teacher, skill: str, scene: Scene, noise: float = 0.6) -> Lesson:
    """One question about a scene, in any language that training has for what it shows."""
    pixels, boxes = render(scene, teacher.sprites, noise, teacher.rng)
    shown = [teacher.sprites.concepts[thing.concept] for thing in scene.things]
    languages = [item for item in LANGUAGES if not any(pair_left_out(concept, item) for concept in shown)]
    turn = teacher.about(skill, teacher.pick(languages), scene, boxes)
    return teacher.told([turn], False, [pixels], [])


def clean_count(teacher: Teacher, sprites: Sprites) -> Lesson:
    """One to five of a concept, as its first picture upright on white."""
    scene = several_alike(teacher.rng, sprites) if teacher.rng.random() < 0.8 else one(teacher.rng, sprites)
    things = tuple(replace(thing, picture=0, angle=0.0, mirrored=False) for thing in scene.things)
    return asked(teacher, "count", Scene(SQUARE, things, WHITE, "white"), 0.0)


def clean_sides(teacher: Teacher, sprites: Sprites) -> Lesson:
    """Two concepts that training does not show together, as their first pictures, upright on white."""
    scene = several(teacher.rng, sprites, 2, left_out=True, row=True)
    things = tuple(replace(thing, picture=0, angle=0.0, mirrored=False) for thing in scene.things)
    return asked(teacher, teacher.pick(("left", "right")), Scene(SQUARE, things, WHITE, "white"), 0.0)


def until_call(lesson: Lesson) -> Lesson:
    """The lesson up to its last call of a tool."""
    last = max(number for number, message in enumerate(lesson.messages) if message.get("tool_calls"))
    return Lesson(lesson.messages[: last + 1], lesson.thinking, ["call"], tools=lesson.tools)
