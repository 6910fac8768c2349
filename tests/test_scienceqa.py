import json

import pytest

from lookagain.metrics import scienceqa
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError
from lookagain.metrics.score import score_files


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("A", "A"),
        (" B\n", "B"),
        ("B. Maine", "B"),
        ("B\nas it lies north", "B"),  # the line break is read as ". "
        ("The answer is C.", "C"),
        ("I think. The answer is C, north.", "C"),
        ("The answer is C", ""),  # the pattern wants one more character
        ("The answer is A. The answer is B.", ""),
        ("B.", ""),
        ("b", ""),
        ("(B)", ""),
        ("AB", ""),
        ("Maine", ""),  # the option's text is no answer
        ("F", ""),
        ("", ""),
    ],
)
def test_letters_by_the_official_rule(response, letter):
    assert scienceqa.parse_answer(response) == letter


def folder(tmp_path, **changes):
    problem = {
        "question": "Which state is farthest north?",
        "hint": "",
        "choices": ["West Virginia", "Maine"],
        "answer": 1,
        "image": "image.png",
        "subject": "social science",
    }
    problems = {"1": problem | changes, "2": problem | {"image": None}, "3": problem}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"train": ["3"], "test": ["1", "2"]}))
    return tmp_path


def test_reads_the_test_problems_with_an_image(tmp_path):
    (question,) = scienceqa.read(folder(tmp_path), LLAVA15)
    assert (question.id, question.split) == ("1", "social_science")
    assert question.prompt == (
        "Which state is farthest north?\nA. West Virginia\nB. Maine"
        "\nAnswer with the option's letter from the given choices directly."
    )
    (hinted,) = scienceqa.read(folder(tmp_path, hint="A map."), LLAVA15)
    assert hinted.prompt == "Context: A map.\n" + question.prompt
    assert scienceqa.tally([question], ["B"]) == (1, 1, 0)
    assert scienceqa.tally([question], ["A"]) == (1, 0, 0)
    assert scienceqa.tally([question], ["C"]) == (1, 0, 1)  # there are two options


def test_img_accuracy_is_that_of_all_subjects_together():
    scores = {"a": {"accuracy": 50.0, "unparsed": 1.0, "n": 30.0}, "b": {"accuracy": 100.0, "unparsed": 0.0, "n": 10.0}}
    assert scienceqa.summary(scores) == {"accuracy": 62.5, "unparsed": 1, "n": 40}


def test_malformed_files_are_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="problem 1: answer 2 of 2 choices"):
        scienceqa.read(folder(tmp_path, answer=2), LLAVA15)
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["9"]}))
    with pytest.raises(BenchmarkError, match="lacks: 9"):
        scienceqa.read(tmp_path, LLAVA15)
    (tmp_path / "pid_splits.json").unlink()
    with pytest.raises(BenchmarkError, match=r"none of pid_splits.json.*github.com/lupantech"):
        scienceqa.read(tmp_path, LLAVA15)


def test_answers_to_problems_without_an_image_are_counted_and_ignored(tmp_path):
    answers = folder(tmp_path) / "answers.jsonl"
    answers.write_text('{"question_id": "1", "text": "B"}\n{"question_id": "2", "text": ""}\n')
    found = score_files("scienceqa", answers, tmp_path)
    assert (found["n"], found["ignored"], found["extra"], found["empty"]) == (1, 1, 0, 0)
    assert found["summary"]["accuracy"] == 100
    folder(tmp_path, image=None)
    with pytest.raises(BenchmarkError, match="holds no question"):
        score_files("scienceqa", answers, tmp_path)
    folder(tmp_path)
    answers.write_text('{"question_id": "1", "text": "B"}\n{"question_id": "3", "text": "B"}\n')  # a training problem
    with pytest.raises(BenchmarkError, match=r"1 answers are to no question of .*, as 3"):
        score_files("scienceqa", answers, tmp_path)
