"""COCO's files about scenes, instances and captions, and POPE's three question files.

POPE (Li et al., 2023, section 5): questions about objects that an image holds (yes), and as many about absent ones (no):
drawn at random, or the most frequent ones of the data, or those that occur most often together with the image's objects.
Deviation: POPE takes images with more than three objects only; here an image with fewer gets as many questions as it has objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lookagain.seeds import derive
from world.scenes.art import CATEGORIES, INDEX, NAMES
from world.scenes.language import caption, description, with_article
from world.scenes.questions import IS_THERE
from world.scenes.scene import Scene

SPLITS = ("random", "popular", "adversarial")


def instances(scenes: Sequence[Scene]) -> dict:
    """COCO's `instances` format. Images also name the subsets that they belong to, their type and their sign; annotations their
    attributes."""
    images: list[dict] = []
    annotations: list[dict] = []
    for scene in scenes:
        entry = {"id": scene.id, "file_name": scene.file_name, "width": scene.size, "height": scene.size, "scene": scene.type}
        entry |= {"subsets": ["novel_art"]} if scene.art == "novel" else {}
        entry |= {"sign": {"number": scene.sign.number, "bbox": list(scene.sign.box)}} if scene.sign else {}
        images.append(entry)
        for thing in scene.things:
            row: dict = {"id": len(annotations) + 1, "image_id": scene.id, "category_id": CATEGORIES[INDEX[thing.name]].id}
            row |= {"bbox": list(thing.box), "area": thing.box[2] * thing.box[3], "iscrowd": 0}
            annotations.append(row | ({"attributes": {"color": thing.color}} if thing.color else {}))
    categories = [{"id": category.id, "name": category.name} for category in CATEGORIES]
    return {"images": images, "annotations": annotations, "categories": categories}


def pope_questions(scenes: Sequence[Scene], split: str, per_image: int) -> list[dict]:
    """The lines of `coco_pope_<split>.json`: {"question_id", "image", "text", "label"}, yes and no in turn.

    The objects asked about with the answer yes are the same in all three splits.
    """
    counts, together = _statistics(scenes)
    lines: list[dict] = []
    for scene in scenes:
        rng = np.random.default_rng(derive(0, "pope", scene.id))
        present = scene.names()
        asked = [present[number] for number in rng.permutation(len(present))[:per_image]]
        random = [NAMES[number] for number in rng.permutation(len(NAMES))]
        popular = sorted(NAMES, key=lambda name: -counts[name])
        taken = set(present)
        for name in asked:
            counted = [-together[name, other] for other in NAMES]
            near = [NAMES[number] for number in np.argsort(counted, kind="stable")]
            order = {"random": random, "popular": popular, "adversarial": near}[split]
            other = next(candidate for candidate in order if candidate not in taken)
            taken.add(other)
            for noun, label in ((name, "yes"), (other, "no")):
                question = {"question_id": len(lines) + 1, "image": scene.file_name}
                lines.append(question | {"text": IS_THERE.format(with_article(noun)), "label": label})
    return lines


def _statistics(scenes: Sequence[Scene]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """In how many scenes each category occurs, and each ordered pair of categories together."""
    counts: Counter[str] = Counter()
    together: Counter[tuple[str, str]] = Counter()
    for scene in scenes:
        names = scene.names()
        counts.update(names)
        together.update((first, second) for first in names for second in names if first != second)
    return counts, together


def captions(scenes: Sequence[Scene]) -> dict:
    """COCO's `captions` format, two true captions of each scene: a short one and a description."""
    return {
        "images": [{"id": scene.id, "file_name": scene.file_name} for scene in scenes],
        "annotations": [
            {"id": number, "image_id": scene.id, "caption": text} for number, (scene, text) in enumerate(_captions(scenes), 1)
        ],
    }


def _captions(scenes: Sequence[Scene]) -> Iterator[tuple[Scene, str]]:
    for scene in scenes:
        yield scene, caption(scene)
        yield scene, description(scene)
