import json

import pytest

from lookagain.metrics import seedbench
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError
from lookagain.metrics.score import score_files


def folder(tmp_path, **changes):
    row = {
        "answer": "B",
        "choice_a": "One",
        "choice_b": "Two",
        "choice_c": "Three",
        "choice_d": "Four",
        "data_id": "1454426_2591111986",
        "data_type": "image",
        "question": "How many towels?",
        "question_id": "101669",
        "question_type_id": 5,
    } | changes
    video = row | {"question_type_id": 10, "data_type": "video", "question_id": "v1"}
    raw = {"question_type": {"Instances Counting": 5, "Action Recognition": 10}, "questions": [row, video]}
    (tmp_path / "SEED-Bench.json").write_text(json.dumps(raw))
    return tmp_path


def test_reads_the_image_part(tmp_path):
    (question,) = seedbench.read(folder(tmp_path), LLAVA15)
    assert (question.id, question.split, question.image_id) == ("101669", "instances_counting", "1454426_2591111986")
    assert question.prompt == (
        "How many towels?\nA. One\nB. Two\nC. Three\nD. Four\nAnswer with the option's letter from the given choices directly."
    )
    assert json.loads(question.reference)["options"] == ["One", "Two", "Three", "Four"]


@pytest.mark.parametrize(
    ("response", "counts"),
    [
        ("B", (1, 1, 0)),
        (" B\n", (1, 1, 0)),
        ("A", (1, 0, 0)),
        ("B.", (1, 0, 1)),
        ("Two", (1, 0, 1)),
        ("b", (1, 0, 1)),
        ("", (1, 0, 1)),
    ],
)
def test_the_letter_alone_is_right(tmp_path, response, counts):
    assert seedbench.tally(seedbench.read(folder(tmp_path), LLAVA15), [response]) == counts


def test_the_lowest_loss_is_the_answer(tmp_path):
    assert seedbench.rank([2.0, 0.5, 1.0, 3.0]) == "B"
    assert seedbench.rank([2.0, 1.0, 1.0, 3.0]) == "B"  # a tie: the first
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question_id": 101669, "losses": [2, 0.5, 1, 3]}\n{"question_id": 2, "prediction": "C"}\n')
    assert seedbench.read_answers(path) == {"101669": "B", "2": "C"}
    path.write_text('{"question_id": 1, "losses": [2, 0.5, 1]}\n')
    with pytest.raises(BenchmarkError, match=r"line 1: losses.*must be 4 finite numbers"):
        seedbench.read_answers(path)
    path.write_text('{"question_id": 1, "losses": [NaN, 0.5, 1, 2]}\n')
    with pytest.raises(BenchmarkError, match="finite"):
        seedbench.read_answers(path)


def test_malformed_files_are_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="question 1: answer 'E'"):
        seedbench.read(folder(tmp_path, answer="E"), LLAVA15)
    with pytest.raises(BenchmarkError, match="no question of types 1 to 9"):
        seedbench.read(folder(tmp_path, question_type_id=12), LLAVA15)


def test_answers_to_questions_about_videos_are_counted_and_ignored(tmp_path):
    answers = folder(tmp_path) / "answers.jsonl"
    answers.write_text('{"question_id": "101669", "prediction": "B"}\n{"question_id": "v1", "prediction": "A"}\n')
    found = score_files("seedbench", answers, tmp_path)
    assert (found["n"], found["ignored"], found["summary"]["accuracy"]) == (1, 1, 100)
