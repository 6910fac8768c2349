import json

import numpy as np
import pytest

from lookagain.metrics import pope
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError
from lookagain.metrics.score import score_files


@pytest.mark.parametrize(
    ("response", "parsed"),
    [
        ("Yes, there is a dog.", "yes"),
        ("there is no dog", "no"),
        ("No", "no"),
        ("no.", "no"),
        ("No, there is no dog in the image.", "no"),
        ("not sure", "no"),
        ("NO", "yes"),  # the official list has No, not and no only
        ("Nope", "yes"),
        ("none", "yes"),
        ("", "yes"),
        ("I can see a dog. It is not brown.", "yes"),  # only the first sentence counts
        (". no", "yes"),
        ("well,no", "yes"),  # commas vanish and leave one word, "wellno"
        ("no!", "yes"),
        ("no\nthere is none", "yes"),  # words are split at blanks only
    ],
)
def test_answers_are_parsed_by_the_official_rule(response, parsed):
    assert pope.parse_answer(response) == parsed


def test_scores_from_counts_by_hand():
    # tp 3, fp 1, tn 4, fn 2: accuracy 7/10, precision 3/4, recall 3/5, F1 6/9, yes rate 4/10
    scores = pope.score(np.array([3, 1, 4, 2]))
    expected = {"accuracy": 70, "f1": 100 * 6 / 9, "precision": 75, "recall": 60, "yes_rate": 40}
    assert set(scores) == set(pope.METRICS)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value)


def test_rates_without_a_case_are_zero():
    scores = pope.score(np.array([[0, 0, 5, 0], [0, 0, 0, 0]]))
    assert scores["precision"].tolist() == [0, 0]
    assert scores["f1"].tolist() == [0, 0]
    assert scores["accuracy"].tolist() == [100, 0]


def test_confusion_has_yes_as_positive_class():
    assert pope.confusion("Yes", "yes") == (1, 0, 0, 0)
    assert pope.confusion("Yes", "no") == (0, 1, 0, 0)
    assert pope.confusion("No", "no") == (0, 0, 1, 0)
    assert pope.confusion("No", "yes") == (0, 0, 0, 1)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_reads_the_official_format(tmp_path):
    row = {
        "question_id": 1,
        "image": "COCO_val2014_000000310196.jpg",
        "text": "Is there a snowboard in the image?",
        "label": "yes",
    }
    path = write(tmp_path / "coco_pope_random.json", [row, {**row, "question_id": 2, "label": "no"}])
    items = pope.read_file(path)
    assert [(item.question_id, item.label) for item in items] == [("1", "yes"), ("2", "no")]
    assert items[0].image == "COCO_val2014_000000310196.jpg"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label": "Yes"}, "line 2: label 'Yes'"), ({"question_id": 1}, "repeat"), ({"text": ...}, "line 2: needs")],
)
def test_malformed_files_are_refused_by_line(tmp_path, change, message):
    row = {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "yes"}
    second = {key: value for key, value in ({**row, "question_id": 2} | change).items() if value is not ...}
    with pytest.raises(pope.PopeError, match=message):
        pope.read_file(write(tmp_path / "p.json", [row, second]))
    with pytest.raises(pope.PopeError, match="no POPE file"):
        pope.read_file(tmp_path / "missing.json")


def labels(tmp_path, random_questions=2):
    for split, size in {"random": random_questions, "popular": 2, "adversarial": 2}.items():
        row = {"image": "COCO_val2014_000000000007.jpg", "text": "Is there a dog in the image?"}
        rows = [{"question_id": number + 1, "label": ("yes", "no")[number % 2], **row} for number in range(size)]
        write(tmp_path / f"coco_pope_{split}.json", rows)
    return tmp_path


def test_questions_of_a_folder_and_of_a_file(tmp_path):
    questions = pope.read(labels(tmp_path), LLAVA15)
    assert [question.id for question in questions[:3]] == ["random-1", "random-2", "popular-1"]
    assert questions[0].prompt == "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    assert questions[0].image_id == pope.unit(questions[0]) == "COCO_val2014_000000000007"
    assert pope.tally(questions[:2], ["Yes, there is a dog.", "no"]) == (1, 0, 1, 0)
    assert [question.split for question in pope.read(tmp_path / "coco_pope_popular.json", LLAVA15)] == ["popular"] * 2
    (tmp_path / "coco_pope_popular.json").unlink()
    with pytest.raises(pope.PopeError, match=r"no coco_pope_popular.json.*github.com/RUCAIBox"):
        pope.read(tmp_path, LLAVA15)


def test_labels_of_other_images_are_refused(tmp_path):
    (labels(tmp_path) / "val2014").mkdir()
    (tmp_path / "val2014" / "COCO_val2014_000000000008.jpg").touch()
    with pytest.raises(pope.PopeError, match=r"1 images that are not in .*val2014, as COCO_val2014_000000000007.jpg"):
        pope.read(tmp_path, LLAVA15)
    (tmp_path / "val2014" / "COCO_val2014_000000000007.jpg").touch()
    assert len(pope.read(tmp_path, LLAVA15)) == 6


def test_answers_say_their_split(tmp_path):
    (tmp_path / "all.jsonl").write_text(
        '{"question_id": 1, "category": "random", "text": "Yes"}\n{"question_id": "popular-1", "answer": "no"}\n'
    )
    assert pope.read_answers(tmp_path / "all.jsonl") == {"random-1": "Yes", "popular-1": "no"}
    (tmp_path / "parts").mkdir()
    for split in pope.SPLITS:
        (tmp_path / "parts" / f"{split}.jsonl").write_text('{"question_id": 1, "text": "Yes"}\n')
    assert sorted(pope.read_answers(tmp_path / "parts")) == ["adversarial-1", "popular-1", "random-1"]
    (tmp_path / "all.jsonl").write_text('{"question_id": 1, "text": "Yes"}\n')
    with pytest.raises(BenchmarkError, match="its name must hold one of random"):
        pope.read_answers(tmp_path / "all.jsonl")
    (tmp_path / "random.jsonl").write_text('{"answer": "Yes"}\n')
    with pytest.raises(pope.PopeError, match="a shift would go unnoticed"):
        pope.read_answers(tmp_path / "random.jsonl")


def test_official_answers_in_order_must_be_to_the_same_questions(tmp_path):
    questions = pope.read(labels(tmp_path) / "coco_pope_random.json", LLAVA15)
    path = tmp_path / "my_random.jsonl"
    rows = [
        {"question": "is there a dog in the image?", "answer": "Yes"},
        {"question": "Is there a dog in the image?", "answer": "no"},
    ]
    write(path, rows)
    assert pope.read_answers(path) == {"random-1": "Yes", "random-2": "no"}
    pope.check_answers(path, questions)
    write(path, [rows[0], {"question": "Is there a cat in the image?", "answer": "no"}])
    with pytest.raises(pope.PopeError, match=r"line 2: answers 'Is there a cat in the image\?', but the label of random-2"):
        pope.check_answers(path, questions)
    write(path, [{"question_id": 1, "image": "COCO_val2014_000000000009.jpg", "text": "no"}])
    with pytest.raises(pope.PopeError, match=r"about COCO_val2014_000000000009.jpg, but"):
        pope.check_answers(path, questions)
    write(path, [{"question_id": 1, "prompt": questions[0].prompt, "text": "no"}])  # as LLaVA writes them
    pope.check_answers(path, questions)


def test_the_mean_over_the_three_files():
    figures = dict.fromkeys(pope.METRICS, 50.0)
    scores = {"random": figures | {"f1": 80.0}, "popular": figures | {"f1": 70.0}, "adversarial": figures | {"f1": 60.0}}
    assert pope.summary(scores) == figures | {"f1": 70}
    assert pope.summary({"random": figures}) == {}


@pytest.mark.parametrize("labelled", [True, False])
def test_the_questions_are_no_answers(tmp_path, labelled):
    rows = [json.loads(line) for line in (labels(tmp_path) / "coco_pope_random.json").read_text().splitlines()]
    kept = [{name: entry for name, entry in row.items() if labelled or name != "label"} for row in rows]
    path = write(tmp_path / "my_random.json", kept)
    with pytest.raises(pope.PopeError, match="line 1: has a label" if labelled else "every response is the question itself"):
        score_files("pope", path, tmp_path / "coco_pope_random.json")
    write(path, [{"question_id": 1, "text": "Is there a dog in the image?"}, {"question_id": 2, "text": "no"}])
    assert score_files("pope", path, tmp_path / "coco_pope_random.json")["splits"]["random"]["accuracy"] == 100  # one echo
    write(path, [row | {"answer": "no"} for row in kept])
    with pytest.raises(BenchmarkError, match="line 1: has a label" if labelled else "text and answer could each"):
        pope.read_answers(path)
