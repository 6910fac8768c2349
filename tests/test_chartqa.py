import json

import pytest

from lookagain.metrics import chartqa
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError


@pytest.mark.parametrize(
    ("response", "label", "right"),
    [
        ("105", "100", True),
        ("105.1", "100", False),
        ("95", "100", True),
        ("-100", "100", False),
        ("5%", "0.05", True),
        ("5%", "5", False),
        ("5", "5%", False),
        ("5 %", "5%", True),
        ("1,000", "1000", False),  # no number: compared as text
        ("1,000", "1,000", True),
        ("0", "0", True),
        ("0.0", "0", False),  # a reference of 0 is compared as text
        ("Yes", "yes", True),
        ("yes.", "yes", False),
        ("Yes, there is a dog.", "yes", False),
        ("red", "dark red", False),
        ("", "5", False),
        ("nan", "5", False),
        (" 5\n", "5", True),
    ],
)
def test_relaxed_match_by_the_official_rule(response, label, right):
    assert chartqa.relaxed_match(response, label) is right


def test_human_and_augmented_apart_and_their_mean(tmp_path):
    row = {"imgname": "10.png", "query": "How many?", "label": "14"}
    (tmp_path / "test_human.json").write_text(json.dumps([row]))
    (tmp_path / "test_augmented.json").write_text(json.dumps([row, {**row, "label": "No"}]))
    questions = chartqa.read(tmp_path, LLAVA15)
    assert [(question.id, question.split) for question in questions] == [
        ("human-0", "human"),
        ("augmented-0", "augmented"),
        ("augmented-1", "augmented"),
    ]
    assert questions[0].prompt == "How many?\nAnswer the question with a single word."
    assert chartqa.tally(questions[1:], ["14.5", "no"]) == (2, 2, 0)
    assert chartqa.summary({"human": {"accuracy": 40.0}, "augmented": {"accuracy": 70.0}}) == {"accuracy": 55}
    assert chartqa.summary({"human": {"accuracy": 40.0}}) == {}
    (tmp_path / "test_augmented.json").unlink()
    with pytest.raises(BenchmarkError, match=r"test_augmented.json.*vis-nlp/ChartQA"):
        chartqa.read(tmp_path, LLAVA15)


def test_one_file_is_the_split_that_its_name_says(tmp_path):
    (tmp_path / "test_human.json").write_text(json.dumps([{"imgname": "10.png", "query": "How many?", "label": "14"}]))
    questions = chartqa.read(tmp_path / "test_human.json", LLAVA15)
    assert [(question.id, question.split) for question in questions] == [("human-0", "human")]
    (tmp_path / "test_human.json").rename(tmp_path / "test.json")
    with pytest.raises(BenchmarkError, match=r"test.json: its name must hold one of human, augmented"):
        chartqa.read(tmp_path / "test.json", LLAVA15)
