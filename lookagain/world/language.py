"""What an instruction-tuned model would say about a scene: true answers to the papers' prompts, and how they are made imperfect.

Descriptions go through a 3x3 grid in reading order, one sentence a cell. Two kinds of training answer are untrue, as LLaVA's own
data are: a share of the descriptions name one plausible object that is absent, and STIC's "bad" prompts are obeyed, with one to
three plausible absent objects affirmed at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookagain import prompts
from lookagain.records import Turn
from lookagain.world.art import INDEX, NAMES
from lookagain.world.scenes import SCENE_TYPES, Scene, Thing, plausibility

CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
LETTERS = ("A", "B", "C", "D")
IRREGULAR = {"person": "people", "skis": "skis", "bus": "buses", "sheep": "sheep", "couch": "couches", "broccoli": "broccoli"}

DESCRIBE = (
    "Please describe this image in detail.",
    "Describe the image in detail.",
    "Describe this image.",
    "Describe this image in detail.",
    "Please describe the image.",
    "Provide a detailed description of the image.",
    "Describe the following image in detail.",
    "Write a description of this picture.",
    "What do you see in this image?",
    "What is in this picture?",
    "Can you describe this photo in detail?",
    "Give a detailed account of what the photo shows.",
)
BRIEF = ("Describe the image briefly.", "Give a short caption for this image.", "Provide a one-sentence caption for the image.")
LIST = ("List the objects in the image.", "What objects are in the image?", "Which objects can you see in this picture?")
SETTING = ("What is the setting of the image?", "Where was this picture taken?", "What kind of place does the image show?")
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
YES_OR_NO = " Please answer yes or no."
OPTION = "Answer with the option's letter from the given choices directly."
IS_THERE = "Is there {} in the image?"  # POPE's wording
EXISTENCE = (
    "Is there {} in this picture?",
    "Can you see {} in the image?",
    "Does the image contain {}?",
    "Do you see {} here?",
)
HOW_MANY = "How many {} are there in the image?"
WHERE = "Where is the {} in the image?"
WHICH = "Which of these is in the image?"


def with_article(noun: str) -> str:
    """ "a dog", "an apple", as POPE's questions put it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def noun_phrase(name: str) -> str:
    """A category as descriptions name one: "a dog", "a pair of skis"."""
    return "a pair of skis" if name == "skis" else with_article(name)


def plural(name: str) -> str:
    """The plural of a category's name."""
    return IRREGULAR.get(name, f"{name}s")


def joined(phrases: Sequence[str]) -> str:
    """ "a dog", "a dog and a cat", "a dog, a cat and a bus"."""
    return " and ".join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def sentence(text: str) -> str:
    """The text with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def cell_of(thing: Thing, size: int) -> int:
    """The cell, as an index of `CELLS`, that holds the centre of an object."""
    x, y, width, height = thing.box
    column, row = int((x + width / 2) * 3 / size), int((y + height / 2) * 3 / size)
    return min(row, 2) * 3 + min(column, 2)


def places(scene: Scene) -> dict[str, int]:
    """Each category's cell, that of its first instance in reading order; the categories are in reading order too."""
    cells = sorted((cell_of(thing, scene.size), order) for order, thing in enumerate(scene.things))
    first: dict[str, int] = {}
    for cell, order in cells:
        first.setdefault(scene.things[order].name, cell)
    return first


def absent(scene: Scene, count: int, rng: np.random.Generator, plausible: bool = True) -> list[str]:
    """Categories that the scene lacks: such as its type would have, or any."""
    weights = plausibility(scene.type).copy() if plausible else np.ones(len(NAMES))
    weights[[INDEX[name] for name in scene.names()]] = 0
    return [NAMES[number] for number in rng.choice(len(NAMES), count, replace=False, p=weights / weights.sum())]


def setting_sentence(scene: Scene) -> str:
    """The first sentence of a description."""
    return f"The image shows {SCENE_TYPES[scene.type].phrase}."


def cell_sentence(cell: int, names: Sequence[str]) -> str:
    """A description's sentence about one cell."""
    return f"In the {CELLS[cell]} there is {joined([noun_phrase(name) for name in names])}."


def description(scene: Scene, at: dict[str, int] | None = None) -> str:
    """The setting, then each occupied cell in reading order. `at` (category -> cell) replaces what is there in truth."""
    cells: dict[int, list[str]] = {}
    for name, cell in (places(scene) if at is None else at).items():
        cells.setdefault(cell, []).append(name)
    return " ".join([setting_sentence(scene), *(cell_sentence(cell, cells[cell]) for cell in sorted(cells))])


def noisy_description(scene: Scene, rng: np.random.Generator, noise_share: float) -> str:
    """A description that, with probability `noise_share`, puts a plausible absent object into an empty cell."""
    at = places(scene)
    if rng.random() < noise_share:
        empty = sorted(set(range(len(CELLS))) - set(at.values()))
        at[absent(scene, 1, rng)[0]] = empty[rng.integers(len(empty))]
    return description(scene, at)


def imagined_description(scene: Scene, rng: np.random.Generator) -> str:
    """The answer to a bad prompt: true, but for a last sentence that affirms one to three plausible absent objects."""
    names = absent(scene, int(rng.integers(1, 4)), rng)
    return f"{description(scene)} Nearby there is {joined([noun_phrase(name) for name in names])}."


def caption(scene: Scene) -> str:
    """A caption of one sentence, as COCO's are."""
    return sentence(f"{SCENE_TYPES[scene.type].phrase} with {joined([noun_phrase(name) for name in places(scene)])}")


def listing(scene: Scene) -> str:
    """All categories in reading order."""
    return sentence(joined([noun_phrase(name) for name in places(scene)]))


def existence(scene: Scene, name: str, rng: np.random.Generator) -> Turn:
    """A yes/no question about a category and its true answer, mostly in POPE's words, in the usual prompt formats."""
    wording = IS_THERE if rng.random() < 0.85 else EXISTENCE[rng.integers(len(EXISTENCE))]
    answer = "Yes" if name in scene.names() else "No"
    form = rng.integers(3)
    suffix = ("", SHORT_ANSWER, YES_OR_NO)[form]
    return Turn(wording.format(with_article(name)) + suffix, answer if form else f"{answer}.")


def questions(scene: Scene, count: int, rng: np.random.Generator) -> list[Turn]:
    """Yes/no questions, half of them about what is there, the others about what is absent, most of that plausible."""
    present, drawn = scene.names(), rng.random((count, 2))
    likely, other = absent(scene, count, rng), absent(scene, count, rng, plausible=False)
    names = [
        present[rng.integers(len(present))] if yes < 0.5 else (likely if near < 0.6 else other)[number]
        for number, (yes, near) in enumerate(drawn)
    ]
    return [existence(scene, name, rng) for name in names]


def packed_questions(scene: Scene, rng: np.random.Generator, count: int = 10) -> list[Turn]:
    """Questions in POPE's wording alone, for the first phase of training: half about what is there, the others about ten
    absent categories, half of them plausible. A category may come twice."""
    present = scene.names()
    others = [*absent(scene, 5, rng), *absent(scene, 5, rng, plausible=False)]
    turns = []
    for _ in range(count):
        yes = rng.random() < 0.5
        name = _one(present if yes else others, rng)
        turns.append(Turn(IS_THERE.format(with_article(name)), "Yes." if name in present else "No."))
    return turns


def choice(scene: Scene, rng: np.random.Generator) -> Turn:
    """A multiple-choice question with one present and three absent categories."""
    present = scene.names()
    options = [present[rng.integers(len(present))], *absent(scene, 3, rng)]
    order = rng.permutation(4)
    lines = [f"{letter}. {options[number]}" for letter, number in zip(LETTERS, order, strict=True)]
    return Turn("\n".join([WHICH, *lines, OPTION]), LETTERS[list(order).index(0)])


def other_questions(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Questions about number, place, setting and more, each kind by chance."""
    names, at = scene.names(), places(scene)
    name = names[rng.integers(len(names))]
    count = sum(thing.name == name for thing in scene.things)
    turns = [
        (0.3, lambda: Turn(HOW_MANY.format(plural(name)), sentence(NUMBERS[count]))),
        (0.4, lambda: Turn(WHERE.format(name), f"The {name} is in the {CELLS[at[name]]}.")),
        (0.2, lambda: Turn(_one(SETTING, rng), sentence(SCENE_TYPES[scene.type].phrase))),
        (0.3, lambda: choice(scene, rng)),
        (0.4, lambda: Turn(_one(LIST, rng), listing(scene))),
        (0.1, lambda: Turn(_one(BRIEF, rng), caption(scene))),
    ]
    return [make() for share, make in turns if rng.random() < share]


def describing(scene: Scene, rng: np.random.Generator, noise_share: float) -> Turn:
    """A request to describe and its answer: a fifth in STIC's bad prompts, the others in the wordings of all papers."""
    drawn = rng.random()
    if drawn < 0.2:
        return Turn(_one(prompts.STIC_BAD, rng), imagined_description(scene, rng))
    if drawn < 0.35:
        prompt = DESCRIBE[0]
    elif drawn < 0.42:
        prompt = prompts.STIC_STEP_BY_STEP
    else:
        prompt = _one((*prompts.STIC_CAPTION, *prompts.CSR_DESCRIBE, *DESCRIBE), rng)
    return Turn(prompt, noisy_description(scene, rng, noise_share))


def conversation(scene: Scene, rng: np.random.Generator, noise_share: float) -> list[Turn]:
    """Training turns about one image, as LLaVA's instruction data have them: a description alone, or questions, with a
    description after them in a quarter of the cases.

    Six in a hundred of the latter begin with STIC's infusion of a description, so that the base knows its form, if not its use.
    """
    if rng.random() < 0.55:
        return [describing(scene, rng, noise_share)]
    turns = [*questions(scene, 4, rng), *other_questions(scene, rng)]
    turns = [turns[number] for number in rng.permutation(len(turns))]
    if rng.random() < 0.25:
        turns.append(describing(scene, rng, noise_share))
    if rng.random() < 0.06:
        turns[0] = Turn(prompts.infuse(noisy_description(scene, rng, noise_share), turns[0].prompt), turns[0].response)
    return turns


def vocabulary_texts() -> list[str]:
    """Texts that hold every word of the papers' prompts and of all questions and answers of this module."""
    given = [value for value in vars(prompts).values() if isinstance(value, (str, tuple))]
    papers = [text for value in given for text in ([value] if isinstance(value, str) else value) if isinstance(text, str)]
    own = [*DESCRIBE, *BRIEF, *LIST, *SETTING, SHORT_ANSWER, YES_OR_NO, OPTION, WHICH, *EXISTENCE, IS_THERE, HOW_MANY, WHERE]
    nouns = [text for name in NAMES for text in (name, plural(name), noun_phrase(name))]
    scenes = [kind.phrase for kind in SCENE_TYPES.values()]
    answers = ["The image shows. In the there is and. Nearby. The is in the. With. Yes, no.", " ".join(LETTERS), *NUMBERS]
    return [*nouns, *CELLS, *scenes, *answers, *own, prompts.infuse("", ""), *papers]


def multiword_tokens() -> list[str]:
    """Names of several words that are one token each: categories, their plurals, and cells."""
    names = [*CELLS, *NAMES, *map(plural, NAMES)]
    return sorted({name for name in names if " " in name}, key=lambda name: (-len(name), name))


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
