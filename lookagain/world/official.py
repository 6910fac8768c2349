"""The world's own benchmarks, in the official formats of seven published ones, from what its scenes and charts show in truth.

Each is a folder that the benchmark's reader (`lookagain.metrics`) reads as it reads the published files, with its images:
- mme: existence, count, position, scene and OCR, two questions about an image;
- gqa: relations and lookups, answered by yes, no or one word;
- mmbench (every rotation of four options) and seedbench (one order): existence, place, number and scene;
- textvqa: the number on a sign, ten equal answers; chartqa: a bar's value (augmented), its colour or how many there are (human);
- pragmatics: spatial, negation and counting. Temporal has no meaning for single scenes, and is absent.
A question's scenes are drawn by (seed, benchmark, kind); a kind has fewer questions than asked for where too few scenes allow any.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from lookagain.images import ImageStore, write_shards
from lookagain.records import atomic_write
from lookagain.seeds import derive
from lookagain.world import lookups
from lookagain.world.charts import Chart
from lookagain.world.lookups import LETTERS, Asked, Options, Pair
from lookagain.world.scenes import Scene

INSTRUCTION = " Please answer yes or no."  # MME's, which its reader replaces by the short-answer format
ROTATION = 1_000_000  # MMBench's rotations of a question differ by it
ANSWERS = 10  # TextVQA's to a question

Made = TypeVar("Made")
Ask = Callable[[Scene, np.random.Generator], Made | None]

PAIRS: tuple[tuple[str, Ask[Pair]], ...] = (
    ("existence", lookups.existence_pair),
    ("count", lookups.count_pair),
    ("position", lookups.position_pair),
    ("scene", lookups.scene_pair),
    ("OCR", lookups.sign_pair),
)
CHOICES: tuple[tuple[str, Ask[Options]], ...] = (
    ("existence", lookups.existence_choice),
    ("place", lookups.place_choice),
    ("number", lookups.number_choice),
    ("scene", lookups.scene_choice),
)


def write_suite(folder: Path | str, scenes: Sequence[Scene], charts: Sequence[Chart], count: int, seed: int) -> None:
    """Write the seven folders beside a split's images/, about `count` questions each; charts and their images lie in chartqa/.

    A benchmark that no scene allows a question of gets no folder.
    """
    folder = Path(folder)
    images = ImageStore(folder / "images")
    writers = {"mme": mme, "gqa": gqa, "mmbench": mmbench, "seedbench": seedbench, "textvqa": textvqa, "pragmatics": pragmatics}
    for name, write in writers.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        shown = write(folder / name, scenes, count, seed)
        if shown:
            write_shards(folder / name / "images", ((known_as, _bytes(images, image_id), None) for known_as, image_id in shown))
        else:
            shutil.rmtree(folder / name)
    chartqa(folder / "chartqa", charts, count, seed)


Shown = list[tuple[str, str]]  # an image's id in the benchmark, and in the split


def mme(folder: Path, scenes: Sequence[Scene], count: int, seed: int) -> Shown:
    """<subtask>/<image>.txt with two lines, each a question, a tab and Yes or No."""
    shown = []
    for name, ask in PAIRS:
        balanced = _yes_question if name == "count" else None
        for scene, pair in _drawn(scenes, ask, count // (2 * len(PAIRS)), seed, "mme", name, balanced):
            lines = [f"{pair.yes}{INSTRUCTION}\tYes", f"{pair.no}{INSTRUCTION}\tNo"]
            _write(folder / name / f"{scene.image_id}.txt", "\n".join(lines) + "\n")
            shown.append((f"{name}/{scene.image_id}", scene.image_id))
    return shown


def _yes_question(pair: Pair) -> str:
    """So that every number is the true one as often."""
    return pair.yes


def gqa(folder: Path, scenes: Sequence[Scene], count: int, seed: int) -> Shown:
    """testdev_balanced_questions.json: half of the questions open, half yes/no, as many with yes as with no."""
    opened: tuple[tuple[str, Ask[Asked]], ...] = (
        ("where", lookups.where),
        ("contents", lookups.contents),
        ("side", lookups.side),
        ("setting", lambda scene, rng: lookups.place(scene)),
    )
    rows: dict[str, dict[str, str]] = {}
    for name, ask in opened:
        for scene, asked in _drawn(scenes, ask, count // 8, seed, "gqa", name, _answer if name == "side" else None):
            rows[f"{name}-{scene.image_id}"] = _gqa_row(scene, asked)
    for name, pairs in (("relation", lookups.relation_pair), ("position", lookups.position_pair)):
        for number, (scene, pair) in enumerate(_drawn(scenes, pairs, count // 4, seed, "gqa", name)):
            rows[f"{name}-{scene.image_id}"] = _gqa_row(scene, Asked(pair[number % 2], ("yes", "no")[number % 2]))
    _write(folder / "testdev_balanced_questions.json", json.dumps(rows))
    return _same_ids(row["imageId"] for row in rows.values())


def _answer(asked: Asked) -> str:
    return asked.answer


def _gqa_row(scene: Scene, asked: Asked) -> dict[str, str]:
    return {"imageId": scene.image_id, "question": asked.question, "answer": asked.answer}


def mmbench(folder: Path, scenes: Sequence[Scene], count: int, seed: int) -> Shown:
    """mmbench_dev_20230712.tsv: a row for each rotation of a question's four options; the first holds the image."""
    table = io.StringIO()
    columns = ["index", "question", "hint", *LETTERS, "answer", "category", "image", "l2-category"]
    writer = csv.DictWriter(table, columns, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    images, shown = ImageStore(folder.parent / "images"), []
    for index, (name, scene, asked, order) in enumerate(_chosen(scenes, count, seed, "mmbench")):
        for turn in range(len(LETTERS)):
            rotated = order[turn:] + order[:turn]
            row = {"index": index + turn * ROTATION, "question": asked.question, "category": name, "l2-category": name}
            row |= dict(zip(LETTERS, (asked.options[place] for place in rotated), strict=True))
            row |= {"answer": LETTERS[rotated.index(0)]}
            row |= {"image": index if turn else base64.b64encode(_bytes(images, scene.image_id)).decode()}
            writer.writerow(row)
        shown.append((str(index), scene.image_id))
    _write(folder / "mmbench_dev_20230712.tsv", table.getvalue())
    return shown


def seedbench(folder: Path, scenes: Sequence[Scene], count: int, seed: int) -> Shown:
    """SEED-Bench.json, its kinds of question named."""
    types = {name: number for number, (name, _) in enumerate(CHOICES, 1)}
    rows, shown = [], []
    for index, (name, scene, asked, order) in enumerate(_chosen(scenes, count, seed, "seedbench")):
        row: dict[str, object] = {
            f"choice_{letter.lower()}": asked.options[place] for letter, place in zip(LETTERS, order, strict=True)
        }
        row |= {"answer": LETTERS[order.index(0)], "data_id": scene.image_id, "data_type": "image"}
        rows.append(row | {"question": asked.question, "question_id": str(index), "question_type_id": types[name]})
        shown.append(scene.image_id)
    content = {"question_type": {name.capitalize(): number for name, number in types.items()}, "questions": rows}
    _write(folder / "SEED-Bench.json", json.dumps(content))
    return _same_ids(shown)


def textvqa(folder: Path, scenes: Sequence[Scene], count: int, seed: int) -> Shown:
    """TextVQA_0.5.1_val.json, and the OCR tokens' file without a token."""
    rows, shown = [], []
    for number, (scene, asked) in enumerate(_drawn(scenes, lambda scene, rng: lookups.sign(scene), count, seed, "textvqa")):
        row = {"question": asked.question, "image_id": scene.image_id, "question_id": number}
        rows.append(row | {"answers": [asked.answer] * ANSWERS})
        shown.append(scene.image_id)
    _write(folder / "TextVQA_0.5.1_val.json", json.dumps({"dataset_type": "val", "data": rows}))
    tokens = [{"image_id": image_id, "ocr_tokens": []} for image_id in shown]
    _write(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", json.dumps({"dataset_type": "val", "data": tokens}))
    return _same_ids(shown)


def chartqa(folder: Path, charts: Sequence[Chart], count: int, seed: int) -> None:
    """test_human.json and test_augmented.json, into the folder that holds the charts' images."""
    if not charts:
        return
    rows: dict[str, list[dict]] = {"human": [], "augmented": []}
    for number, chart in enumerate(charts[: count // 2]):
        rng = np.random.default_rng(derive(seed, "chartqa", chart.id))
        first, second = (chart.bars[place] for place in rng.permutation(len(chart.bars))[:2])
        human = lookups.bar_count(chart) if number % 3 == 0 else lookups.color(first)
        for kind, asked in (("human", human), ("augmented", lookups.value(second))):
            rows[kind].append({"imgname": f"{chart.image_id}.png", "query": asked.question, "label": asked.answer})
    for kind, entries in rows.items():
        _write(folder / f"test_{kind}.json", json.dumps(entries))


def pragmatics(folder: Path, scenes: Sequence[Scene], count: int, seed: int) -> Shown:
    """spatial.json, negation.json and counting.json: captions to choose from, the right one first."""
    shown: list[str] = []
    files: dict[str, list[dict]] = {"spatial": [], "negation": [], "counting": []}
    for scene, asked in _drawn(scenes, lookups.spatial_captions, count // 3, seed, "pragmatics", "spatial"):
        files["spatial"].append(_caption_row(scene, asked))
    for present in (True, False):

        def negation(scene: Scene, rng: np.random.Generator, present: bool = present) -> Options:
            return lookups.negation_captions(scene, rng, present)

        for scene, asked in _drawn(scenes, negation, count // 6, seed, "pragmatics", f"negation {present}"):
            files["negation"].append(_caption_row(scene, asked))
    several = [scene for scene in scenes if len(scene.things) > 1]
    for scene, asked in _drawn(several, lookups.count_captions, count // 3, seed, "pragmatics", "counting", _first_option):
        row = _caption_row(scene, asked) | {"question": asked.question, "answer": len(scene.things)}
        files["counting"].append(row)
    for name, rows in files.items():
        if rows:
            _write(folder / f"{name}.json", json.dumps(rows))
        shown += [Path(row["image_path"]).stem for row in rows]
    return _same_ids(shown)


def _first_option(asked: Options) -> str:
    return asked.options[0]


def _caption_row(scene: Scene, asked: Options) -> dict:
    return {"image_path": f"images/{scene.file_name}", "caption_options": list(asked.options)}


def _chosen(scenes: Sequence[Scene], count: int, seed: int, benchmark: str) -> Iterator[tuple[str, Scene, Options, list[int]]]:
    """(kind, scene, question, order of its options) of a benchmark of multiple choice, as many of each kind."""
    for name, ask in CHOICES:
        balanced = _first_option if name == "number" else None
        for scene, asked in _drawn(scenes, ask, count // len(CHOICES), seed, benchmark, name, balanced):
            rng = np.random.default_rng(derive(seed, benchmark, name, "order", scene.id))
            yield name, scene, asked, [int(place) for place in rng.permutation(len(LETTERS))]


def _drawn(
    scenes: Sequence[Scene],
    ask: Ask[Made],
    count: int,
    seed: int,
    benchmark: str,
    kind: str = "",
    balanced: Callable[[Made], str] | None = None,
) -> list[tuple[Scene, Made]]:
    """At most `count` scenes that allow a question, in an order drawn by seed, with the question.

    With `balanced`, questions that it gives different names are taken in turn, as long as there are any.
    """
    order = np.random.default_rng(derive(seed, benchmark, kind)).permutation(len(scenes))
    groups: dict[str, list[tuple[Scene, Made]]] = {}
    for place in order:
        scene = scenes[place]
        made = ask(scene, np.random.default_rng(derive(seed, benchmark, kind, scene.id)))
        if made is not None:
            groups.setdefault(balanced(made) if balanced else "", []).append((scene, made))
        if balanced is None and len(groups.get("", ())) == count:
            break
    turns = [(row, name) for name, group in sorted(groups.items()) for row in range(len(group))]
    return [groups[name][row] for row, name in sorted(turns)[:count]]


def _same_ids(image_ids: Iterable[str]) -> Shown:
    """Images that a benchmark names as the split does, each once."""
    return [(image_id, image_id) for image_id in dict.fromkeys(image_ids)]


def _bytes(images: ImageStore, image_id: str) -> bytes:
    return images.row(image_id)["image"]["bytes"]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text)
