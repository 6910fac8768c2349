"""MM-Vet (Yu et al., 2024): open questions that need several abilities at once, scored from 0 to 1 by a judge.

The judge completes a table (question | ground truth | prediction | correctness) after a few solved rows. In a ground truth,
<AND> joins what must all be there and <OR> what suffices alone. Figures are 100 * mean score, over all questions and over those
that need each of six abilities (a question counts for each it needs). The paper's judge is GPT-4 at temperature 0, and its
figures are means of five judgements: pass each question five times, or average the figures of five runs.

Official here: the files, the form of the table, <AND> and <OR>, temperature, the reading of the score and the figures. The
instruction and the solved rows are ours, after the paper's description, so that figures are close to published ones, not equal.
Deviations: the score may end at any blank, not only at a space; an answer that is no score is a failure, where the official
script counts 0 after five tries; 8 tokens instead of 3, as tokenizers differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lookagain.metrics.benchmark import BenchmarkError, PromptPreset
from lookagain.metrics.judged import percent, read_answer_map, read_json
from lookagain.records import Question

NAME = "mmvet"
# Recognition, reading, knowledge, language generation, spatial awareness, arithmetic.
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
METRICS: tuple[str, ...] = ("score", *CAPABILITIES, "failed")
MAX_NEW_TOKENS = 1024
SOURCE = "https://github.com/yuweihao/MM-Vet (mm-vet.zip: mm-vet.json)"
JUDGE_TEMPERATURE = 0.0
JUDGE_MAX_TOKENS = 8
REMINDER = "Reply with the correctness alone, a number from 0.0 to 1.0:"

INSTRUCTION = """\
Score how correct a model's prediction is, given the ground truth. Where the ground truth holds <AND>, only a prediction with all
the parts is fully right, and each part gives its share; where it holds <OR>, any one of the parts makes it fully right. Scores go
from 0.0 (all wrong) in steps of 0.1 to 1.0 (fully right). Fill in the correctness that is missing at the end of the last row, and
write nothing else."""
EXAMPLES = (
    ("Which numbers are circled?", "4 <AND> 9", "7", "0.0"),
    ("Which numbers are circled?", "4 <AND> 9", "The number 9 is circled.", "0.5"),
    ("Which numbers are circled?", "4 <AND> 9", "4 or 8", "0.5"),
    ("Which numbers are circled?", "4 <AND> 9", "Both the 9 and the 4 are circled.", "1.0"),
    ("What drink is on the table?", "coffee <OR> espresso", "A cup of espresso", "1.0"),
    (
        "Why is this cartoon funny?",
        "A cat in a suit chairs a meeting of mice about workplace safety. The joke is that the one who leads the talk on safety is "
        "the greatest danger to all who attend, and nobody dares to say so.",
        "The cartoon shows a cat and some mice sitting at a table, as if they were people at work.",
        "0.3",
    ),
    (
        "Why is this cartoon funny?",
        "A cat in a suit chairs a meeting of mice about workplace safety. The joke is that the one who leads the talk on safety is "
        "the greatest danger to all who attend, and nobody dares to say so.",
        "A cat holds a meeting on safety for mice. It is ironic because cats hunt mice, so the speaker is the very threat that the "
        "frightened audience should be protected from, which they keep quiet about.",
        "1.0",
    ),
)
HEADER = ("Question", "Ground truth", "Prediction", "Correctness")

_NUMBER = re.compile(r"\d+(\.\d*)?|\.\d+")


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The questions; they are asked as they are, whatever the preset. Raises BenchmarkError."""
    path = Path(folder) / "mm-vet.json"
    raw = read_json(path, SOURCE)
    if not isinstance(raw, dict) or not raw:
        raise BenchmarkError(f"{path}: needs one object of questions by id; get it from {SOURCE}")
    questions = []
    for name, entry in raw.items():
        try:
            image, text, answer, needed = (entry[key] for key in ("imagename", "question", "answer", "capability"))
        except (KeyError, TypeError) as error:
            raise BenchmarkError(f"{path}, {name}: needs imagename, question, answer and capability: {error!r}") from error
        if not needed or not set(needed) <= set(CAPABILITIES):
            raise BenchmarkError(f"{path}, {name}: capability {needed!r} must be some of {', '.join(CAPABILITIES)}")
        reference = json.dumps({"answer": answer, "capabilities": sorted(set(needed))}, ensure_ascii=False)
        questions.append(Question(name, Path(image).stem, NAME, "all", text, reference))
    return questions


def unit(question: Question) -> str:
    """The image: some bear several questions."""
    return question.image_id


def score_answer(question: Question, response: str) -> float | None:
    """None: a judge scores it."""
    return None


def judge_messages(question: Question, response: str) -> list[dict[str, Any]]:
    """The instruction, the solved rows, and the row to complete."""
    truth = json.loads(question.reference)["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    rows = [HEADER, ("---",) * len(HEADER), *EXAMPLES, (question.prompt, truth, response, "")]
    return [{"role": "user", "content": INSTRUCTION + "\n\n" + "\n".join(" | ".join(row) for row in rows)}]


def parse_verdict(text: str, response: str = "") -> tuple[float, ...] | None:
    """The score, the first word of the answer; None unless it is a number from 0 to 1."""
    words = text.split()
    if not words or not _NUMBER.fullmatch(words[0]) or float(words[0]) > 1:
        return None
    return (float(words[0]),)


def tally_verdicts(questions: Sequence[Question], verdicts: Sequence[tuple[float, ...] | None]) -> tuple[float, ...]:
    """The sum of scores and their number, over all and for each ability, then verdicts wanted and missing."""
    sums, numbers = dict.fromkeys(METRICS[:-1], 0.0), dict.fromkeys(METRICS[:-1], 0)
    for question, verdict in zip(questions, verdicts, strict=True):
        if verdict is not None:
            for name in ("score", *json.loads(question.reference)["capabilities"]):
                sums[name] += verdict[0]
                numbers[name] += 1
    missing = sum(verdict is None for verdict in verdicts)
    return *sums.values(), *numbers.values(), len(verdicts), missing


def score(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Mean scores and the share of verdicts that are missing, in percent."""
    columns = np.moveaxis(np.asarray(counts, dtype=float), -1, 0)
    size = len(METRICS) - 1
    figures = {name: percent(columns[row], columns[size + row]) for row, name in enumerate(METRICS[:-1])}
    return {**figures, "failed": percent(columns[-1], columns[-2])}


def read_answers(path: Path) -> dict[str, str]:
    """Responses by question id from one JSON object {"v1_0": response, ...}. Raises BenchmarkError."""
    return read_answer_map(Path(path))
