import pytest

from lookagain.metrics import choice

OPTIONS = {"A": "cat", "B": "dog", "C": "a big dog", "D": "None"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B: dog", "B"),
        ("The answer is B", "B"),
        ("**B**", "B"),
        ("b", ""),
        ("BC", ""),
        ("E", ""),
        ("A or B", ""),  # two letters, and the text of none
        ("A cat", "A"),
        ("A wet dog ran off", "B"),  # five words, the letter first: the text decides
        ("A wet bird ran", "A"),  # four words, officially
        ("A wet bird ran off", ""),
        ("I think that the answer is B.", "B"),
        ("B is the answer, I think", ""),
        ("Cannot determine the answer: dog", ""),
        ("Z", ""),
        ("It is a Dog.", "B"),
        ("A big dog", "A"),  # three words: the letter goes first, officially
        ("a big dog", ""),  # holds two options' texts
        ("cat or dog", ""),
        ("none", "D"),
        ("", ""),
        ("dog " * 10, ""),  # longer than twice all options
    ],
)
def test_the_letter_then_the_text_else_nothing(answer, letter):
    assert choice.infer(answer, OPTIONS) == letter


def test_options_are_listed_under_letters():
    assert choice.listed(["cat", "dog"]) == "\nA. cat\nB. dog"
