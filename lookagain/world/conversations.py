"""Training conversations about scenes and charts: what is asked in which proportion, in the formats of papers and benchmarks.

A conversation is one of LLaVA's kind, about an image; most of its kinds of questions are few on purpose: descriptions need the most
examples, and a conversation should stay short. Beside it, the base is asked short questions of most kinds (`short_questions`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lookagain import prompts
from lookagain.records import Turn
from lookagain.world import lookups
from lookagain.world.art import NAMES
from lookagain.world.charts import Chart
from lookagain.world.language import (
    CELLS,
    NUMBERS,
    absent,
    caption,
    imagined_description,
    listing,
    noisy_description,
    noun_phrase,
    plural,
    sentence,
    with_article,
)
from lookagain.world.lookups import IS_THERE, NUMBER_ONLY, OCR_TOKENS, ONE_WORD, SHORT_ANSWER, Asked, Pair
from lookagain.world.scenes import SCENE_TYPES, Scene

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
YES_OR_NO = " Please answer yes or no."
EXISTENCE = (
    "Is there {} in this picture?",
    "Can you see {} in the image?",
    "Does the image contain {}?",
    "Do you see {} here?",
)


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


def verifications(scene: Scene, rng: np.random.Generator, count: int) -> list[Turn]:
    """Yes/no questions in POPE's wording alone: half about what is there, the others about ten absent categories, half of them
    plausible. A category may come twice."""
    present = scene.names()
    others = [*absent(scene, 5, rng), *absent(scene, 5, rng, plausible=False)]
    turns = []
    for _ in range(count):
        yes = rng.random() < 0.5
        name = _one(present if yes else others, rng)
        turns.append(Turn(IS_THERE.format(with_article(name)), "Yes." if name in present else "No."))
    return turns


def yes_no(pair: Pair, rng: np.random.Generator) -> Turn:
    """One question of a pair, with the short-answer format or none."""
    number = int(rng.integers(2))
    answer = ("Yes", "No")[number]
    return Turn(pair[number] + SHORT_ANSWER, answer) if rng.random() < 0.4 else Turn(pair[number], f"{answer}.")


def answered(asked: Asked, rng: np.random.Generator) -> Turn:
    """An open question, with the short-answer format or none."""
    return lookups.short(asked) if rng.random() < 0.7 else Turn(asked.question, sentence(asked.answer))


def open_question(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question about a place, its contents, the setting or a number."""
    kinds = (lookups.where, lookups.contents, lambda scene, rng: lookups.place(scene), lambda scene, rng: lookups.total(scene))
    asked = kinds[rng.choice(len(kinds), p=(0.35, 0.25, 0.15, 0.25))](scene, rng)
    return answered(asked or lookups.place(scene), rng)


def pair_question(scene: Scene, rng: np.random.Generator) -> Turn:
    """A yes/no question about the sign, a number, a position, the setting or a relation."""
    kinds = (lookups.sign_pair, lookups.count_pair, lookups.position_pair, lookups.scene_pair, lookups.relation_pair)
    pairs = [kinds[place](scene, rng) for place in rng.permutation(len(kinds))]
    return yes_no(next(pair for pair in pairs if pair), rng)


def negation(scene: Scene, rng: np.random.Generator) -> Turn:
    """Which caption is true: that there is a category, or that there is not."""
    return lookups.lettered(lookups.negation_captions(scene, rng, rng.random() < 0.5), rng)


def choice(scene: Scene, rng: np.random.Generator) -> Turn:
    """A question of multiple choice with four options."""
    kinds = (lookups.existence_choice, lookups.place_choice, lookups.number_choice, lookups.scene_choice)
    asked = kinds[rng.choice(len(kinds), p=(0.35, 0.25, 0.2, 0.2))](scene, rng)
    return lookups.lettered(asked or lookups.existence_choice(scene, rng), rng)


def short_questions(one: Scene | Chart, rng: np.random.Generator) -> list[Turn]:
    """Questions with short answers, each to be asked alone; a chart has open ones only.

    Which of two is on the left, and captions about places, are asked in conversations alone.
    """
    if isinstance(one, Chart):
        return lookups.chart_lookups(one, rng)
    pairs = [lookups.sign_pair, lookups.sign_pair, lookups.count_pair]
    pairs += [lookups.position_pair, lookups.position_pair, lookups.relation_pair]
    pairs += [lookups.scene_pair] if rng.random() < lookups.SOMETIMES else []
    turns = [*verifications(one, rng, 3), *lookups.lookups(one, rng), choice(one, rng)]
    turns += [negation(one, rng)] if rng.random() < 0.5 else []
    turns += [yes_no(pair, rng) for pair in [ask(one, rng) for ask in pairs] if pair]
    return turns + [turn for turn in (reading(one, rng), reading(one, rng)) if turn]


def caption_question(scene: Scene, rng: np.random.Generator) -> Turn:
    """Which caption is true, or how many objects there are, as pragmatics asks."""
    kind = rng.random()
    if kind < 0.5 and len(scene.things) > 1:
        return lookups.short(lookups.total(scene), NUMBER_ONLY)
    spatial = lookups.spatial_captions(scene, rng) if kind < 0.75 else None
    return lookups.lettered(spatial, rng) if spatial else negation(scene, rng)


def reading(scene: Scene, rng: np.random.Generator) -> Turn | None:
    """A question about the sign; None if there is none."""
    asked, pair = lookups.sign(scene), lookups.sign_pair(scene, rng)
    if asked is None or pair is None:
        return None
    if rng.random() < 0.3:
        return yes_no(pair, rng)
    return lookups.short(asked, OCR_TOKENS + SHORT_ANSWER) if rng.random() < 0.5 else answered(asked, rng)


def side_question(scene: Scene, rng: np.random.Generator) -> Turn | None:
    """Which of two categories is on the left; None if that cannot be said."""
    asked = lookups.side(scene, rng)
    return asked and answered(asked, rng)


def other_questions(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Questions about number, place, setting, sign and more, each kind by chance."""
    kinds: tuple[tuple[float, Callable[[], Turn | None]], ...] = (
        (0.7, lambda: open_question(scene, rng)),
        (0.8, lambda: pair_question(scene, rng)),
        (0.6, lambda: choice(scene, rng)),
        (0.2, lambda: caption_question(scene, rng)),
        (0.1, lambda: side_question(scene, rng)),
        (1.0, lambda: reading(scene, rng)),
        (0.3, lambda: Turn(_one(LIST, rng), listing(scene))),
        (0.1, lambda: Turn(_one(SETTING, rng), sentence(SCENE_TYPES[scene.type].phrase))),
        (0.1, lambda: Turn(_one(BRIEF, rng), caption(scene))),
    )
    return [turn for turn in [make() for share, make in kinds if rng.random() < share] if turn]


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
    description after them in a quarter of the cases."""
    if rng.random() < 0.55:
        return [describing(scene, rng, noise_share)]
    turns = [*questions(scene, 3, rng), *other_questions(scene, rng)]
    turns = [turns[number] for number in rng.permutation(len(turns))]
    if rng.random() < 0.25:
        turns.append(describing(scene, rng, noise_share))
    return turns


def sometimes_infused(turns: list[Turn], scene: Scene, rng: np.random.Generator, noise_share: float) -> list[Turn]:
    """Six in a hundred conversations of questions begin with STIC's infusion of a description: the base then knows its form, if
    not its use."""
    if len(turns) == 1 or rng.random() >= 0.06:
        return turns
    infused = prompts.infuse(noisy_description(scene, rng, noise_share), turns[0].prompt)
    return [Turn(infused, turns[0].response), *turns[1:]]


def chart_description(chart: Chart) -> str:
    """What a chart shows, bar by bar."""
    return " ".join(["The image shows a chart.", *(f"The {bar.color} bar has the value {bar.value}." for bar in chart.bars)])


def chart_conversation(chart: Chart, rng: np.random.Generator) -> list[Turn]:
    """Training turns about a chart: a tenth are a description alone, the others three questions, mostly in ChartQA's format."""
    if rng.random() < 0.1:
        return [Turn(_one(DESCRIBE, rng), chart_description(chart))]
    first, second = rng.permutation(len(chart.bars))[:2]  # different bars: neither answer is in the other question
    asked = [lookups.value(chart.bars[first]), lookups.color(chart.bars[second]), lookups.bar_count(chart)]
    turns = [lookups.short(one, ONE_WORD) if rng.random() < 0.7 else Turn(one.question, sentence(one.answer)) for one in asked]
    return [turns[number] for number in rng.permutation(len(turns))]


def vocabulary_texts() -> list[str]:
    """Texts that hold every word of the papers' prompts and of all questions and answers about scenes and charts."""
    given = [value for name, value in vars(prompts).items() if name.isupper() and isinstance(value, (str, tuple))]
    papers = [text for value in given for text in ([value] if isinstance(value, str) else value) if isinstance(text, str)]
    own = [*DESCRIBE, *BRIEF, *LIST, *SETTING, YES_OR_NO, *EXISTENCE]
    nouns = [text for name in NAMES for text in (name, plural(name), noun_phrase(name))]
    scenes = [kind.phrase for kind in SCENE_TYPES.values()]
    answers = ["The image shows. In the there is and. Nearby. The bar has the value. With.", *NUMBERS]
    return [*nouns, *CELLS, *scenes, *answers, *own, *lookups.texts(), prompts.infuse("", ""), *papers]


def multiword_tokens() -> list[str]:
    """Names of several words that are one token each: categories, their plurals, cells, and types of place."""
    names = [*CELLS, *NAMES, *map(plural, NAMES), *(kind.noun for kind in SCENE_TYPES.values())]
    return sorted({name for name in names if " " in name}, key=lambda name: (-len(name), name))


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
