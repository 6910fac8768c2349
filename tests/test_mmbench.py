import base64

import numpy as np
import pytest

from lookagain.metrics import mmbench, mmbench_cn
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError

HEADER = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsource\tl2-category\tcomment\tsplit"
PICTURE = base64.b64encode(b"jpeg").decode()


def row(index, options, answer, hint="", image=PICTURE, ability="finegrained_perception (instance-level)"):
    return "\t".join([str(index), "What is it?", hint, *options, answer, "x", image, "s", ability, "", "dev"])


def table(tmp_path, *rows, name="mmbench_dev_20230712.tsv"):
    (tmp_path / name).write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return tmp_path


ROWS = [
    row(7, ["cat", "dog", "", ""], "A"),
    row(1000007, ["dog", "cat", "", ""], "B", image="7"),
    row(8, ["a", "b", "c", "d"], "D", hint="Look well."),
]


def test_reads_the_official_table(tmp_path):
    first, turned, hinted = mmbench.read(table(tmp_path, *ROWS), LLAVA15)
    assert first.prompt == "What is it?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    assert hinted.prompt.startswith("Look well.\nWhat is it?\nA. a\nB. b\nC. c\nD. d\n")
    assert first.split == "finegrained_perception_(instance-level)"
    assert [mmbench.unit(question) for question in (first, turned, hinted)] == ["7", "7", "8"]
    assert {question.image_id for question in (first, turned)} == {"7"}
    assert mmbench.images(tmp_path / "mmbench_dev_20230712.tsv") == {"7": b"jpeg", "8": b"jpeg"}


def test_the_chinese_table_has_its_own_file_and_suffix(tmp_path):
    table(tmp_path, ROWS[2], name="mmbench_dev_cn_20231003.tsv")
    (question,) = mmbench_cn.read(tmp_path, LLAVA15)
    assert question.prompt.endswith("\nD. d\n请直接回答选项字母。")
    assert question.benchmark == "mmbench_cn"
    with pytest.raises(BenchmarkError, match=r"none of mmbench_dev_20230712.tsv"):
        mmbench.read(tmp_path, LLAVA15)


def test_every_rotation_must_be_right(tmp_path):
    first, turned, hinted = mmbench.read(table(tmp_path, *ROWS), LLAVA15)
    # columns: questions, all rotations right, first rotations, right ones of them, failed answers
    assert mmbench.tally([first, turned], ["A", "B"]) == (1, 1, 1, 1, 0)
    assert mmbench.tally([first, turned], ["A", "A"]) == (1, 0, 1, 1, 0)
    assert mmbench.tally([first, turned], ["cat", "It is a cat."]) == (1, 1, 1, 1, 0)  # the option's text
    assert mmbench.tally([first, turned], ["", "a bird"]) == (1, 0, 1, 0, 2)
    assert mmbench.tally([hinted], ["A or D"]) == (1, 0, 1, 0, 1)
    scores = mmbench.score(np.array([4, 1, 4, 2, 3]))
    assert scores == {"accuracy": 25, "vanilla": 50, "unparsed": 3, "n": 4}


def test_overall_counts_questions_of_all_abilities():
    one = {"accuracy": 100.0, "vanilla": 100.0, "unparsed": 0.0, "n": 1.0}
    three = {"accuracy": 0.0, "vanilla": 50.0, "unparsed": 2.0, "n": 3.0}
    assert mmbench.summary({"a": one, "b": three}) == {"accuracy": 25, "vanilla": 62.5, "unparsed": 2, "n": 4}


def test_answers_are_json_lines_or_a_table(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question_id": 7, "text": "A"}\n')
    (tmp_path / "a.tsv").write_text("index\tprediction\n7\tA\n")
    assert mmbench.read_answers(tmp_path / "a.jsonl") == mmbench.read_answers(tmp_path / "a.tsv") == {"7": "A"}


def test_malformed_tables_are_refused(tmp_path):
    with pytest.raises(BenchmarkError, match="line 2: index '7' and answer ''"):
        mmbench.read(table(tmp_path, row(7, ["a", "b", "", ""], "")), LLAVA15)
    with pytest.raises(BenchmarkError, match="indices repeat, as 7"):
        mmbench.read(table(tmp_path, ROWS[0], ROWS[0]), LLAVA15)
    (tmp_path / "mmbench_dev_20230712.tsv").write_text("index\tname\n1\tx\n")
    with pytest.raises(BenchmarkError, match="lacks question"):
        mmbench.read(tmp_path, LLAVA15)
