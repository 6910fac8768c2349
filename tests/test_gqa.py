import json

import pytest

from lookagain.metrics import gqa
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError


def folder(tmp_path):
    rows = {"201307251": {"imageId": "n161313", "question": "Is it overcast?", "answer": "no", "isBalanced": True}}
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(rows))
    return tmp_path


@pytest.mark.parametrize(
    ("response", "right"),
    [("no", 1), ("NO", 1), ("No.", 1), ("no...", 1), (" no\n", 1), ("no, it is not", 0), ("yes", 0), ("", 0), (".no", 0)],
)
def test_exact_match_by_the_official_rule(tmp_path, response, right):
    (question,) = gqa.read(folder(tmp_path), LLAVA15)
    assert question.prompt == "Is it overcast?\nAnswer the question using a single word or phrase."
    assert gqa.tally([question], [response]) == (1, right, int(not response))


def test_answers_in_both_formats(tmp_path):
    (tmp_path / "a.json").write_text('[{"questionId": "201307251", "prediction": "no"}]')
    (tmp_path / "a.jsonl").write_text('{"question_id": "201307251", "text": "No."}\n')
    assert gqa.read_answers(tmp_path / "a.json") == {"201307251": "no"}
    assert gqa.read_answers(tmp_path / "a.jsonl") == {"201307251": "No."}
    (tmp_path / "testdev_balanced_questions.json").write_text("[]")
    with pytest.raises(BenchmarkError, match="object of questions by id"):
        gqa.read(tmp_path, LLAVA15)
