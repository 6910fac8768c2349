"""VQA's soft accuracy, which TextVQA and VizWiz share: EvalAI's normalisation, then agreement with ten human answers.

The rules are those of the evaluator that Pythia, M4C and LLaVA's scripts use, its quirks included:
- commas and question marks vanish first ("1,000" is 1000), and 's becomes a word of its own;
- a punctuation mark that stands beside a blank anywhere in the answer vanishes everywhere in it, else it becomes a blank;
- every period that no digit follows vanishes ("5." is 5; "1.5" and ".5" stay), but only the first 32 of an answer, as the
  original passes a flag where the count belongs;
- articles vanish, number words up to ten become digits, "none" becomes 0;
- a contraction without one of its apostrophes gets it back, and "somebody'd" loses its own (the original's slip).
Deviation: the original's entries with a capital ("Im", "Ive", "Id've", "I'dve") never match lower-case words, and are left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from lookagain.metrics import accuracy
from lookagain.metrics.benchmark import BenchmarkError
from lookagain.records import Question

ANSWERS = 10  # by different people, for each question

_CONTRACTED = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
    it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
    somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll they're
    they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's
    who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
    there'd've they'd've we'd've who'd've wouldn't've you'd've y'all'll y'all'd've 'ow's'at
""".split()
# A contraction without any one of its apostrophes -> the contraction.
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place in range(len(word)) if word[place] == "'"
}
CONTRACTIONS["somebody'd"] = "somebodyd"

NUMBERS = {word: str(value) for value, word in enumerate("zero one two three four five six seven eight nine ten".split())}
NUMBERS["none"] = "0"
ARTICLES = frozenset({"a", "an", "the"})
PUNCTUATION = ';/[]"{}()=+\\_-><@`!'  # the commas and question marks of the original's list are gone before
_PERIOD = re.compile(r"\.(?!\d)")
_PERIODS = 32


def reference(where: str, answers: Sequence[str]) -> str:
    """A question's human answers as `Question.reference` holds them. Raises BenchmarkError unless they are ten texts."""
    if len(answers) != ANSWERS:
        raise BenchmarkError(f"{where}: {len(answers)} human answers, the metric needs {ANSWERS}; is this a test file?")
    if wrong := [answer for answer in answers if not isinstance(answer, str)]:
        raise BenchmarkError(f"{where}: the human answer {wrong[0]!r} must be text")
    return json.dumps(answers, ensure_ascii=False)


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """An answer as EvalAI compares it."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = _punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _punctuation(text: str) -> str:
    """The text without punctuation; marks between two words without a blank part them."""
    plain = text
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside_blank else " ")
    return _PERIOD.sub("", plain, count=_PERIODS)


def soft_score(response: str, answers: Sequence[str]) -> float:
    """The mean, over leaving out each human answer in turn, of min(1, matches among the others / 3)."""
    given = normalise(response)
    matches = Counter(map(normalise, answers))[given]
    if not matches:
        return 0.0
    others = len(answers) - matches
    return (matches * min(1.0, (matches - 1) / 3) + others * min(1.0, matches / 3)) / len(answers)


def score_answer(question: Question, response: str) -> float:
    """The soft score, 0-1; `reference` is the JSON list of the human answers."""
    return soft_score(response, json.loads(question.reference))


def tally(questions: Sequence[Question], responses: Sequence[str]) -> tuple[float, ...]:
    """Answers, their scores, and blank answers."""
    return accuracy.count((score_answer(q, r), bool(r.strip())) for q, r in zip(questions, responses, strict=True))
