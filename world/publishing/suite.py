"""The world's benchmarks, in the layouts of seven published ones, from what its scenes and charts show in truth.

Each is a folder as its publisher offers it, with its images:
- mme: existence, count, position, color, scene and OCR, two questions about an image;
- gqa: lookups, relations, colours, neighbours and two facts at once, answered by yes, no or a word or two;
- mmbench (every rotation of four options) and seedbench (one order): existence, place, number, scene and color;
- textvqa: the number on a sign, ten equal answers; chartqa: a bar's value (augmented), or its colour, extremes and how many there
  are (human);
- pragmatics: spatial, negation and counting. Temporal has no meaning for single scenes, and is absent.
A question's scenes are drawn by (benchmark, kind); a kind has fewer questions than asked for where too few scenes allow any.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from lookagain.seeds import derive
from world.scenes import questions
from world.scenes.charts import Chart
from world.scenes.questions import LETTERS, Open, Options, Pair
from world.scenes.scene import Scene

INSTRUCTION = " Please answer yes or no."  # MME's, which its reader replaces by the short-answer format
ROTATION = 1_000_000  # MMBench's rotations of a question differ by it
ANSWERS = 10  # TextVQA's to a question
SEED = 0  # of the one publication that there is
LOWEST_COUNTS = range(2, 5)  # of pragmatics' four numbers; its answers are numbers from 2

Made = TypeVar("Made")
Ask = Callable[[Scene, np.random.Generator], Made | None]
Images = Mapping[str, bytes]  # file name -> bytes, of scenes and charts

PAIRS: tuple[tuple[str, Ask[Pair]], ...] = (
    ("existence", questions.existence_pair),
    ("count", questions.count_pair),
    ("position", questions.position_pair),
    ("color", questions.color_pair),
    ("scene", questions.scene_pair),
    ("OCR", questions.sign_pair),
)
CHOICES: tuple[tuple[str, Ask[Options]], ...] = (
    ("existence", questions.existence_choice),
    ("place", questions.place_choice),
    ("number", questions.number_choice),
    ("scene", questions.scene_choice),
    ("color", questions.color_choice),
)
OPEN: tuple[tuple[str, Ask[Open]], ...] = (
    ("where", questions.where),
    ("contents", questions.contents),
    ("side", questions.side),
    ("setting", lambda scene, rng: questions.place(scene)),
    ("color", questions.color_of),
    ("neighbor", questions.neighbor),
)
TWO_FACTS = "two facts"
VERIFIED: tuple[tuple[str, Ask[Pair]], ...] = (
    ("relation", questions.relation_pair),
    ("position", questions.position_pair),
    ("color verified", questions.color_pair),
    ("both", questions.both_pair),
)


def write_suite(folder: Path, scenes: Sequence[Scene], charts: Sequence[Chart], images: Images, count: int) -> None:
    """Write the seven folders, about `count` questions each. A benchmark that no scene allows a question of gets no folder."""
    writers = (("mme", mme), ("gqa", gqa), ("mmbench", mmbench), ("seedbench", seedbench), ("textvqa", textvqa))
    for name, write in (*writers, ("pragmatics", pragmatics)):
        write(folder / name, scenes, images, count)
    chartqa(folder / "chartqa", charts, images, count)


def mme(folder: Path, scenes: Sequence[Scene], images: Images, count: int) -> None:
    """<subtask>/<image>.txt with two lines, each a question, a tab and Yes or No, beside the image."""
    for name, ask in PAIRS:
        balanced = _yes_question if name == "count" else None
        drawn = _drawn(scenes, ask, count // (2 * len(PAIRS)), "mme", name, balanced)
        for scene, pair in drawn:
            lines = [f"{pair.yes}{INSTRUCTION}\tYes", f"{pair.no}{INSTRUCTION}\tNo"]
            _write((folder / name / scene.file_name).with_suffix(".txt"), "\n".join(lines) + "\n")
        _copy(folder / name, (scene.file_name for scene, _ in drawn), images)


def _yes_question(pair: Pair) -> str:
    """So that every number is the true one as often."""
    return pair.yes


def gqa(folder: Path, scenes: Sequence[Scene], images: Images, count: int) -> None:
    """testdev_balanced_questions.json: as many open questions of one answer as yes/no questions, as many with yes as with no, and a
    fifth beside them that ask for two facts at once. Each names its kind in its id and under types."semantic"."""
    rows: dict[str, dict] = {}
    for name, ask in OPEN:
        for scene, asked in _drawn(scenes, ask, count // (2 * len(OPEN)), "gqa", name, _answer if name == "side" else None):
            rows[f"{name}-{scene.id}"] = _gqa_row(scene, name, asked)
    for scene, asked in _drawn(scenes, lambda scene, rng: questions.number_and_count(scene), count // 5, "gqa", TWO_FACTS):
        rows[f"{TWO_FACTS}-{scene.id}"] = _gqa_row(scene, TWO_FACTS, asked)
    for name, pairs in VERIFIED:
        for number, (scene, pair) in enumerate(_drawn(scenes, pairs, count // (2 * len(VERIFIED)), "gqa", name)):
            rows[f"{name}-{scene.id}"] = _gqa_row(scene, name, Open(pair[number % 2], ("yes", "no")[number % 2]))
    if rows:
        _write(folder / "testdev_balanced_questions.json", json.dumps(rows))
    _copy(folder / "images", (f"{row['imageId']}.jpg" for row in rows.values()), images)


def _answer(asked: Open) -> str:
    return asked.answer


def _gqa_row(scene: Scene, name: str, asked: Open) -> dict:
    image = Path(scene.file_name).stem
    return {"imageId": image, "question": asked.question, "answer": asked.answer, "types": {"semantic": name}}


def mmbench(folder: Path, scenes: Sequence[Scene], images: Images, count: int) -> None:
    """mmbench_dev_20230712.tsv: a row for each rotation of a question's four options; the first holds the image."""
    table = io.StringIO()
    columns = ["index", "question", "hint", *LETTERS, "answer", "category", "image", "l2-category"]
    writer = csv.DictWriter(table, columns, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    index = -1
    for index, (name, scene, asked, order) in enumerate(_chosen(scenes, count, "mmbench")):
        for turn in range(len(LETTERS)):
            rotated = order[turn:] + order[:turn]
            row = {"index": index + turn * ROTATION, "question": asked.question, "category": name, "l2-category": name}
            row |= dict(zip(LETTERS, (asked.options[place] for place in rotated), strict=True))
            row |= {"answer": LETTERS[rotated.index(0)]}
            row |= {"image": index if turn else base64.b64encode(images[scene.file_name]).decode()}
            writer.writerow(row)
    if index >= 0:
        _write(folder / "mmbench_dev_20230712.tsv", table.getvalue())


def seedbench(folder: Path, scenes: Sequence[Scene], images: Images, count: int) -> None:
    """SEED-Bench.json, its kinds of question named, and SEED-Bench-image/."""
    types = {name: number for number, (name, _) in enumerate(CHOICES, 1)}
    rows = []
    for index, (name, scene, asked, order) in enumerate(_chosen(scenes, count, "seedbench")):
        row: dict[str, object] = {
            f"choice_{letter.lower()}": asked.options[place] for letter, place in zip(LETTERS, order, strict=True)
        }
        row |= {"answer": LETTERS[order.index(0)], "data_id": scene.file_name, "data_type": "image"}
        rows.append(row | {"question": asked.question, "question_id": str(index), "question_type_id": types[name]})
    if rows:
        content = {"question_type": {name.capitalize(): number for name, number in types.items()}, "questions": rows}
        _write(folder / "SEED-Bench.json", json.dumps(content))
    _copy(folder / "SEED-Bench-image", (str(row["data_id"]) for row in rows), images)


def textvqa(folder: Path, scenes: Sequence[Scene], images: Images, count: int) -> None:
    """TextVQA_0.5.1_val.json, the OCR tokens' file without a token, and train_images/."""
    drawn = _drawn(scenes, lambda scene, rng: questions.sign(scene), count, "textvqa")
    rows = [
        {
            "question": asked.question,
            "image_id": Path(scene.file_name).stem,
            "question_id": number,
            "answers": [asked.answer] * ANSWERS,
        }
        for number, (scene, asked) in enumerate(drawn)
    ]
    tokens = [{"image_id": row["image_id"], "ocr_tokens": []} for row in rows]
    for name, content in (("TextVQA_0.5.1_val.json", rows), ("TextVQA_Rosetta_OCR_v0.2_val.json", tokens)):
        if rows:
            _write(folder / name, json.dumps({"dataset_type": "val", "data": content}))
    _copy(folder / "train_images", (scene.file_name for scene, _ in drawn), images)


def chartqa(folder: Path, charts: Sequence[Chart], images: Images, count: int) -> None:
    """test_human.json and test_augmented.json, and png/."""
    rows: dict[str, list[dict]] = {"human": [], "augmented": []}
    for number, chart in enumerate(charts[: count // 2]):
        rng = np.random.default_rng(derive(SEED, "chartqa", chart.id))
        first, second = (chart.bars[place] for place in rng.permutation(len(chart.bars))[:2])
        human = (questions.bar_count(chart), questions.color(first), questions.extreme(chart, bool(number % 2)))[number % 3]
        for kind, asked in (("human", human), ("augmented", questions.value(second))):
            rows[kind].append({"imgname": chart.file_name, "query": asked.question, "label": asked.answer})
    for kind, entries in rows.items():
        if entries:
            _write(folder / f"test_{kind}.json", json.dumps(entries))
    _copy(folder / "png", (row["imgname"] for row in rows["human"]), images)


def pragmatics(folder: Path, scenes: Sequence[Scene], images: Images, count: int) -> None:
    """spatial.json, negation.json and counting.json: captions to choose from, the right one first; and images/.

    Nothing can be guessed without the image: each cell is the right one as often, as far as the scenes allow; of two categories
    each may be there or not, as often; and of four numbers in a row each is the truth as often.
    """
    files: dict[str, list[dict]] = {"spatial": [], "negation": [], "counting": []}
    for scene, asked in _drawn(scenes, questions.spatial_captions, count // 3, "pragmatics", "spatial", _right_cell):
        files["spatial"].append(_caption_row(scene, asked))
    for here in ((True, True), (True, False), (False, True), (False, False)):

        def negation(scene: Scene, rng: np.random.Generator, here: tuple[bool, bool] = here) -> Options | None:
            return questions.negation_captions(scene, rng, here)

        for scene, asked in _drawn(scenes, negation, count // 12, "pragmatics", f"negation {here}"):
            files["negation"].append(_caption_row(scene, asked))
    for lowest in LOWEST_COUNTS:
        for truth in range(lowest, lowest + len(LETTERS)):
            able = [scene for scene in scenes if len(scene.things) == truth]

            def counting(scene: Scene, rng: np.random.Generator, lowest: int = lowest) -> Options | None:
                return questions.count_captions(scene, lowest)

            each = count // (3 * len(LOWEST_COUNTS) * len(LETTERS))
            for scene, asked in _drawn(able, counting, each, "pragmatics", f"counting {lowest}"):
                files["counting"].append(_caption_row(scene, asked) | {"question": asked.question, "answer": truth})
    for name, rows in files.items():
        if rows:
            _write(folder / f"{name}.json", json.dumps(rows))
        _copy(folder / "images", (Path(row["image_path"]).name for row in rows), images)


def _first_option(asked: Options) -> str:
    return asked.options[0]


def _right_cell(asked: Options) -> str:
    """Objects stand in the center more often than in corners."""
    return asked.options[0].partition(" there is ")[0]


def _caption_row(scene: Scene, asked: Options) -> dict:
    return {"image_path": f"images/{scene.file_name}", "caption_options": list(asked.options)}


def _chosen(scenes: Sequence[Scene], count: int, benchmark: str) -> Iterator[tuple[str, Scene, Options, list[int]]]:
    """(kind, scene, question, order of its options) of a benchmark of multiple choice, as many of each kind."""
    for name, ask in CHOICES:
        balanced = _first_option if name == "number" else None
        for scene, asked in _drawn(scenes, ask, count // len(CHOICES), benchmark, name, balanced):
            rng = np.random.default_rng(derive(SEED, benchmark, name, "order", scene.id))
            yield name, scene, asked, [int(place) for place in rng.permutation(len(LETTERS))]


def _drawn(
    scenes: Sequence[Scene],
    ask: Ask[Made],
    count: int,
    benchmark: str,
    kind: str = "",
    balanced: Callable[[Made], str] | None = None,
) -> list[tuple[Scene, Made]]:
    """At most `count` scenes that allow a question, in an order drawn by seed, with the question.

    With `balanced`, questions that it gives different names are taken in turn, as long as there are any.
    """
    order = np.random.default_rng(derive(SEED, benchmark, kind)).permutation(len(scenes))
    groups: dict[str, list[tuple[Scene, Made]]] = {}
    for place in order:
        scene = scenes[place]
        made = ask(scene, np.random.default_rng(derive(SEED, benchmark, kind, scene.id)))
        if made is not None:
            groups.setdefault(balanced(made) if balanced else "", []).append((scene, made))
        if balanced is None and len(groups.get("", ())) == count:
            break
    turns = [(row, name) for name, group in sorted(groups.items()) for row in range(len(group))]
    return [groups[name][row] for row, name in sorted(turns)[:count]]


def _copy(folder: Path, names: Iterable[str], images: Images) -> None:
    for name in dict.fromkeys(names):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(images[name])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
