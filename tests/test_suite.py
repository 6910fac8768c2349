"""The benchmarks beside POPE and CHAIR, from official files through the engine's prompts to figures and tests between models."""

import io
import json
import math

import pytest
import torch
from PIL import Image

from lookagain.evaluation import suite
from lookagain.evaluation.imports import import_benchmark, locate
from lookagain.evaluation.questions import Annotations, BenchmarkImages
from lookagain.evaluation.scoring import Bootstrap, score_model
from lookagain.generation import Request, option_losses
from lookagain.images import ImageStore
from lookagain.judge import NO_JUDGE
from lookagain.metrics.benchmark import BenchmarkError
from lookagain.metrics.score import JUDGED
from lookagain.records import Answer
from lookagain.report.compare import differences

NAMES = ["mme", "seedbench", "seedbench_ranking", "pragmatics"]


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def published(tmp_path):
    """Folders in the publishers' formats."""
    lines = "Is there a dog? Please answer yes or no.\tYes\nIs there a cat? Please answer yes or no.\tNo\n"
    row = dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), ("One", "Two", "Three", "Four"), strict=True))
    row |= {"answer": "B", "data_id": "towels", "question": "How many towels?", "question_id": "7", "question_type_id": 5}
    captions = [{"image_path": "images/room.png", "caption_options": ["There is no dog.", "There is a dog."]}]
    files = {
        "mme/existence/01.txt": lines,
        "mme/existence/02.txt": lines,
        "seedbench/SEED-Bench.json": json.dumps({"question_type": {"Counting": 5}, "questions": [row]}),
        "pragmatics/negation.json": json.dumps(captions),
    }
    images = [
        "mme/existence/01.png",
        "mme/existence/02.png",
        "seedbench/SEED-Bench-image/towels.png",
        "pragmatics/images/room.png",
    ]
    for name, content in files.items() | {(image, png()) for image in images}:
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path / "raw"


@pytest.fixture
def folder(published, tmp_path):
    for name in ("mme", "seedbench", "pragmatics"):
        found = import_benchmark(name, str(published / name), tmp_path / "test" / name, 10**6)
        assert not found.unusable
    return tmp_path / "test"


def read(folder):
    questions = suite.read_questions(folder, NAMES, "llava15", "Describe.")
    return Annotations(questions, {}, {})


def answers(questions, responses):
    rows = zip(questions, responses, strict=True)
    return [Answer(q.id, q.image_id, q.benchmark, q.split, "m", q.prompt, text) for q, text in rows]


def test_rankings_ask_the_question_alone_or_for_a_description(folder):
    questions = read(folder).questions
    ranked = {question.benchmark: question for question in questions if suite.options_of(question)}
    assert ranked["seedbench_ranking"].prompt == "How many towels?"
    assert ranked["pragmatics"].prompt == "Describe."
    assert suite.options_of(ranked["pragmatics"]) == ("There is no dog.", "There is a dog.")
    assert suite.as_response(ranked["seedbench_ranking"], "[2.0, 0.5, 1.0, 3.0]") == "B"
    assert suite.as_response(ranked["pragmatics"], "[2.0, 0.5]") == "[-2.0, -0.5]"
    assert len(questions) == 4 + 1 + 1 + 2


def test_every_question_has_its_image(folder):
    images = BenchmarkImages(folder, 10**6)
    for question in read(folder).questions:
        assert (question.benchmark, question.image_id) in images
        assert images.load(images.place(question)).size == (8, 8)


def test_figures_and_tests_between_models_by_hand(folder, monkeypatch):
    annotations = read(folder)
    generated = {
        "mme": ["Yes", "No", "Yes", "Yes"],
        "seedbench": ["B"],
        "seedbench_ranking": ["A"],
        "pragmatics": ["[-1, -2]", ""],
    }
    mine = answers(annotations.questions, [text for name in NAMES for text in generated[name]])
    base = answers(annotations.questions, [text for name in NAMES for text in (generated | {"mme": ["No"] * 4})[name]])
    monkeypatch.setattr("lookagain.evaluation.scoring.pope.SPLITS", ())
    monkeypatch.setattr("lookagain.evaluation.scoring.CHAIR_BENCHMARKS", ())
    metrics = score_model(annotations, mine, base, None, Bootstrap(50, 0))
    # 3 of 4 answers and 1 of 2 images right
    assert metrics["mme/existence/score"].value == 125
    assert metrics["mme/existence/score"].n == 4
    assert metrics["mme/all/score_vs_base"].value == 125 - 50  # of one split, all of it
    assert metrics["seedbench/all/accuracy"].value == 100
    assert metrics["seedbench_ranking/all/accuracy"].value == 0
    assert metrics["seedbench/all/p_vs_base"].value == 1
    assert metrics["pragmatics/negation_contrastive/accuracy"].value == 100
    assert metrics["pragmatics/negation/unparsed"].value == 1
    assert "mme/all/perception" not in metrics  # not all subtasks are there


def test_without_a_judge_a_judged_benchmark_is_null_with_its_reason(monkeypatch):
    monkeypatch.setattr("lookagain.evaluation.scoring.pope.SPLITS", ())
    monkeypatch.setattr("lookagain.evaluation.scoring.CHAIR_BENCHMARKS", ())
    module = suite.JUDGED["contextual"]
    question = suite.Question("1", "a", "contextual", "val", "Do it.", "Done.")
    metrics = score_model(Annotations([question], {}, {}), answers([question], ["x"]), None, None, Bootstrap(50, 0))
    for metric in module.METRICS:
        assert metrics[f"contextual/all/{metric}"].value is None
        assert metrics[f"contextual/all/{metric}"].reason == NO_JUDGE


def test_a_missing_image_is_named(published, tmp_path):
    (published / "mme/existence/02.png").unlink()
    with pytest.raises(BenchmarkError, match=r"no image 'existence/02', which mme asks about"):
        import_benchmark("mme", str(published / "mme"), tmp_path / "test/mme", 10**6)


def test_unreadable_and_huge_images_are_counted(published, tmp_path):
    (published / "mme/existence/02.png").write_bytes(b"junk")
    found = import_benchmark("mme", str(published / "mme"), tmp_path / "test/mme", 10**6)
    assert len(found.unusable) == 1
    assert (found.questions, found.published) == (4, 2374)
    assert json.loads((tmp_path / "test/mme/source.json").read_text())["files"].keys() == {
        "existence/01.txt",
        "existence/02.txt",
    }
    assert ImageStore(tmp_path / "test/mme/images").ids == ["existence/01"]
    assert len(import_benchmark("mme", str(published / "mme"), tmp_path / "again/mme", 10).unusable) == 2


@pytest.mark.parametrize("source", ["hub:owner/name@main", "hub:name@" + "0" * 40, "nowhere"])
def test_a_source_is_a_folder_or_a_pinned_dataset(source):
    with pytest.raises(BenchmarkError, match="benchmark mme: "):
        locate("mme", source)


def test_option_losses_are_those_of_a_forward_of_prompt_and_option(policy, images):
    """The slow twin: one option at a time, all logits."""
    options = ["there is a dog.", "", "no."]
    requests = [Request(str(number), str(number), "Describe the following image.") for number in range(3)]
    found = option_losses(policy, requests, [options] * 3, lambda one: images[int(one.image_id)])
    for image, losses in zip(images, found, strict=False):
        for option, loss in zip(options, losses, strict=True):
            prefixes, features, _ = policy.prefixes([image])
            response = policy.response("Describe the following image.", option)
            if not response:
                assert math.isnan(loss)
                continue
            ids = torch.tensor([prefixes[0] + policy.suffix("Describe the following image.") + response])
            with torch.no_grad():
                logps = policy.forward(ids, features).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
            assert loss == pytest.approx(-float(logps[-len(response) :].mean()), abs=1e-5)


@pytest.fixture
def alone(monkeypatch):
    """Without POPE and CHAIR."""
    monkeypatch.setattr("lookagain.evaluation.scoring.pope.SPLITS", ())
    monkeypatch.setattr("lookagain.evaluation.scoring.CHAIR_BENCHMARKS", ())


def test_one_split_is_tested_once(alone):
    asked = [suite.Question(str(number), str(number), "gqa", "testdev_balanced", "q", "yes") for number in range(12)]
    mine, base = answers(asked, ["yes"] * 12), answers(asked, ["no"] * 6 + ["yes"] * 6)
    metrics = score_model(Annotations(asked, {}, {}), mine, base, None, Bootstrap(50, 0))
    (only,) = differences(metrics)
    assert (only.key, only.p, only.p_holm) == ("gqa/all/accuracy", 2 / 2**6, 2 / 2**6)  # six wins, no loss
    assert metrics["gqa/testdev_balanced/accuracy"].value == 100


def test_a_question_of_mmbench_counts_once_with_its_rotations(alone):
    reference = json.dumps({"answer": "A", "options": {"A": "red", "B": "blue"}})
    asked = [
        suite.Question(str(index + turn * 10**6), str(index), "mmbench", split, "q", reference)
        for index, split in ((1, "x"), (2, "x"), (3, "y"))
        for turn in range(4)
    ]
    base = answers(asked, ["A", "A", "A", "B"] * 3)  # no question right in all rotations
    metrics = score_model(Annotations(asked, {}, {}), answers(asked, ["A"] * 12), base, None, Bootstrap(50, 0))
    sizes = {key: metric.n for key, metric in metrics.items() if key.endswith("/accuracy")}
    assert metrics["mmbench/all/p_vs_base"].value == 2 / 2**3  # three wins, no loss
    assert metrics["mmbench/x/p_vs_base"].value == 2 / 2**2
    assert sizes == {"mmbench/x/accuracy": 2, "mmbench/y/accuracy": 1, "mmbench/all/accuracy": 3}


def test_judged_benchmarks_are_known_by_name_where_files_are_scored():
    assert set(JUDGED) == set(suite.JUDGED)


def test_images_of_mme_in_folders_of_their_own(published, tmp_path):
    folder = published / "mme/artwork"
    for name in ("questions_answers_YN/9.txt", "images/9.png"):
        (folder / name).parent.mkdir(parents=True)
    (folder / "questions_answers_YN/9.txt").write_bytes((published / "mme/existence/01.txt").read_bytes())
    (folder / "images/9.png").write_bytes(png())
    import_benchmark("mme", str(published / "mme"), tmp_path / "test/mme", 10**6)
    assert "artwork/9" in ImageStore(tmp_path / "test/mme/images").ids


def test_images_of_seedbench_without_a_suffix(published, tmp_path):
    image = published / "seedbench/SEED-Bench-image/towels.png"
    image.rename(image.with_suffix(""))
    import_benchmark("seedbench", str(published / "seedbench"), tmp_path / "test/seedbench", 10**6)
    assert ImageStore(tmp_path / "test/seedbench/images").ids == ["towels"]
    assert json.loads((tmp_path / "test/seedbench/source.json").read_text())["files"].keys() == {"SEED-Bench.json"}


def test_two_files_of_one_name_are_refused(published, tmp_path):
    (published / "pragmatics/old").mkdir()
    (published / "pragmatics/old/room.png").write_bytes(png())
    with pytest.raises(BenchmarkError, match=r"several files may be image 'room'.*images/room.png, .*old/room.png"):
        import_benchmark("pragmatics", str(published / "pragmatics"), tmp_path / "test/p", 10**6)
    (published / "mme/count").mkdir()
    for name in ("01.txt", "01.png"):  # as in another subtask, whose folder tells them apart
        (published / "mme/count" / name).write_bytes((published / "mme/existence" / name).read_bytes())
    import_benchmark("mme", str(published / "mme"), tmp_path / "test/mme", 10**6)
    assert set(ImageStore(tmp_path / "test/mme/images").ids) == {"count/01", "existence/01", "existence/02"}
