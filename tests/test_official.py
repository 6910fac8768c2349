import pytest

from lookagain.metrics import official
from lookagain.metrics.benchmark import BenchmarkError


def write(tmp_path, text, name="answers.jsonl"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


@pytest.mark.parametrize(
    "text",
    [
        '{"question_id": 1, "text": "a\u2028b"}\n\n{"question_id": "2", "text": ""}\n',
        '[{"questionId": 1, "prediction": "a\u2028b"}, {"id": 2, "answer": ""}]',
        '\ufeff{"question_id": 1, "response": "a\u2028b"}\r\n{"question_id": 2, "output": ""}',
    ],
)
def test_json_lines_and_lists(tmp_path, text):
    assert official.read_answers(write(tmp_path, text)) == {"1": "a\u2028b", "2": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question_id": 1, "text": "a"}\n{"question_id": 2, "text"', "line 2 is not JSON"),
        ('{"question_id": 1, "text": "a"}\n[1]\n', "line 2: expected an object"),
        ('[{"question_id": 1, "text": "a"}, 5]', "entry 2: expected an object"),
        ('[{"question_id": 1, "text": "a"}', "not a JSON list"),
        ('{"question_id": 1, "text": "a"}\n{"question_id": "1", "text": "b"}', "line 2: id '1' repeats"),
        ('{"question_id": 1}', "line 1: needs text or answer or .*, has question_id"),
        ('{"text": "a"}', "line 1: needs question_id"),
        ('{"question_id": 1, "text": null}', "line 1: text = 'None' must be text"),
        ('{"question_id": 1, "text": ["a"]}', "must be text"),
        ("\n", "is empty"),
    ],
)
def test_malformed_answers_are_refused_by_line(tmp_path, text, message):
    with pytest.raises(BenchmarkError, match=message):
        official.read_answers(write(tmp_path, text))


def test_a_missing_file_says_where_it_is_offered(tmp_path):
    with pytest.raises(BenchmarkError, match=r"none of a.json, b.json in .*: get it from https://x"):
        official.find(tmp_path, ("a.json", "b.json"), "https://x")
    with pytest.raises(BenchmarkError, match="no such folder"):
        official.find(tmp_path / "none", ("a.json",), "https://x")
    assert official.find(write(tmp_path, "", "b.json"), ("a.json",), "https://x") == tmp_path / "b.json"
    with pytest.raises(BenchmarkError, match=r"b.json is not JSON .*https://x"):
        official.read_json(tmp_path / "b.json", "https://x")
    with pytest.raises(BenchmarkError, match="no file"):
        official.read_answers(tmp_path / "none.jsonl")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "answers.jsonl").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(BenchmarkError, match=r"answers.jsonl is no UTF-8 text"):
        official.read_answers(tmp_path / "answers.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question_id": 1, "answer": "gold", "prediction": "no"}', "answer and prediction could each be the response"),
        ('{"question_id": 1, "text": "Is it?", "answer": "no"}', "text and answer could each"),
    ],
)
def test_a_row_with_two_possible_responses_is_refused(tmp_path, row, message):
    with pytest.raises(BenchmarkError, match=f"line 1: {message}"):
        official.read_answers(write(tmp_path, row))


def test_the_rows_of_llavas_scripts_are_read(tmp_path):
    row = '{"question_id": 1, "prompt": "Is it?", "text": "no", "answer_id": "x", "model_id": "m", "metadata": {}}'
    assert official.read_answers(write(tmp_path, row)) == {"1": "no"}


def test_a_folder_is_named_as_such(tmp_path):
    with pytest.raises(BenchmarkError, match="is a folder: give one file"):
        official.read_answers(tmp_path)
