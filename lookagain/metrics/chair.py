"""CHAIR (Rohrbach et al., 2018): objects that a caption names and its image does not hold.

An image's objects are the categories of its COCO instances and those named in its reference captions. CHAIR_S is the share of
captions that name an absent object; CHAIR_I the share of mentions (every one counts) that are of absent objects; a caption
that mentions nothing adds nothing to either. Beside them, as both fall with shorter captions: recall (objects named / objects,
summed over images), length in words, and repeats (mentions beyond the first of each object, a caption).

The word lists and rules are those of the authors' release, its quirks included:
- "toilet seat" is a toilet, and beside the word toilet a seat is no chair;
- baby/adult before an animal and passenger before a jet or train name no person; a home plate or train track names nothing;
- its entries "motor bike" and "cheesecake" begin with a stray blank, and "iPhone" has a capital: they never match, and are
  left out here; "stove top oven" is three words, so that its two-word rule never joins it: two mentions of an oven.
Deviations: nouns are made singular by a closed table over these words instead of the pattern library (whose PyPI name now is
another package), and words are found by one expression instead of nltk's tokenizer; hyphenated words stay whole in both.
A file of generated captions may be about some of the images only, as the papers draw 500.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lookagain.metrics import official
from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.metrics.chair_words import DOUBLE_WORDS, IRREGULAR, SYNONYMS
from lookagain.records import Question

NAME = "chair"
MAX_NEW_TOKENS = 1024
SOURCE = "https://cocodataset.org (2014 train/val annotations): instances_val2014.json and captions_val2014.json"
INSTANCES = ("instances.json", "instances_val2014.json")
CAPTIONS = ("captions.json", "captions_val2014.json")
SPLIT = "all"
PROMPT = "Please describe this image in detail."

# A word keeps its inner hyphens, slashes and dots (COCO's "hot-dog" is no hot dog, officially); "dog's" is dog and 's.
TOKEN = re.compile(r"[^\W_]+(?:[-/_.][^\W_]+)*|[^\w\s]")

# An instance's polygons (never text inside a string, whose quotes would have a backslash before them).
OUTLINES = re.compile(r'"segmentation"\s*:\s*\[\s*\[[^\]]*\](?:\s*,\s*\[[^\]]*\])*\s*\]')

COLUMNS = ("captions", "hallucinated_captions", "hallucinated_mentions", "mentions", "found", "objects", "words", "repeats")
METRICS: tuple[str, ...] = ("chair_s", "chair_i", "recall", "length", "repeats")


class ChairError(BenchmarkError):
    """An annotation file that cannot be used: the message names the file and what is wrong."""


def _plural(word: str) -> str:
    """The plural of a noun of the word lists."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def _split(words: str) -> list[str]:
    return [" ".join(word.split()) for word in words.split(",") if word.strip()]


CATEGORY = {word: category for category, words in SYNONYMS.items() for word in [category, *_split(words)]}
_PAIRS = {**{word: word for word in CATEGORY if " " in word and word != "dining table"}, **DOUBLE_WORDS}
_NOUNS = {part for word in (*CATEGORY, *_PAIRS) for part in word.split()}
SINGULAR = {_plural(noun): noun for noun in sorted(_NOUNS)} | {"buffalos": "buffalo", "busses": "bus"}
SINGULAR |= {noun: noun for noun in _NOUNS - {"people", "children", "oxen"}}
_FIRST = {pair.split()[0] for pair in _PAIRS}


def mentions(caption: str) -> list[str]:
    """The COCO categories that a caption mentions, in order, one entry per mention."""
    singular = SINGULAR.get
    tokens = [singular(token, "") for token in TOKEN.findall(caption.lower())]
    words = _join_pairs(tokens) if not _FIRST.isdisjoint(tokens) else tokens
    if "toilet" in words and "seat" in words:
        words = [word for word in words if word != "seat"]
    return [CATEGORY[word] for word in words if word in CATEGORY]


def _join_pairs(tokens: list[str]) -> list[str]:
    """Neighbouring words that form a double word replaced by the word they stand for, from left to right."""
    words, position = [], 0
    while position < len(tokens):
        pair = " ".join(tokens[position : position + 2])
        words.append(_PAIRS.get(pair, tokens[position]))
        position += 2 if pair in _PAIRS else 1
    return words


def read_truth(instances: Path | str, captions: Path | str) -> dict[str, frozenset[str]]:
    """Each image's objects, by image id (the stem of COCO's file name): its instances and what its captions name.

    Reads COCO's own formats; captions of images that `instances` does not list are ignored.
    Raises ChairError if a file is missing or malformed, an instance has a category that is none of COCO's 80, or an image has no
    caption: with the captions of another split, whatever the instances lack would count as hallucinated.
    """
    return dict(_read_objects(instances, captions, None).values())


def _read_objects(
    instances: Path | str, captions: Path | str, wanted: Container[str] | None
) -> dict[str, tuple[str, frozenset[str]]]:
    """(image id, objects) by COCO's number of the image, as text; of the wanted numbers alone, if given."""
    boxes, references = read_json(instances), read_json(captions)
    try:
        images = [image for image in boxes["images"] if wanted is None or str(image["id"]) in wanted]
        stems = {image["id"]: Path(image["file_name"]).stem for image in images}
        names = {category["id"]: category["name"] for category in boxes["categories"]}
        truth: dict[int, set[str]] = {number: set() for number in stems}
        listed = stems.keys() if wanted is None else {image["id"] for image in boxes["images"]}
        if unknown := set(names.values()) - SYNONYMS.keys():
            raise ChairError(f"{instances}: {sorted(unknown)} are not among COCO's 80 categories")
        for box in boxes["annotations"]:
            if box["image_id"] in stems:
                truth[box["image_id"]].add(names[box["category_id"]])
            elif box["image_id"] not in listed:
                raise ChairError(f"{instances}: an instance is of image {box['image_id']}, which is not listed")
        bare = dict.fromkeys(stems)  # images without a reference caption
        for reference in references["annotations"]:
            if reference["image_id"] in stems:
                truth[reference["image_id"]].update(mentions(reference["caption"]))
                bare.pop(reference["image_id"], None)
    except (KeyError, TypeError, AttributeError) as error:
        raise ChairError(f"{instances} and {captions} do not match COCO's format or each other: {error!r}") from error
    if bare:
        raise ChairError(
            f"{captions}: no reference caption of {len(bare)} of {len(stems)} images, as {stems[next(iter(bare))]}; take both "
            f"files of one split: {SOURCE}"
        )
    return {str(number): (stems[number], frozenset(objects)) for number, objects in truth.items()}


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """A description of every image; ids are COCO's image numbers. The preset has no part in the prompt."""
    return read_files(official.find(folder, INSTANCES, SOURCE), official.find(folder, CAPTIONS, SOURCE))


def read_files(instances: Path, captions: Path, wanted: Container[str] | None = None) -> list[Question]:
    """A description of every image, or of those whose numbers are wanted; `reference` is the JSON list of the image's objects."""
    found = _read_objects(instances, captions, wanted)
    return [
        Question(number, image, NAME, SPLIT, PROMPT, json.dumps(sorted(objects))) for number, (image, objects) in found.items()
    ]


def read_json(path: Path | str) -> dict:
    """A file of COCO's annotations, mostly without the instances' outlines. Raises ChairError."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ChairError(f"no annotation file {path}: run prepare_data, or get it from {SOURCE}") from error
    except UnicodeDecodeError as error:
        raise ChairError(f"{path} is no UTF-8 text: {error}") from error
    try:
        # The outlines are unused, and most of COCO's file: without them it is read in a fifth of the time.
        return json.loads(OUTLINES.sub('"segmentation":0', text))
    except (ValueError, RecursionError):
        pass  # outlines of another shape, or no JSON
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ChairError(f"{path} is not JSON: {error}") from error


def count(caption: str, objects: frozenset[str] | set[str]) -> tuple[int, ...]:
    """The counts of one caption, in the order of `COLUMNS`, against its image's objects."""
    named = mentions(caption)
    distinct = set(named)
    absent = sum(category not in objects for category in named)
    found = len(distinct & objects)
    return 1, int(absent > 0), absent, len(named), found, len(objects), len(caption.split()), len(named) - len(distinct)


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def score_answer(question: Question, response: str) -> None:
    """None: CHAIR is a ratio over all captions."""
    return None


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """The counts of an image's captions, in the order of `COLUMNS`."""
    pairs = zip(questions, responses, strict=True)
    counts = [count(response, frozenset(json.loads(question.reference))) for question, response in pairs]
    return tuple(float(sum(column)) for column in zip(*counts, strict=True))


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The scores from summed counts (..., 8): percent, but length in words and repeats per caption; 0 where nothing counts."""
    columns = dict(zip(COLUMNS, np.moveaxis(np.asarray(counts, dtype=float), -1, 0), strict=True))
    return {
        "chair_s": 100 * _ratio(columns["hallucinated_captions"], columns["captions"]),
        "chair_i": 100 * _ratio(columns["hallucinated_mentions"], columns["mentions"]),
        "recall": 100 * _ratio(columns["found"], columns["objects"]),
        "length": _ratio(columns["words"], columns["captions"]),
        "repeats": _ratio(columns["repeats"], columns["captions"]),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.where(whole == 0, 1, whole)


def summary(scores_by_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{}: there is one split."""
    return {}


def read_answers(path: Path) -> dict[str, str]:
    """Captions by COCO's image number: {"image_id", "caption"} as a list or JSON lines, or the release's {"imgToEval": ...}."""
    text = official.read_text(path)
    if text.lstrip().startswith("{"):
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):  # several lines of JSON
            raw = {}
        if "imgToEval" in raw:
            rows = [(f"{path}, image {number}", row) for number, row in raw["imgToEval"].items()]
            return official.collect((where, *_caption(where, row)) for where, row in rows)
    return official.collect((where, *_caption(where, row)) for where, row in official.read_rows(path))


def _caption(where: str, row: dict) -> tuple[str, str]:
    return official.value(where, row, ("image_id", *official.IDS)), official.response(
        where, row, ("caption", *official.RESPONSES)
    )


def truncate(captions: Mapping[str, str], mean_words: float) -> dict[str, str]:
    """Captions by image id, cut at a common number of words so that their mean length comes as near `mean_words` as can be.

    With a cut at k words, the mean lies under the target and with k + 1 over it; so some captions, drawn by the hash of their
    image id, keep one word more: the total is within half a word of the target. Shorter captions stay whole, and if the target
    exceeds the captions' own mean, nothing is cut. A model's control is the base's captions cut to the model's mean length.
    """
    lengths = {image: len(caption.split()) for image, caption in captions.items()}
    target = min(round(mean_words * len(captions)), sum(lengths.values()))
    cut = 0
    while cut < max(lengths.values(), default=0) and _total(lengths.values(), cut + 1) <= target:
        cut += 1
    longer = sorted(
        (image for image in captions if lengths[image] > cut), key=lambda image: hashlib.sha256(image.encode()).digest()
    )
    favoured = set(longer[: target - _total(lengths.values(), cut)])
    return {image: " ".join(caption.split()[: cut + (image in favoured)]) for image, caption in captions.items()}


def _total(lengths: Iterable[int], cut: int) -> int:
    return sum(min(length, cut) for length in lengths)
