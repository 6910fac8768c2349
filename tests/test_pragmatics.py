import json

import numpy as np
import pytest

from lookagain.metrics import pragmatics
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError

CAPTIONS = ["A mug on a table", "A mug under a table", "A mug left of a table", "A mug right of a table"]


def write(tmp_path, name, rows):
    (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    return tmp_path


def controlled(tmp_path):
    images = ["data/controlled_images/mug_on_table.jpeg", "data/controlled_images/mug_under_table.jpeg"]
    rows = [
        {"image_path": images[0], "caption_options": CAPTIONS},
        {"image_path": images[1], "caption_options": [CAPTIONS[1], CAPTIONS[0], *CAPTIONS[2:]]},
    ]
    return write(tmp_path, "controlled_images_dataset", rows)


def test_each_item_is_ranked_and_asked(tmp_path):
    ranked, asked, *_ = pragmatics.read(controlled(tmp_path), LLAVA15)
    assert (ranked.split, asked.split) == ("spatial_contrastive", "spatial")
    assert json.loads(ranked.reference)["options"] == CAPTIONS
    letters = json.loads(asked.reference)
    assert letters["options"][letters["answer"]] == CAPTIONS[0]
    assert sorted(letters["options"].values()) == sorted(CAPTIONS)
    assert asked.prompt.startswith("Which caption describes the image?\nA. ")
    assert pragmatics.score_answer(asked, letters["answer"] + ".") == 1
    assert pragmatics.score_answer(asked, CAPTIONS[0]) == 1  # the option's text
    assert pragmatics.score_answer(asked, CAPTIONS[1]) == 0
    assert pragmatics.tally([asked], [""]) == (1, 0, 1, 1, 0)


def test_the_right_option_is_not_always_shown_first(tmp_path):
    rows = [{"image_path": f"{number}.jpg", "caption_options": CAPTIONS} for number in range(40)]
    questions = pragmatics.read(write(tmp_path, "negation", rows), LLAVA15)
    answers = [json.loads(question.reference)["answer"] for question in questions if question.split == "negation"]
    assert set(answers) == {"A", "B", "C", "D"}


@pytest.mark.parametrize(
    ("scores", "right"),
    [([4, 3, 2, 1], 1), ([0.1, 0.3, 0, 0], 0), ([1, 1, 0, 0], 0), ([0, 0, 0, 0], 0), ([-1, -2, -3, -4], 1)],
)
def test_the_right_option_must_score_highest_alone(tmp_path, scores, right):
    ranked = pragmatics.read(controlled(tmp_path), LLAVA15)[0]
    assert pragmatics.score_answer(ranked, json.dumps(scores)) == right


def test_a_set_wants_all_its_images_right(tmp_path):
    first, _, second, _ = pragmatics.read(controlled(tmp_path), LLAVA15)
    assert pragmatics.unit(first) == pragmatics.unit(second)
    counts = pragmatics.tally([first, second], ["[1, 0, 0, 0]", "[0, 1, 0, 0]"])
    assert counts == (2, 1, 0, 1, 0)
    scores = pragmatics.score(np.array(counts))
    assert scores == {"accuracy": 50, "set_accuracy": 0, "unparsed": 0, "n": 2}


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("3", 3),
        ("three", 3),
        ("There are 3 dogs.", 3),
        ("3 (three)", 3),
        ("10", 10),
        ("3 or 4", None),
        ("1", None),
        ("11", None),
        ("3.5", None),
        ("1,000", None),
        ("3rd", None),
        ("many", None),
        ("", None),
    ],
)
def test_one_number_from_2_to_10(response, number):
    assert pragmatics.parse_number(response) == number


def test_counting_asks_for_a_number(tmp_path):
    row = {"image_path": "a/7.jpg", "caption_options": ["three dogs", "four dogs"], "question": "How many dogs?", "answer": 3}
    _, asked = pragmatics.read(write(tmp_path, "counting", [row]), LLAVA15)
    assert asked.prompt == "How many dogs?\nAnswer with the number only, from 2-10."
    assert asked.image_id == "7"
    assert pragmatics.tally([asked], ["Three."]) == (1, 1, 0, 1, 1)
    assert pragmatics.tally([asked], ["a lot"]) == (1, 0, 1, 1, 0)
    with pytest.raises(BenchmarkError, match="answer 11 must be"):
        pragmatics.read(write(tmp_path, "counting", [row | {"answer": 11}]), LLAVA15)


def test_pairs_of_captions_and_answers(tmp_path):
    rows = [[139, "A photo of a tv to the left of a chair", "A photo of a tv to the right of a chair"]]
    ranked, _ = pragmatics.read(write(tmp_path, "coco_qa_two_obj", rows), LLAVA15)
    assert (ranked.id, ranked.image_id) == ("coco_qa_two_obj-0_contrastive", "000000000139")  # COCO's file name
    assert pragmatics.read(write(tmp_path, "vg_qa_two_obj", rows), LLAVA15)[-1].image_id == "139"  # Visual Genome's
    (tmp_path / "answers.jsonl").write_text('{"question_id": "coco_qa_two_obj-0_contrastive", "scores": [0.5, 0.25]}\n')
    assert pragmatics.score_answer(ranked, pragmatics.read_answers(tmp_path / "answers.jsonl")[ranked.id]) == 1
    for wrong in ("A", "[NaN, 0.25]", "[0.5, NaN]", "[Infinity, 0]", "[1]"):
        with pytest.raises(BenchmarkError, match="JSON list of 2 scores, one finite number for each"):
            pragmatics.score_answer(ranked, wrong)


def test_malformed_files_are_refused(tmp_path):
    with pytest.raises(BenchmarkError, match=r"needs one of controlled_images_dataset.json"):
        pragmatics.read(tmp_path, LLAVA15)
    with pytest.raises(BenchmarkError, match="entry 1: caption_options"):
        pragmatics.read(write(tmp_path, "temporal", [{"image_path": "a.jpg", "caption_options": ["a", "a"]}]), LLAVA15)
