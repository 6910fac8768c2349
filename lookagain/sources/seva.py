"""SeVa Algorithm 1: greedy responses to one question about the clean image (chosen) and augmented ones (rejected).

Pairs of equal responses are dropped and counted. With `rejected: k` each pair has k augmentation draws, for the loss of Eq. 18
(the paper's appendix; 1 is its main method).

The paper asks as many questions of TextVQA as of OCR-VQA about their own images (`questions: instruct`, `folders`). Where there
is no text in images, as in the small world, questions of the instruction data are asked about unlabeled images instead
(`questions: sample`), a share of them prompts for descriptions. A prompt is known for one by the length of its answer there.
Released code: every list is doubled (`copies: 2`), and line breaks are taken out of responses after the filter (`one_line`).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from lookagain.augmentations import CLEAN, augmentation
from lookagain.images import ImageStore
from lookagain.pairs import Ask, Inputs, Made, PairError, PairPlan, carry_out
from lookagain.records import Conversation, Decoding, Pair
from lookagain.schema import SevaPairs as Settings
from lookagain.seeds import derive

DESCRIPTION_WORDS = 12  # an answer of at least so many words is a description
Asked = tuple[str, str, str]  # id, image id, question


def make_pairs(inputs: Inputs, settings: Settings) -> Made:
    """Pairs of `items` questions, less those with equal responses."""
    conversations = inputs.instructions()
    if settings.questions == "instruct":
        images: ImageStore = inputs.instruct_images()
        asked = own_questions(conversations, settings.folders, settings.items, inputs.seed)
    else:
        images = inputs.sample
        asked = borrowed_questions(conversations, images.ids, settings.items, settings.description_share, inputs.seed)
    decoding = Decoding(0.0, 1.0, settings.max_new_tokens)
    made = carry_out(plan(asked, settings, inputs.seed), decoding, inputs, images, keep_equal=False)
    pairs = [one_line(pair) for pair in made.pairs] if settings.one_line else made.pairs
    copies = [dataclasses.replace(pair, id=f"{pair.id}/{copy}") for copy in range(1, settings.copies) for pair in pairs]
    return Made([*pairs, *copies], made.counts, images)


def plan(asked: Sequence[Asked], settings: Settings, seed: int) -> list[PairPlan]:
    """The clean image and `rejected` draws of the augmentation for each question."""
    chosen = settings.augmentation
    plans = []
    for name, image_id, question in asked:
        draws = []
        for number in range(settings.rejected):
            own = derive(seed, "augment", image_id, number)
            shown = augmentation(chosen.name, chosen.noise_step, chosen.crop_share, own)
            draws.append(Ask(f"seva/{name}/rejected/{number}", image_id, question, shown))
        plans.append(
            PairPlan(f"seva/{name}", image_id, "seva", question, Ask(f"seva/{name}/chosen", image_id, question, CLEAN), draws)
        )
    return plans


def own_questions(conversations: Sequence[Conversation], folders: Sequence[str], items: int, seed: int) -> list[Asked]:
    """Questions about their own images, two an image: as many of images in each of `folders` (of all images if there is none).

    Folders are those that image ids begin with. Raises PairError if one has fewer questions than its share of `items`.
    """
    asked: dict[str, list[Asked]] = {folder: [] for folder in folders or [""]}
    for one in conversations:
        folder = next((folder for folder in asked if not folder or one.image_id.startswith(f"{folder}/")), None)
        if folder is not None:
            turns = random.Random(derive(seed, "seva turns", one.id)).sample(one.turns, min(2, len(one.turns)))
            asked[folder] += [(f"{one.id}/{number}", one.image_id, turn.prompt) for number, turn in enumerate(turns)]
    drawn = []
    for number, (folder, known) in enumerate(asked.items()):
        share = items // len(asked) + (number < items % len(asked))
        if len(known) < share:
            raise PairError(
                f"seva.pairs: {share} of {items} items are to come from {folder or 'the instruction data'}, which has "
                f"{len(known)} questions, two an image: lower items, or change folders"
            )
        drawn += sorted(known, key=lambda entry: derive(seed, "seva", entry[0]))[:share]
    return drawn


def borrowed_questions(
    conversations: Sequence[Conversation], image_ids: Sequence[str], items: int, share: float, seed: int
) -> list[Asked]:
    """Questions of the instruction data about other, unlabeled images: `share` of them ask for a description.

    Images are taken in turn, each time in another order. Raises PairError if the data has no question of a kind.
    """
    kinds: dict[bool, dict[str, None]] = {True: {}, False: {}}
    for one in conversations:
        for turn in one.turns:
            kinds[len(turn.response.split()) >= DESCRIPTION_WORDS][turn.prompt] = None
    prompts = {is_long: list(found) for is_long, found in kinds.items()}
    asked = []
    for number in range(items):
        passed, place = divmod(number, len(image_ids))
        if place == 0:
            order = sorted(image_ids, key=lambda one: derive(seed, "seva images", passed, one))
        draw = random.Random(derive(seed, "seva question", passed, order[place]))
        pool = prompts[draw.random() < share]
        if not pool:
            raise PairError(f"seva.pairs.description_share = {share}: the instruction data has no such question")
        asked.append((f"{order[place]}/{passed}", order[place], draw.choice(pool)))
    return asked


def one_line(pair: Pair) -> Pair:
    """The pair with its responses on one line each."""
    rejected = [" ".join(text.split()) for text in pair.rejected]
    return dataclasses.replace(pair, chosen=" ".join(pair.chosen.split()), rejected=rejected)
