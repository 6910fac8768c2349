"""SHR (Zhao et al., 2023): the share of hallucinated sentences in detailed descriptions, by a judge with Visual Genome's regions.

A description is split at "."; a sentence that repeats (part of) an earlier one is left out. The judge sees the image's regions
(boxes in shares of width and height, with phrases), checked facts about it, and the numbered sentences; it lists one of
"hallucination", "correct" and "cannot judge" for each. The figure is hallucinated / (hallucinated + correct + cannot judge),
sentences summed over all images; beside it, as it falls with shorter descriptions, sentences a description.

Official here: the files, the question asked, the splitting, the regions' form, the reading of the judgement, temperature and
figure. The judge's instruction is ours, after the published description.
Deviations: descriptions are decoded as the caller decodes, where the paper uses 5 beams; the judge may write 1600 tokens, not
800, which cut long lists off; a long question is asked, where the official script skips those over 15,000 characters; marks of
emphasis around a class are ignored; a judgement with the wrong number of lines is asked for again, then a failure (the official
script leaves it out), and so is one in which no line has a class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.metrics.judged import percent, read_answer_map, read_json, read_lines, read_text, refuse_repeats
from lookagain.records import Question

NAME = "shr"
CLASSES = ("hallucination", "correct", "cannot judge")
METRICS: tuple[str, ...] = ("shr", "cannot_judge", "sentences", "failed")
MAX_NEW_TOKENS = 512
SOURCE = (
    "https://huggingface.co/datasets/juliozhao/SHR (val_images_final.json, shr_factual_part1.jsonl, shr_factual_part2.jsonl) and "
    "https://homes.cs.washington.edu/~ranjay/visualgenome (image_data.json, region_descriptions.json)"
)
JUDGE_TEMPERATURE = 0.7
JUDGE_MAX_TOKENS = 1600
REMINDER = 'Write "Judgement:", then exactly one numbered line for each comment: its class, a colon, the reason.'

QUESTION = "Describe this image in detail."
PROMPT = """\
Decide for each comment on an image whether it is right. You cannot see the image. What you know of it is a list of its regions,
each as [x1, y1, x2, y2]: phrase, where the numbers are the corners of a box (boxes that nearly coincide may show one object), and
a list of facts, all of them true. Judge by this knowledge alone:
- correct: it agrees with what you know;
- hallucination: it contradicts what you know, or names what would be listed if it were there;
- cannot judge: it is about a mood, a style, a feeling, or anything else that no list of regions can tell.

Go through the comments one by one, and answer in this form, one line for each comment:
Judgement:
1. <hallucination, correct or cannot judge>: <reason>
2. ...

Regions:
{regions}

Facts:
{facts}

Comments:
{comments}
"""

_GAP = re.compile(r"[\[\],\s]*")  # what may stand between the entries of an array


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """One question an image, with its regions and facts, whatever the preset. Raises BenchmarkError."""
    folder = Path(folder)
    try:
        wanted = [str(entry["image_id"]) for entry in read_json(folder / "val_images_final.json", SOURCE)]
        refuse_repeats(folder / "val_images_final.json", wanted)
        images = {str(entry["image_id"]): entry for entry in read_json(folder / "image_data.json", SOURCE)}
        regions = _read_regions(folder / "region_descriptions.json", images, set(wanted))
        facts = _read_facts(folder)
    except BenchmarkError:
        raise
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise BenchmarkError(f"{folder}: files do not have SHR's or Visual Genome's form: {error!r}; see {SOURCE}") from error
    if lost := [name for name in wanted if name not in regions]:
        raise BenchmarkError(
            f"{folder}: Visual Genome's files lack regions of {len(lost)} images, such as {lost[:3]}; see {SOURCE}"
        )
    return [_question(name, regions[name], facts.get(name, "")) for name in wanted]


def _question(name: str, regions: str, facts: str) -> Question:
    return Question(name, name, NAME, "val", QUESTION, json.dumps({"regions": regions, "facts": facts}, ensure_ascii=False))


def _read_facts(folder: Path) -> dict[str, str]:
    """Facts by image: each line of the two files is {image_id: [fact, ...]}."""
    facts = {}
    for part in ("shr_factual_part1.jsonl", "shr_factual_part2.jsonl"):
        for row in read_lines(folder / part, SOURCE):
            ((name, texts),) = list(row.items())[:1]
            facts[name] = "\n".join(texts)
    return facts


def _read_regions(path: Path, images: dict[str, Any], wanted: set[str]) -> dict[str, str]:
    """The regions of the wanted images, one a line."""
    found = {}
    for entry in _entries(path):
        name = str(entry["regions"][0]["image_id"]) if entry["regions"] else ""
        if name in wanted:
            width, height = images[name]["width"], images[name]["height"]
            found[name] = "\n".join(_region(region, width, height) for region in entry["regions"] if region["phrase"])
    return found


def _entries(path: Path) -> Iterator[Any]:
    """The entries of a JSON array one by one: as a whole, Visual Genome's 5 million regions fill several GB of memory."""
    text, decoder = read_text(path, SOURCE), json.JSONDecoder()
    position = _gap_end(text, 0)
    while position < len(text):
        try:
            entry, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise BenchmarkError(f"{path} is not a JSON array: {error}; get it from {SOURCE}") from error
        yield entry
        position = _gap_end(text, position)


def _gap_end(text: str, position: int) -> int:
    gap = _GAP.match(text, position)
    return gap.end() if gap else position


def _region(region: dict[str, Any], width: int, height: int) -> str:
    left, top = region["x"], region["y"]
    corners = (left / width, top / height, (left + region["width"]) / width, (top + region["height"]) / height)
    return f"[{', '.join(str(round(corner, 2)) for corner in corners)}]: {region['phrase']}"


def sentences(description: str) -> list[str]:
    """The sentences that are judged: split at ".", without those that are empty or part of an earlier one."""
    kept: list[str] = []
    for piece in map(str.strip, description.split(".")):
        if piece and not any(piece in earlier for earlier in kept):
            kept.append(piece)
    return kept


def unit(question: Question) -> str:
    """The image."""
    return question.image_id


def score_answer(question: Question, response: str) -> float | None:
    """None: a judge scores it."""
    return None


def judge_messages(question: Question, response: str) -> list[dict[str, Any]]:
    """Regions, facts and numbered sentences in the judge's prompt; nothing for a description without a sentence."""
    kept = sentences(response)
    if not kept:
        return []
    comments = "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(kept, 1))
    return [{"role": "user", "content": PROMPT.format(**json.loads(question.reference), comments=comments)}]


def parse_verdict(text: str, response: str) -> tuple[float, ...] | None:
    """How many sentences are hallucinated, correct, and beyond judgement, from the lines after "Judgement:".

    A line's class stands between its number and the first colon; a line of no class counts for nothing. None if lines and
    sentences differ in number, or there are sentences but not one class.
    """
    kept = sentences(response)
    if not kept:
        return 0.0, 0.0, 0.0
    _, marker, rest = text.partition("Judgement:")
    lines = [line.strip().partition(" ")[2] for line in rest.split("\n")[1:]]
    named = [line.split(":")[0].strip(" *_").lower() for line in lines if line]
    counts = tuple(float(named.count(one)) for one in CLASSES)
    return counts if marker and len(named) == len(kept) and sum(counts) else None


def tally_verdicts(questions: Sequence[Question], verdicts: Sequence[tuple[float, ...] | None]) -> tuple[float, ...]:
    """Sentences hallucinated, correct and beyond judgement, descriptions judged, verdicts wanted and missing."""
    given = [verdict for verdict in verdicts if verdict is not None]
    sums = [sum(verdict[column] for verdict in given) for column in range(len(CLASSES))]
    return *sums, len(given), len(verdicts), len(verdicts) - len(given)


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of sentences in percent (lower is better), sentences a description, and the share of verdicts that are missing."""
    hallucinated, correct, beyond, given, wanted, missing = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    total = hallucinated + correct + beyond
    return {
        "shr": percent(hallucinated, total),
        "cannot_judge": percent(beyond, total),
        "sentences": percent(total, given) / 100,
        "failed": percent(missing, wanted),
    }


def read_answers(path: Path) -> dict[str, str]:
    """Responses by image id from one JSON object {"521": description, ...}. Raises BenchmarkError."""
    return read_answer_map(Path(path))
