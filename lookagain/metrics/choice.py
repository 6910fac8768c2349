"""Multiple choice: options under letters, as a prompt shows them, and the letter or option that an answer means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
REFUSAL = "Z"  # the letter by which MMBench's answers decline
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
LAST_WORDS = 4  # where a letter must stand: "A cat sat on a mat" does not name A
_MARKS = re.compile(r"[.()\[\],:;!*#{}]")


def listed(options: Iterable[str]) -> str:
    """The options as LLaVA-1.5's prompts list them, one per line: "A. ..."."""
    return "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def infer(answer: str, options: Mapping[str, str]) -> str:
    """The letter that an answer means, by the rules of MMBench's publisher (VLMEvalKit) without a judge; "" if it cannot be told.

    First the letter: exactly one of the options' letters stands alone between blanks and punctuation, and that among the last
    four words. Else the text: exactly one option is contained in the answer, upper or lower case, and the answer is at most twice
    as long as all options together. A refusal means nothing.
    """
    words = _MARKS.sub(" ", answer).split()
    named = [letter for letter in options if letter in words]
    if any(refusal in answer for refusal in REFUSALS) or (not named and REFUSAL in words):
        return ""
    if len(named) == 1 and words.index(named[0]) >= len(words) - LAST_WORDS:
        return named[0]
    if len(answer) > 2 * sum(map(len, options.values())):
        return ""
    held = [letter for letter, option in options.items() if option.lower() in answer.lower()]
    return held[0] if len(held) == 1 else ""
