"""The world's own benchmarks through the official readers: balanced, answerable from the truth, known to the tokenizer."""

import json
from collections import Counter

import pytest

from lookagain.evaluation import suite
from lookagain.evaluation.questions import BenchmarkImages
from lookagain.metrics import mmbench, mme
from lookagain.schema import WORLD_BENCHMARKS
from lookagain.world import official, splits
from lookagain.world.tokenizer import build_tokenizer

FOLDERS = [name for name in WORLD_BENCHMARKS if name != suite.RANKING]
COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "test"
    write(folder)
    return folder


def write(folder):
    scenes = splits.write_split(folder, "test", 120, 64, 0)
    charts = splits.write_charts(folder / "chartqa", "test", COUNT // 2, 64, 0)
    official.write_suite(folder, scenes, charts, COUNT, 0)
    return scenes, charts


def read(folder, name):
    return suite.read_questions(folder, [name], "llava15", "Please describe this image in detail.")


def right_answer(question):
    """The answer that the reference asks for."""
    if suite.options_of(question):
        losses = [0.0] + [1.0] * (len(suite.options_of(question)) - 1)
        if question.benchmark == suite.RANKING:
            answer = json.loads(question.reference)["answer"]
            losses = [float(letter != answer) for letter in "ABCD"]
        return suite.as_response(question, json.dumps(losses))
    if not question.reference.startswith(("{", "[")):
        return question.reference
    reference = json.loads(question.reference)
    return reference[0] if isinstance(reference, list) else str(reference.get("answer", reference.get("number")))


@pytest.mark.parametrize("name", WORLD_BENCHMARKS)
def test_official_reader_reads_and_scores_the_truth(folder, name):
    questions, images = read(folder, name), BenchmarkImages(folder, 10**6)
    assert COUNT / 2 <= len(questions) <= 4 * COUNT
    for question in questions:
        assert (name, question.image_id) in images
        assert images.load(images.place(question)).size == (64, 64)
        assert suite.module(name).score_answer(question, right_answer(question)) == 1.0


@pytest.mark.parametrize("name", WORLD_BENCHMARKS)
def test_every_word_is_known(folder, name):
    tokenizer = build_tokenizer()
    for question in read(folder, name):
        reference = json.loads(question.reference) if question.reference[0] in "{[" else [question.reference]
        values = list(reference.get("options", {})) if isinstance(reference, dict) else reference
        for text in (question.prompt, right_answer(question), *values, *suite.options_of(question)):
            if not text.startswith("["):
                assert tokenizer.unk_token_id not in tokenizer(text).input_ids, text


def test_yes_and_no_are_balanced(folder):
    asked = read(folder, "mme")
    assert {question.split for question in asked} == {"existence", "count", "position", "scene", "OCR"}
    assert Counter(question.reference for question in asked) == {"yes": len(asked) / 2, "no": len(asked) / 2}
    assert set(Counter(mme.unit(question) for question in asked).values()) == {2}
    numbers = {question.prompt for question in asked if question.split == "count" and question.reference == "yes"}
    assert len(numbers) == 4
    gqa = Counter(question.reference for question in read(folder, "gqa"))
    assert abs(gqa["yes"] - gqa["no"]) <= 2
    assert min(gqa["yes"], gqa["left"], gqa["right"]) > 0


def test_every_rotation_is_asked(folder):
    asked = read(folder, "mmbench")
    for unit in {mmbench.unit(question) for question in asked}:
        rotations = [json.loads(question.reference) for question in asked if mmbench.unit(question) == unit]
        assert sorted(one["answer"] for one in rotations) == ["A", "B", "C", "D"]
        assert len({one["options"][one["answer"]] for one in rotations}) == 1
    assert set(mmbench.images(folder / "mmbench" / mmbench.FILES[0])) == {mmbench.unit(question) for question in asked}


def test_kinds_are_named(folder):
    for name in ("mmbench", "seedbench"):
        kinds = Counter(question.split for question in read(folder, name))
        assert set(kinds) == {"existence", "place", "number", "scene"}
        assert len(set(kinds.values())) == 1
    kinds = {question.split.removesuffix("_contrastive") for question in read(folder, "pragmatics")}
    assert kinds == {"spatial", "negation", "counting"}
    assert {question.split for question in read(folder, "chartqa")} == {"human", "augmented"}


def test_same_seed_same_files(folder, tmp_path):
    write(tmp_path)
    for name in FOLDERS:
        first, second = (
            {path.relative_to(root): path.read_bytes() for path in (root / name).rglob("*") if path.is_file()}
            for root in (folder, tmp_path)
        )
        assert first == second


def test_a_benchmark_without_a_scene_has_no_folder(tmp_path):
    scenes = splits.write_split(tmp_path, "test", 30, 64, 0)
    plain = [scene for scene in scenes if not scene.sign]
    official.write_suite(tmp_path, plain, [], COUNT, 0)
    assert not (tmp_path / "textvqa").exists()
    assert (tmp_path / "gqa").is_dir()
