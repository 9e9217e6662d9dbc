"""Random conversations about random scenes, as messages in the shape that the chat template takes."""

from dataclasses import dataclass, field

import glm_tools
import numpy as np
from glm_concepts import LANGUAGES, pair_left_out
from glm_phrases import ANSWERS, COLOURS, INTO, QUESTIONS, said
from glm_scenes import SQUARE, Scene, Sprites, changed, named_background, one, render, several, several_alike

THINKING = 0.45
BOX_STEP = 50  # of 1000: what a box is rounded to
KINDS = {
    "one": 0.24,
    "alike": 0.14,
    "two": 0.14,
    "mixed": 0.08,
    "video": 0.30,
    "empty": 0.02,
    "text": 0.03,
    "tool": 0.05,
}


@dataclass
class Turn:
    """skill: what it is counted under. thought: one line in English."""

    skill: str
    question: str
    answer: str
    thought: str


@dataclass
class Lesson:
    """messages: the last one is the assistant's. pictures: uint8 (H, W, 3); of a video, one for each pair of frames.

    seconds: of the pictures of a video. skills: one for each answer that is learnt, in order.
    """

    messages: list[dict]
    thinking: bool
    skills: list[str]
    pictures: list[np.ndarray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    tools: list[dict] | None = None


class LeftOutError(Exception):
    """A picture's concept would be named in a language that training leaves out for it."""


class Teacher:
    """Draws lessons; `left_out` True draws only what training leaves out, for measuring."""

    def __init__(self, sprites: Sprites, rng: np.random.Generator, left_out: bool = False):
        self.sprites, self.rng, self.left_out = sprites, rng, left_out

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def name(self, concept: int, language: str, *, seen: bool = True) -> str:
        if seen and pair_left_out(self.sprites.concepts[concept], language) and not self.left_out:
            raise LeftOutError
        return self.sprites.concepts[concept].names[language]

    def question(self, skill: str, language: str, **values: str) -> str:
        return said(self.pick(QUESTIONS[skill][language]), language, **values)

    def lesson(self, shape: tuple[int, int] = SQUARE, kind: str | None = None) -> Lesson:
        while True:
            try:
                return self._lesson(shape, kind or str(self.rng.choice(list(KINDS), p=list(KINDS.values()))))
            except LeftOutError:
                continue

    def _lesson(self, shape: tuple[int, int], kind: str) -> Lesson:
        language = "en" if self.rng.random() < 0.35 else self.pick(LANGUAGES)
        thinking = bool(self.rng.random() < THINKING)
        if kind == "tool":
            return glm_tools.find(self, language, thinking)
        scene, pictures, seconds, turns = None, [], [], []
        if kind == "video":
            pictures, seconds, first = self.video(shape, language)
            turns = [first]
        elif kind == "empty":
            scene = Scene(shape, (), one(self.rng, self.sprites, shape).background)
        elif kind != "text":
            make = {
                "one": lambda: one(self.rng, self.sprites, shape),
                "alike": lambda: several_alike(self.rng, self.sprites, shape),
                "two": lambda: several(self.rng, self.sprites, 2, shape, row=True),
                "mixed": lambda: several(self.rng, self.sprites, int(self.rng.integers(2, 5)), shape),
            }
            scene = make[kind]()
        boxes = np.zeros((0, 4))
        if scene is not None:
            pixels, boxes = render(scene, self.sprites, 0.6, self.rng)
            pictures = [pixels]
        count = int(self.rng.integers(1, 4 if thinking else 5)) if kind != "video" else 1 + (self.rng.random() < 0.3)
        while len(turns) < count:
            if self.rng.random() < 0.12:
                language = self.pick(LANGUAGES)
            turn = self.turn(kind, language, scene, boxes, turns)
            if not any(turn.answer == other.answer and turn.skill == other.skill for other in turns):
                turns.append(turn)
            elif self.rng.random() < 0.3:
                break
        return self.told(turns, thinking, pictures, seconds)

    def told(self, turns: list[Turn], thinking: bool, pictures: list[np.ndarray], seconds: list[float]) -> Lesson:
        messages: list[dict] = []
        if self.rng.random() < 0.05:
            messages.append(
                {"role": "system", "content": self.pick(("You are a helpful assistant.", "Answer briefly."))}
            )
        for number, turn in enumerate(turns):
            content: object = turn.question
            if number == 0 and pictures:
                media = {"type": "video" if seconds else "image"}
                content = [media, {"type": "text", "text": turn.question}]
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": turn.answer})
        if thinking:
            messages[-1]["reasoning_content"] = turns[-1].thought
        return Lesson(messages, thinking, [turn.skill for turn in turns], pictures, seconds)

    def turn(self, kind: str, language: str, scene: Scene | None, boxes: np.ndarray, before: list[Turn]) -> Turn:
        """The next question about a scene, None for texts and videos."""
        if kind in ("text", "video") or self.rng.random() < 0.05:
            return self.without_picture(language)
        assert scene is not None
        if not scene.things:
            return Turn("empty", self.question("name", language), ANSWERS["empty"][language], "I see nothing.")
        skills = {
            "one": ("name",) * 4 + ("name_into",) * 3 + ("count", "is", "is", "where"),
            "alike": ("count",) * 5 + ("name", "name_into", "is"),
            "two": ("left",) * 3 + ("right",) * 3 + ("is", "is", "where", "name", "count"),
            "mixed": ("is", "is", "where", "where", "count", "name"),
        }[kind]
        if scene.colour and self.rng.random() < 0.25:
            skills = ("colour",)
        named = before and before[-1].skill in ("name", "name_into", "and_into") and kind in ("one", "alike")
        if named and self.rng.random() < 0.5:
            return self.named("and_into", language, scene)
        return self.about(self.pick(skills), language, scene, boxes)

    def about(self, skill: str, language: str, scene: Scene, boxes: np.ndarray) -> Turn:
        things = scene.things
        if skill in ("name", "name_into"):
            return self.named(skill, language, scene)
        if skill == "count":
            listed = ", ".join(self.name(thing.concept, "en") for thing in things)
            return Turn(skill, self.question(skill, language), str(len(things)), f"I count {listed}.")
        if skill in ("left", "right"):
            thing = things[0 if skill == "left" else -1]
            sides = f"Left: {self.name(things[0].concept, 'en')}. Right: {self.name(things[-1].concept, 'en')}."
            return Turn(skill, self.question(skill, language), self.name(thing.concept, language), sides)
        if skill == "colour":
            thought = f"The background is {scene.colour}."
            return Turn(skill, self.question(skill, language), COLOURS[scene.colour][language], thought)
        if skill == "where":
            number = int(self.rng.integers(len(things)))
            name = self.name(things[number].concept, language)
            english = self.name(things[number].concept, "en")
            place = ",".join(str(round(float(side) * 1000 / BOX_STEP) * BOX_STEP) for side in boxes[number])
            box = f"<|begin_of_box|>[{place}]<|end_of_box|>"
            return Turn(skill, self.question(skill, language, name=name), box, f"I look for {english}.")
        shown = {thing.concept for thing in things}
        asked = self.pick(sorted(shown))
        if self.rng.random() < 0.5:
            asked = int(self.pick([c for c in range(len(self.sprites.concepts)) if c not in shown]))
        stop, joint = ("。", "、") if language == "zh" else (". ", ", ")
        seen = joint.join(self.name(concept, language) for concept in dict.fromkeys(thing.concept for thing in things))
        answer = seen + stop + ANSWERS["yes" if asked in shown else "no"][language]  # named first, then compared
        listed = ", ".join(dict.fromkeys(self.name(thing.concept, "en") for thing in things))
        return Turn("is", self.question("is", language, name=self.name(asked, language)), answer, f"I see {listed}.")

    def named(self, skill: str, language: str, scene: Scene) -> Turn:
        target = language if skill == "name" else self.pick([item for item in LANGUAGES if item != language])
        concepts = dict.fromkeys(thing.concept for thing in scene.things)
        joint = "、" if target == "zh" else ", "
        answer = joint.join(self.name(concept, target) for concept in concepts)
        english = ", ".join(self.name(concept, "en") for concept in concepts)
        values = {} if skill == "name" else {"into": INTO[language][target]}
        return Turn(skill, self.question(skill, language, **values), answer, f"I see {english}.")

    def without_picture(self, language: str) -> Turn:
        skill = self.pick(("hello", "other", "other", "translate", "translate", "no_tool"))
        concept = int(self.rng.integers(len(self.sprites.concepts)))
        name = self.name(concept, language, seen=False)
        if skill == "translate":
            target = self.pick([item for item in LANGUAGES if item != language])
            question = self.question(skill, language, name=name, into=INTO[language][target])
            answer = self.name(concept, target, seen=False)
            return Turn(skill, question, answer, f"The emoji is {self.name(concept, 'en', seen=False)}.")
        if skill == "no_tool":
            return Turn(skill, self.question("find", language, name=name), ANSWERS[skill][language], "I have no tool.")
        thought = "A greeting." if skill == "hello" else "This is not about emoji."
        return Turn(skill, self.question(skill, language), ANSWERS[skill][language], thought)

    def video(self, shape: tuple[int, int], language: str) -> tuple[list[np.ndarray], list[float], Turn]:
        """Two to four pictures, each of a pair of frames; one of them may show both what was and what is."""
        first = one(self.rng, self.sprites, shape)
        if self.rng.random() < 0.5:  # a plain background, so that changing it is a change of colour
            colour = self.pick(list(COLOURS))
            first = Scene(shape, first.things, named_background(self.rng, colour), colour)
        last, kind, values = changed(self.rng, self.sprites, first)
        if kind == "appeared":
            first = Scene(shape, (), first.background, first.colour)
        a, b = (scene.things[0].concept if scene.things else None for scene in (first, last))
        names = {key: self.name(c, language) for key, c in (("a", a), ("b", b)) if c is not None}
        if "colour" in values:
            values["colour"] = COLOURS[values["colour"]][language]
        answer = said(ANSWERS[kind][language], language, **names, **values)
        before, after = (
            f"{'nothing' if c is None else self.name(c, 'en')}, {scene.colour or 'other'}"
            for c, scene in ((a, first), (b, last))
        )
        thought = f"Before: {before}. After: {after}."
        was, now = (render(scene, self.sprites)[0] for scene in (first, last))
        length = int(self.rng.integers(2, 5))
        at = int(self.rng.integers(1, length))
        pictures = [was] * at + [now] * (length - at)
        if length > 2 and 0 < at < length - 1 and self.rng.random() < 0.25:
            pictures[at] = ((was.astype(np.uint16) + now) // 2).astype(np.uint8)
        step = self.pick((0.2, 0.25, 0.5, 0.5, 1.0, 1.0, 2.0))
        seconds = [number * step for number in range(length)]
        return pictures, seconds, Turn(f"video {kind}", self.question("changed", language), answer, thought)
