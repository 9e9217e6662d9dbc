"""Conversations with one tool, `find_picture(name)`, and what it may answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import glm_lessons
from glm_phrases import ANSWERS

if TYPE_CHECKING:
    from glm_lessons import Lesson, Teacher

DESCRIPTIONS = ("Find a picture by name.", "Find a picture.", "Search the pictures.", "Look up a picture of an emoji.")
FIELDS = ("Name in English.", "What to look for.", "The name of the emoji.", "")
FOUND = ("{file}", '{{"file": "{file}"}}', "Found: {file}", '{{"files": ["{file}"]}}', '["{file}"]', "pictures/{file}")
MISSING = ("nothing", '{"file": null}', "not found", "[]", '{"files": []}', "No picture found.")


def tools(teacher: Teacher) -> list[dict]:
    """The schema of the tool, in other words each time."""
    field = {"type": "string"}
    if words := teacher.pick(FIELDS):
        field["description"] = words
    parameters = {"type": "object", "properties": {"name": field}, "required": ["name"]}
    function = {"name": "find_picture", "description": teacher.pick(DESCRIPTIONS), "parameters": parameters}
    return [{"type": "function", "function": function}]


def find(teacher: Teacher, language: str, thinking: bool) -> Lesson:
    """Mostly a call, its result and the answer; sometimes a question that needs no tool."""
    messages: list[dict] = []
    skills: list[str] = []
    for _ in range(1 + int(teacher.rng.random() < 0.3)):
        if teacher.rng.random() < 0.25:
            turn = teacher.without_picture(language)
            if turn.skill == "no_tool":
                continue
            messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": turn.answer}]
            skills.append(turn.skill)
            thoughts = [turn.thought]
            continue
        concept = int(teacher.rng.integers(len(teacher.sprites.concepts)))
        name, english = (teacher.name(concept, item, seen=False) for item in (language, "en"))
        number = f"_{teacher.rng.integers(2, 10)}" if teacher.rng.random() < 0.2 else ""
        file = f"{english.replace(' ', '_')}{number}.png"
        there = teacher.rng.random() < 0.75
        result = teacher.pick(FOUND).format(file=file) if there else teacher.pick(MISSING)
        call = {"type": "function", "function": {"name": "find_picture", "arguments": {"name": english}}}
        answer = ANSWERS["found" if there else "missing"][language].format(file=file)
        messages += [
            {"role": "user", "content": teacher.question("find", language, name=name)},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": result},
            {"role": "assistant", "content": answer},
        ]
        skills += ["call", "result"]
        thoughts = [f"I look for {english}.", "The tool found it." if there else "The tool found nothing."]
    if not messages:
        return find(teacher, language, thinking)
    if thinking:  # what was thought since the last question stays in the prompt
        spoken = [message for message in messages if message["role"] == "assistant"]
        for message, thought in zip(spoken[-len(thoughts) :], thoughts, strict=True):
            message["reasoning_content"] = thought
    return glm_lessons.Lesson(messages, thinking, skills, tools=tools(teacher))
