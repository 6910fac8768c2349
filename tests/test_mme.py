import numpy as np
import pytest

from lookagain.metrics import mme
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError


@pytest.mark.parametrize(
    ("response", "parsed"),
    [
        ("Yes", "yes"),
        ("Yes, there is a dog.", "yes"),
        ("NO", "no"),
        ("no\n", "no"),
        (" yes", "yes"),
        ("  yes", ""),  # only four characters are read
        ("Not sure", "no"),  # "not" begins with no
        ("None", "no"),
        ("eyes", "yes"),
        ("There is no dog", ""),
        ("Unclear", ""),
        ("", ""),
    ],
)
def test_answers_are_parsed_by_the_official_rule(response, parsed):
    assert mme.parse_answer(response) == parsed


def folder(tmp_path):
    lines = "Is there a dog? Please answer yes or no.\tYes\nIs there a cat? Please answer yes or no.\tNo\n"
    for path in ("count/01.txt", "count/02.txt", "artwork/questions_answers_YN/01.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(lines)
    return tmp_path


def test_reads_both_layouts_of_the_official_folder(tmp_path):
    questions = mme.read(folder(tmp_path), LLAVA15)
    assert [question.split for question in questions] == ["count"] * 4 + ["artwork"] * 2
    assert questions[0].image_id == "count/01"
    assert questions[0].prompt == "Is there a dog?\nAnswer the question using a single word or phrase."
    assert [question.reference for question in questions[:2]] == ["yes", "no"]


def test_accuracy_plus_wants_both_questions_of_an_image(tmp_path):
    questions = mme.read(folder(tmp_path), LLAVA15)[:4]
    counts = [mme.tally(questions[:2], ["Yes", "No"]), mme.tally(questions[2:], ["Yes", "maybe"])]
    assert counts == [(2, 2, 1, 1, 0), (2, 1, 1, 0, 1)]
    # 3 of 4 answers, 1 of 2 images
    assert mme.score(np.sum(counts, axis=0)) == {"score": 125, "accuracy": 75, "accuracy_plus": 50, "unparsed": 1}


def test_sums_are_made_where_all_subtasks_are_there():
    scores = {name: {"score": 100.0} for name in mme.COGNITION}
    assert mme.summary(scores) == {"cognition": 400}
    assert mme.summary(scores | {name: {"score": 200.0} for name in mme.PERCEPTION}) == {"perception": 2000, "cognition": 400}
    assert (len(mme.PERCEPTION), len(mme.COGNITION)) == (10, 4)


def test_results_are_matched_by_question_in_any_order(tmp_path):
    questions = mme.read(folder(tmp_path / "data"), LLAVA15)[:2]
    (tmp_path / "count.txt").write_text(
        "01.jpg\tIs there a cat?  Please answer yes or no.\tNo\tNo\n01.jpg\tIs there a dog? Please answer yes or no.\tYes\tYes\n"
    )
    responses = mme.read_answers(tmp_path)
    assert mme.tally(questions, [responses[question.id] for question in questions]) == (2, 2, 1, 1, 0)


def test_malformed_folders_are_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="no subtask of MME"):
        mme.read(tmp_path, LLAVA15)
    with pytest.raises(BenchmarkError, match=r"needs a folder of existence.txt"):
        mme.read_answers(tmp_path)
    folder(tmp_path)
    (tmp_path / "count/02.txt").write_text("Is there a dog?\tYes\n")
    with pytest.raises(BenchmarkError, match=r"02.txt: needs two lines"):
        mme.read(tmp_path, LLAVA15)
    (tmp_path / "count.txt").write_text("01.jpg\tIs there a dog?\tYes\n")
    with pytest.raises(BenchmarkError, match="line 1: 3 cells"):
        mme.read_answers(tmp_path)
