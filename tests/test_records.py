import json

import pytest

from lookagain.records import (
    Conversation,
    Metric,
    Pair,
    Provenance,
    RecordError,
    Turn,
    atomic_write,
    read_metrics,
    read_records,
    write_metrics,
    write_records,
)

HOW = Provenance("Describe.", {"name": "low_resolution", "size": 14}, {"temperature": 0.2}, 1, 2.5)
PAIR = Pair("p1", "i1", "stic", "Describe.", "A dog.", ["A cat.", "Ein Hühnchen."], HOW, [HOW, HOW])


def test_pairs_round_trip(tmp_path):
    assert write_records(tmp_path / "pairs.jsonl", [PAIR, PAIR]) == 2
    assert read_records(tmp_path / "pairs.jsonl", Pair) == [PAIR, PAIR]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rejected": "A cat."}, "rejected must be a list"),
        ({"chosen": 3}, "chosen = 3 must be str"),
        ({"colour": "red"}, "unknown fields"),
        ({"rejected": ["A cat."]}, "1 rejected, 2 provenances"),
        ({"chosen_provenance": {"prompt": "x"}}, "missing fields"),
    ],
)
def test_a_bad_line_is_named(tmp_path, change, reason):
    file = tmp_path / "pairs.jsonl"
    write_records(file, [PAIR])
    raw = json.loads(file.read_text())
    file.write_text(file.read_text() + json.dumps(raw | change) + "\n")
    with pytest.raises(RecordError, match=reason) as error:
        read_records(file, Pair)
    assert "line 2" in str(error.value)


def test_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(RecordError, match="dvc repro"):
        read_records(tmp_path / "none.jsonl", Pair)


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("old")

    def fail():
        with atomic_write(file) as out:
            out.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_metrics_are_numbers_or_null_with_a_reason(tmp_path):
    metrics = {"pope/random/f1": Metric(90.0, 0.5, 1000), "x/y/z": Metric(None, reason="not run")}
    write_metrics(tmp_path / "m.json", metrics)
    assert read_metrics(tmp_path / "m.json") == metrics
    assert json.loads((tmp_path / "m.json").read_text())["x/y/z"] == {"value": None, "reason": "not run"}
    for bad in (Metric(None), Metric(1.0, reason="both")):
        with pytest.raises(RecordError, match="either a value or a reason"):
            write_metrics(tmp_path / "m.json", {"x": bad})


def test_a_text_may_hold_any_line_break(tmp_path):
    records = [Conversation("c", "i", [Turn("a\u2028b\x85c\r\n", "d\x1ce")]), Conversation("d", "i", [])]
    write_records(tmp_path / "x.jsonl", records)
    assert read_records(tmp_path / "x.jsonl", Conversation) == records
