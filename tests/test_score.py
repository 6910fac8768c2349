import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lookagain.errors import UserError
from lookagain.metrics import score
from lookagain.metrics.benchmark import Benchmark, BenchmarkError

ROOT = Path(__file__).parent.parent
NAMES = [name for name in vars(Benchmark) if not name.startswith("_")] + list(Benchmark.__annotations__)


@pytest.mark.parametrize("name", score.BENCHMARKS)
def test_every_benchmark_offers_what_the_protocol_names(name):
    module = importlib.import_module(score.BENCHMARKS[name])
    assert not [attribute for attribute in NAMES if not hasattr(module, attribute)]
    assert name == module.NAME
    assert module.SOURCE.startswith("https://")
    assert module.summary({}) == {}


def pope_files(folder, answers="Yes", left_out=0):
    for split in ("random", "popular", "adversarial"):
        rows = [
            {
                "question_id": number,
                "image": "a.jpg",
                "text": "Is there a dog in the image?",
                "label": ("yes", "no")[number % 2],
            }
            for number in range(1, 5)
        ]
        (folder / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, rows)))
    ids = [f"{split}-{number}" for split in ("random", "popular", "adversarial") for number in range(1, 5)]
    lines = [json.dumps({"question_id": identity, "text": answers}) for identity in ids[left_out:]]
    (folder / "answers.jsonl").write_text("\n".join(lines))
    return folder / "answers.jsonl"


def test_scores_of_each_split_and_their_summary(tmp_path):
    found = score.score_files("pope", pope_files(tmp_path), tmp_path)
    assert (found["n"], found["missing"], found["extra"], found["empty"], found["unparsed"]) == (12, 0, 0, 0, None)
    always_yes = {"accuracy": 50, "f1": 66.6667, "precision": 50, "recall": 100, "yes_rate": 100}
    assert found["splits"] == dict.fromkeys(("random", "popular", "adversarial"), always_yes)
    assert found["summary"] == always_yes


def test_one_file_of_answers_to_one_file_of_questions(tmp_path):
    pope_files(tmp_path)
    rows = [json.dumps({"question_id": number, "text": "No"}) for number in range(1, 5)]
    (tmp_path / "my_popular.jsonl").write_text("\n".join(rows))
    found = score.score_files("pope", tmp_path / "my_popular.jsonl", tmp_path / "coco_pope_popular.json")
    assert (found["n"], found["splits"]["popular"]["yes_rate"], found["summary"]) == (4, 0, {})


def test_ids_that_do_not_match_are_named(tmp_path):
    answers = pope_files(tmp_path, left_out=2)
    with pytest.raises(BenchmarkError, match=r"2 of 12 questions have no answer, as random-1, random-2.*one version"):
        score.score_files("pope", answers, tmp_path)
    with answers.open("a") as file:
        file.write('\n{"question_id": "random-2910", "text": "No"}')
    with pytest.raises(BenchmarkError, match=r"1 answers are to no question of .*, as random-2910"):
        score.score_files("pope", answers, tmp_path)


def test_answers_to_other_questions_are_refused(tmp_path):
    answers = pope_files(tmp_path)
    lines = [json.loads(line) | {"image": "b.jpg"} for line in answers.read_text().splitlines()]
    answers.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(BenchmarkError, match=r"line 1: is about b.jpg, but the label of random-1 about a"):
        score.score_files("pope", answers, tmp_path)


def test_blank_and_unparsed_answers_are_counted(tmp_path):
    rows = {str(number): {"imageId": "n1", "question": "Is it?", "answer": "yes"} for number in range(3)}
    (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(rows))
    answers = [
        {"questionId": "0", "prediction": ""},
        {"questionId": "1", "prediction": "Yes."},
        {"questionId": "2", "prediction": "no"},
    ]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    found = score.score_files("gqa", tmp_path / "answers.json", tmp_path)
    assert (found["empty"], found["unparsed"]) == (1, 1)
    assert found["splits"]["testdev_balanced"]["accuracy"] == 33.3333


def chair_files(folder):
    instances = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (7, 8, 9)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": 7, "category_id": 1}],
    }
    (folder / "instances_val2014.json").write_text(json.dumps(instances))
    captions = {"annotations": [{"image_id": 7, "caption": "It runs."}, {"image_id": 8, "caption": "A toilet seat."}]}
    (folder / "captions_val2014.json").write_text(json.dumps(captions))
    answers = [{"image_id": 7, "caption": "A dog and cats."}, {"image_id": 8, "caption": "Toilet seats."}]
    (folder / "answers.json").write_text(json.dumps(answers))
    return folder / "answers.json"


def test_chair_is_about_the_captioned_images_alone(tmp_path):
    answers = chair_files(tmp_path)
    found = score.score_files("chair", answers, tmp_path / "instances_val2014.json", tmp_path / "captions_val2014.json")
    assert found == score.score_files("chair", answers, tmp_path)
    assert found["n"] == 2
    # mentions: dog, cat (absent); toilet seat is a toilet
    assert found["splits"]["all"] == {"chair_s": 50, "chair_i": 33.3333, "recall": 100, "length": 3, "repeats": 0}
    answers.write_text('[{"image_id": 99, "caption": "A dog."}]')
    with pytest.raises(BenchmarkError, match=r"1 answers are to no question of .*, as 99"):
        score.score_files("chair", answers, tmp_path)


def test_what_cannot_be_scored_is_refused_with_a_remedy(tmp_path):
    answers = pope_files(tmp_path)
    with pytest.raises(UserError, match="no benchmark 'pop'; benchmarks: chair, chartqa,"):
        score.score_files("pop", answers, tmp_path)
    with pytest.raises(UserError, match=r"llava_bench is scored by a judge: name one in evaluate.judge"):
        score.score_files("llava_bench", answers, tmp_path)
    with pytest.raises(UserError, match=r"no answers .*none.jsonl"):
        score.score_files("pope", tmp_path / "none.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"no reference .*nowhere: get it from https://github.com/RUCAIBox"):
        score.score_files("pope", answers, tmp_path / "nowhere")
    with pytest.raises(UserError, match="--captions is for chair alone"):
        score.score_files("pope", answers, tmp_path, answers)
    with pytest.raises(BenchmarkError, match=r"none of instances.json, instances_val2014.json"):
        score.score_files("chair", answers, tmp_path)


CODE = """
import sys
from lookagain.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "mlflow", "dvc", "pandas", "matplotlib"} & set(sys.modules)
    assert not heavy, heavy
"""


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-c", CODE, "score", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_command_prints_json_without_torch(tmp_path):
    answers = pope_files(tmp_path)
    done = command("pope", "--answers", answers, "--reference", tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == score.score_files("pope", answers, tmp_path)


def test_the_command_fails_in_one_line(tmp_path):
    done = command("pope", "--answers", pope_files(tmp_path, left_out=1), "--reference", tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: 1 of 12 questions have no answer")
    assert done.stderr.count("\n") == 1


NESTED = "[" * 100_000
TEXT_ROW = {"question": "q", "image_id": "i", "question_id": 1, "answers": [5] * 10}


SHAPE = "is not in the published format"


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("pope", "coco_pope_random.json", b"PK\x03\x04\xff\xfe", "coco_pope_random.json is no UTF-8 text"),
        ("pope", "coco_pope_random.json", NESTED.encode(), "coco_pope_random.json, line 1: needs question_id"),
        ("pope", "coco_pope_random.json", b'{"question_id": 1, "image": "a.jpg", "text": 5, "label": "yes"}', SHAPE),
        ("chair", "instances_val2014.json", b"PK\x03\x04\xff\xfe", "instances_val2014.json is no UTF-8 text"),
        ("chair", "captions_val2014.json", NESTED.encode(), "captions_val2014.json is not JSON"),
        ("chair", "captions_val2014.json", b'{"annotations": [{"image_id": 7, "caption": 5}]}', "do not match COCO's format"),
        ("chartqa", "test_human.json", b"null", SHAPE),
        ("chartqa", "test_human.json", b'[{"imgname": "a.png", "query": "q", "label": null}]', "label = 'None' must be text"),
        ("textvqa", "TextVQA_0.5.1_val.json", json.dumps({"data": [TEXT_ROW]}).encode(), "human answer 5 must be text"),
        ("gqa", "testdev_balanced_questions.json", b'{"1": {"imageId": "n", "question": "q", "answer": null}}', "must be text"),
        ("gqa", "testdev_balanced_questions.json", NESTED.encode(), "is not JSON"),
        ("gqa", "testdev_balanced_questions.json", b'{"1": {"imageId": "n", "question": null, "answer": "no"}}', SHAPE),
    ],
)
def test_references_of_another_shape_are_refused_and_named(tmp_path, name, file, content, message):
    chair_files(tmp_path)
    pope_files(tmp_path)
    answers = tmp_path / ("answers.json" if name == "chair" else "answers.jsonl")
    (tmp_path / "test_augmented.json").write_text("[]")
    (tmp_path / file).write_bytes(content)
    with pytest.raises(BenchmarkError, match=message) as error:
        score.score_files(name, answers, tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("pope", "a.jsonl", NESTED),
        ("pope", "a.jsonl", '{"a":' * 100_000),
        ("mathvista", "a.json", NESTED),
        ("chair", "a.json", '{"a":' * 100_000),
        ("chair", "a.json", '{"imgToEval": {"7": 5}}'),
        ("mmbench", "a.tsv", "index\tprediction\n1\n"),
    ],
)
def test_answers_of_another_shape_are_refused_and_named(tmp_path, name, file, content):
    pope_files(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(BenchmarkError, match=file):
        score.score_files(name, tmp_path / file, tmp_path)
