import json

import pytest

from lookagain.metrics import mathvista
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError
from lookagain.metrics.score import score_files

CHOICES = {"question_type": "multi_choice", "answer_type": "text", "choices": ["27", "35", "65 cm"], "precision": None}
INTEGER = {"question_type": "free_form", "answer_type": "integer", "choices": None, "precision": None}
FLOAT = {"question_type": "free_form", "answer_type": "float", "choices": None, "precision": 1.0}
LIST = {"question_type": "free_form", "answer_type": "list", "choices": None, "precision": None}


@pytest.mark.parametrize(
    ("response", "reference", "extraction", "answer"),
    [
        ("27", CHOICES, "27", "27"),  # a choice's own text
        ("B", CHOICES, "B", "35"),
        ("(b)", CHOICES, "B", "35"),
        ("B. 35", CHOICES, "B", "35"),
        ("B) as it is", CHOICES, "B", "35"),
        ("So it must be (C).", CHOICES, "C", "65 cm"),
        ('The answer is "65cm".', CHOICES, "65cm", "65 cm"),  # nearest choice
        ('The answer is "25".', CHOICES, "25", "27"),  # a tie: the first
        ("(A) or (B)", CHOICES, "", None),
        ("A cat is shown", CHOICES, "", None),
        ("D", CHOICES, "", None),
        ("It is 27 degrees", CHOICES, "", None),  # for a judge
        ("", CHOICES, "", None),  # officially the shortest choice
        ("5", INTEGER, "5", "5"),
        (" 5\n", INTEGER, "5", "5"),
        ("5.", INTEGER, "5", "5"),
        ("5.7", INTEGER, "5.7", "5"),  # officially cut, not rounded
        ("1,000", INTEGER, "1000", "1000"),
        ("-1,234,567.", INTEGER, "-1234567", "-1234567"),
        ("3,4", INTEGER, "", None),  # not 34
        ("1,0000", INTEGER, "", None),
        ("1,234.5", FLOAT, "1234.5", "1234.5"),
        ('The answer is "8".', INTEGER, "8", "8"),
        ('The answer is "eight".', INTEGER, "eight", None),
        ("five", INTEGER, "", None),
        ("There are 5.", INTEGER, "", None),
        ("", INTEGER, "", None),
        ("1.25", FLOAT, "1.25", "1.2"),
        ("2", FLOAT, "2", "2.0"),
        ("5%", FLOAT, "", None),
        ("[1, 2]", LIST, "[1, 2]", "[1, 2]"),
        ("1, 2", LIST, "", None),
    ],
)
def test_extraction_and_its_type_by_hand(response, reference, extraction, answer):
    assert mathvista.extract(response, reference) == extraction
    if extraction:
        assert mathvista.normalise(extraction, reference) == answer


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
)
def test_edit_distance(first, second, distance):
    assert mathvista.edit_distance(first, second) == mathvista.edit_distance(second, first) == distance


def problem(reference, answer, **changes):
    fields = {
        "question": "How many?",
        "image": "images/3.jpg",
        "unit": None,
        "answer": answer,
        "metadata": {"task": "math word problem"},
    }
    return reference | fields | changes


def test_reads_testmini_and_builds_queries(tmp_path):
    problems = {
        "1": problem(INTEGER, "5", unit="cm"),
        "2": problem(CHOICES, "35"),
        "3": problem(FLOAT, "1.2", query="Hint: as published"),
    }
    (tmp_path / "testmini.json").write_text(json.dumps(problems))
    first, second, third = questions = mathvista.read(tmp_path, LLAVA15)
    assert first.split == "math_word_problem"
    assert first.prompt == (
        "Hint: Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end."
        "\nQuestion: How many? (Unit: cm)"
    )
    assert second.prompt.endswith("\nQuestion: How many?\nChoices:\n(A) 27\n(B) 35\n(C) 65 cm")
    assert third.prompt == "Hint: as published"
    assert mathvista.tally(questions, ["5", "B", "1.2"]) == (3, 3, 0)
    assert mathvista.tally(questions, ["6", "", "about 1.2"]) == (3, 0, 2)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        (problem(CHOICES, "35", choices=None), "choices"),
        (problem(FLOAT, "1.2", precision=None), "precision"),
        (problem(INTEGER, None), "answer"),
    ],
)
def test_a_problem_has_what_its_kind_needs(tmp_path, row, named):
    (tmp_path / "testmini.json").write_text(json.dumps({"1": row}))
    with pytest.raises(BenchmarkError, match=f"problem 1: {named} = None is not as published"):
        mathvista.read(tmp_path, LLAVA15)


def test_answers_with_and_without_extractions(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"1": {"response": "I count five."}, "2": {"response": "It is long.", "extraction": "B"}}))
    responses = mathvista.read_answers(path)
    assert responses["1"] == "I count five."
    assert mathvista.extract(responses["2"], CHOICES) == "B"
    (tmp_path / "answers.jsonl").write_text('{"pid": 1, "response": "5"}\n')
    assert mathvista.read_answers(tmp_path / "answers.jsonl") == {"1": "5"}
    path.write_text('{"1": {"response": "5"}, "1": {"response": "6"}}')
    with pytest.raises(BenchmarkError, match="id '1' repeats"):
        mathvista.read_answers(path)


def test_official_answer_rows_hold_the_problem_and_its_answer_is_not_the_models(tmp_path):
    problems = {"1": problem(INTEGER, "5"), "2": problem(CHOICES, "35")}
    (tmp_path / "testmini.json").write_text(json.dumps(problems))
    said = {"1": {"response": "4"}, "2": {"response": "(B)"}}
    rows = {pid: {"pid": pid, **row, "query": "Hint: ...", **said[pid]} for pid, row in problems.items()}
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows.values())))
    for name in ("answers.json", "answers.jsonl"):
        found = score_files("mathvista", tmp_path / name, tmp_path)
        assert found["summary"]["accuracy"] == 50  # 4 is wrong, (B) is 35
    del rows["2"]["response"]
    rows["2"]["error"] = "CUDA out of memory"
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    with pytest.raises(BenchmarkError, match="problem 2: needs response"):
        mathvista.read_answers(tmp_path / "answers.json")
