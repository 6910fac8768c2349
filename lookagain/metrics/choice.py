"""Multiple choice: options under letters, as a prompt shows them, and the letter or option that an answer means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MARKS = re.compile(r"[.()\[\],:;!*#{}]")
QUANTIFIER_WORDS = 3  # in an answer of more words than these, a lone "A" is an article


def listed(options: Iterable[str]) -> str:
    """The options as LLaVA-1.5's prompts list them, one per line: "A. ..."."""
    return "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def infer(answer: str, options: Mapping[str, str]) -> str:
    """The letter that an answer means, by MMBench's rules without a judge; "" if it cannot be told.

    First the letter: exactly one of the options' letters stands alone between blanks and punctuation. Else the text: exactly one
    option is contained in the answer, upper or lower case, and the answer is at most twice as long as all options together.
    """
    words = _MARKS.sub(" ", answer).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and not (named == ["A"] and len(words) > QUANTIFIER_WORDS):
        return named[0]
    if len(answer) > 2 * sum(map(len, options.values())):
        return ""
    held = [letter for letter, option in options.items() if option.lower() in answer.lower()]
    return held[0] if len(held) == 1 else ""
