import json

import pytest

from lookagain.metrics import textvqa, vizwiz, vqa
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError, PromptPreset


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("", ""),
        ("The", ""),
        ("A dog", "dog"),
        ("NO", "no"),
        ("Yes, there is a dog.", "yes there is dog"),
        ("1,000", "1000"),  # commas go first
        ("1, 2", "1 2"),
        ("5%", "5%"),  # no punctuation of the list
        ("5.", "5"),
        ("1.5", "1.5"),
        (".5", ".5"),
        ("U.S.A.", "usa"),
        ("7.00 a.m.", "7.00 am"),
        ("one", "1"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("none", "0"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # without both apostrophes it is in no list
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),  # the list's "Im" never matches lower case
        ("dog's", "dog 's"),
        ("red-white", "red white"),
        ("red - white", "red white"),  # beside a blank: the mark vanishes, two blanks are one
        ("red-white -", "redwhite"),  # beside a blank once: it vanishes everywhere
        ("what?", "what"),
        ("a\nb\tc", "b c"),
        ("(5)", "5"),
        ("." * 40, "." * 8),  # 32 periods at most
    ],
)
def test_normalisation_by_the_official_rule(answer, normal):
    assert vqa.normalise(answer) == normal


@pytest.mark.parametrize(("matches", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_score_by_hand(matches, score):
    # 3 of 10: left out are 3 matches, 2/3 each, and 7 others, 1 each: (2 + 7) / 10
    answers = ["Yes."] * matches + [f"other {number}" for number in range(10 - matches)]
    assert vqa.soft_score("yes", answers) == pytest.approx(score)


def test_a_blank_answer_matches_blank_ones_alone():
    assert vqa.soft_score("", ["dog"] * 10) == 0
    assert vqa.soft_score("", ["the"] * 10) == 1  # normalised to nothing, officially


def textvqa_folder(tmp_path, answers=10):
    row = {"question": "what brand?", "image_id": "0f", "question_id": 34602, "answers": ["nokia"] * answers}
    (tmp_path / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [row]}))
    tokens = {"data": [{"image_id": "0f", "ocr_tokens": ["NOKIA", "2"]}]}
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").write_text(json.dumps(tokens))
    return tmp_path


def test_textvqa_reads_the_official_files(tmp_path):
    (question,) = textvqa.read(textvqa_folder(tmp_path), LLAVA15)
    assert question.id == "34602"
    assert question.image_id == "0f"
    assert question.prompt == ("what brand?\nReference OCR token: NOKIA, 2\nAnswer the question using a single word or phrase.")
    assert textvqa.tally([question], ["Nokia"]) == (1, 1, 0)
    assert textvqa.tally([question], [" "]) == (1, 0, 1)
    assert textvqa.summary({"val": {"accuracy": 1.0}}) == {}


def test_ocr_tokens_are_read_for_prompts_that_show_them_only(tmp_path):
    textvqa_folder(tmp_path)
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    with pytest.raises(BenchmarkError, match=r"TextVQA_Rosetta.*textvqa.org"):
        textvqa.read(tmp_path, LLAVA15)
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").write_text('{"data": [{"image_id": "other", "ocr_tokens": ["x"]}]}')
    with pytest.raises(BenchmarkError, match="OCR tokens are of other images"):
        textvqa.read(tmp_path, LLAVA15)
    plain = PromptPreset(" S", " L", " C", " K", " U", "")
    assert textvqa.read(tmp_path, plain)[0].prompt == "what brand? S"


def test_a_question_needs_ten_answers(tmp_path):
    with pytest.raises(BenchmarkError, match="entry 1: 9 human answers"):
        textvqa.read(textvqa_folder(tmp_path, answers=9), LLAVA15)


def test_vizwiz_by_hand(tmp_path):
    answers = [{"answer": "unanswerable", "answer_confidence": "yes"}] * 7 + [{"answer": "soup", "answer_confidence": "no"}] * 3
    row = {"image": "VizWiz_val_00000001.jpg", "question": "What is it?", "answers": answers, "answer_type": "yes/no"}
    (tmp_path / "val.json").write_text(json.dumps([row]))
    (question,) = vizwiz.read(tmp_path, LLAVA15)
    assert (question.id, question.image_id, question.split) == ("VizWiz_val_00000001.jpg", "VizWiz_val_00000001", "yes_no")
    assert question.prompt == (
        "What is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'."
        "\nAnswer the question using a single word or phrase."
    )
    assert vizwiz.score_answer(question, "Unanswerable") == 1
    assert vizwiz.score_answer(question, "the soup.") == pytest.approx(0.9)
    (tmp_path / "answers.json").write_text(json.dumps([{"image": "VizWiz_val_00000001.jpg", "answer": "soup"}]))
    assert vizwiz.read_answers(tmp_path / "answers.json") == {"VizWiz_val_00000001.jpg": "soup"}


def test_the_test_split_of_vizwiz_is_refused(tmp_path):
    (tmp_path / "val.json").write_text(json.dumps([{"image": "a.jpg", "question": "What?", "answer_type": "other"}]))
    with pytest.raises(BenchmarkError, match="0 human answers"):
        vizwiz.read(tmp_path, LLAVA15)
