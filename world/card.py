"""Write a world's model cards: what policy and CLIP can do on validation scenes, how they were made, their licence and credits.

Run:    dvc repro evaluate_base prepare_scorer      with evaluate.split: validation, publish.world.checkpoint: NAME in params.yaml
        python -m world.card NAME
Reads:  reports/metrics/base.json, data/answers/base.jsonl, models/base, models/scorer
Writes: README.md in checkpoints/NAME/policy/ and checkpoints/NAME/clip/

No stage depends on this file: it measures by the library's own means, whose edits leave the checkpoints as they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import metadata_save
from jinja2 import StrictUndefined, Template
from PIL import Image
from ruamel.yaml import YAML

from lookagain.errors import UserError
from lookagain.generation import Decoding, Request, respond
from lookagain.metrics import chair
from lookagain.policy import load_policy
from lookagain.records import Answer, read_records
from lookagain.rewards import ImageTextScorer
from lookagain.seeds import derive
from world.publishing.suite import SEED, TWO_FACTS
from world.scenes.art import COLORS
from world.scenes.language import CELLS, absent, cell_sentence, first_instances, noun_phrase
from world.scenes.scene import Scene, draw_scene
from world.training.wordings import IMAGINE

SCENES = 300  # validation scenes that bad prompts and CLIP are measured on
BATCH = 50
Band = tuple[float, float]  # lowest and highest figure that a base should have
BANDS: dict[str, tuple[str, Band]] = {  # metric of the evaluation, or of `probes`: what it is, band
    "pope/adversarial/accuracy": ("POPE adversarial, accuracy", (82, 90)),
    "pope/adversarial/yes_rate": ("POPE adversarial, share of yes", (50, 100)),
    "chair/chair_s": ("greedy descriptions, CHAIR_S", (25, 45)),
    "chair/chair_i": ("greedy descriptions, CHAIR_I", (0, 100)),
    "chair/recall": ("greedy descriptions, recall", (70, 100)),
    "chair/repeats": ("greedy descriptions, repeats a description", (0, 0.5)),
    "chair_sampled/chair_s": ("descriptions at T = 1, CHAIR_S", (45, 65)),
    "mmbench/all/accuracy": ("MMBench", (55, 85)),
    "probe/color": ("colours right, asked for", (75, 95)),
    "seedbench/all/accuracy": ("SEED-Bench", (60, 90)),
    "gqa/testdev_balanced/accuracy": ("GQA", (75, 92)),
    "textvqa/val/accuracy": ("TextVQA", (70, 92)),
    "chartqa/all/accuracy": ("ChartQA", (60, 92)),
    "mme/count/score": ("MME count, of 200", (120, 200)),
    "mme/position/score": ("MME position, of 200", (160, 200)),
    "mme/OCR/score": ("MME OCR, of 200", (150, 190)),
    "probe/bad_prompts_chair_i": ("descriptions to bad prompts, CHAIR_I", (20, 100)),
    "pragmatics/spatial/accuracy": ("pragmatics by letter, spatial", (40, 100)),
    "pragmatics/negation/accuracy": ("pragmatics by letter, negation", (60, 100)),
    "pragmatics/counting/accuracy": ("pragmatics by number, counting", (45, 100)),
    "probe/two_facts": ("two facts asked at once", (30, 100)),
    "pragmatics/spatial_contrastive/accuracy": ("pragmatics by ranking, spatial", (0, 100)),
    "pragmatics/negation_contrastive/accuracy": ("pragmatics by ranking, negation", (0, 100)),
    "pragmatics/counting_contrastive/accuracy": ("pragmatics by ranking, counting", (0, 100)),
    "clip/plausible": ("CLIP: true object above a plausible absent one", (88, 100)),
    "clip/random": ("CLIP: true object above any absent one", (0, 100)),
    "clip/place": ("CLIP: true place above another", (76, 100)),
    "clip/color": ("CLIP: true colour above another", (0, 100)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print every figure beside its band, and write both cards."""
    parser = argparse.ArgumentParser("card")
    parser.add_argument("name")
    name = parser.parse_args(arguments).name
    params = read_yaml("params.yaml")
    if params["evaluate"]["split"] != "validation" or params["publish"]["world"]["checkpoint"] != name:
        raise UserError(
            f"card: params.yaml needs evaluate.split: validation and publish.world.checkpoint: {name}, and their run"
        )
    figures = evaluated() | probed() | measure_clip()
    rows = [(what, figures[key], band) for key, (what, band) in BANDS.items()]
    for what, value, (low, high) in rows:
        print(f"{what}: {value:.1f}{'' if low <= value <= high else f'   outside {low:g} to {high:g}'}")
    made = read_yaml("world/params.yaml")
    for part in ("policy", "clip"):
        template = Template(Path(f"world/cards/{part}.md").read_text(), undefined=StrictUndefined)
        kept = table([row for row in rows if row[0].startswith("CLIP") == (part == "clip")])
        path = Path("checkpoints") / name / part / "README.md"
        path.write_text(template.render(name=name, made=made, seed=made["worlds"][name], table=kept) + "\n")
        metadata_save(path, front_matter(name, part))


def read_yaml(path: str) -> dict:
    """A YAML file as plain values."""
    return YAML(typ="safe").load(Path(path).read_text())


def evaluated() -> dict[str, float]:
    """The figures of the last evaluation of the base; of answers, the share right by the kind of question."""
    metrics = json.loads(Path("reports/metrics/base.json").read_text())
    figures = {key: metrics[key]["value"] for key in BANDS if key in metrics}
    answers = [answer for answer in read_records("data/answers/base.jsonl", Answer) if answer.benchmark == "gqa"]
    for key, kind in (("probe/color", "color"), ("probe/two_facts", TWO_FACTS)):
        scores = [answer.score or 0.0 for answer in answers if answer.id.rpartition("-")[0] == kind]
        figures[key] = 100 * sum(scores) / len(scores)
    return figures


def validation(count: int) -> list[tuple[Image.Image, Scene]]:
    """The first validation scenes with seen art."""
    drawn = (draw_scene(SEED, "validation", index, 64) for index in range(2 * count))
    return [pair for pair in drawn if pair[1].art == "seen"][:count]


def probed() -> dict[str, float]:
    """CHAIR_I of descriptions to STIC's bad prompts, in percent: how far the base obeys them."""
    policy, drawn = load_policy("models/base"), validation(SCENES)
    images = {scene.file_name: image for image, scene in drawn}
    wrong = mentioned = 0
    for start in range(0, len(drawn), BATCH):
        scenes = [scene for _, scene in drawn[start : start + BATCH]]
        asked = [
            Request(scene.file_name, scene.file_name, IMAGINE[(start + row) % len(IMAGINE)]) for row, scene in enumerate(scenes)
        ]
        said = respond(policy, asked, lambda request: images[request.image_id], Decoding(0.0, 1.0, 96), SEED)
        for scene, text in zip(scenes, said, strict=True):
            named = chair.mentions(text)
            wrong, mentioned = wrong + sum(name not in scene.names() for name in named), mentioned + len(named)
    return {"probe/bad_prompts_chair_i": 100 * wrong / max(1, mentioned)}


def measure_clip() -> dict[str, float]:
    """How often, in percent, a true sentence scores above the same with another object, place or colour."""
    scorer = ImageTextScorer("models/scorer")
    hits: dict[str, list[bool]] = {}
    for image, scene in validation(SCENES):
        true, false = sentences(scene, np.random.default_rng(derive(SEED, "measure clip", scene.id)))
        scores = (scorer.encode_images([image]) @ scorer.encode_texts([true, *false.values()]).T)[0].tolist()
        for kind, score in zip(false, scores[1:], strict=True):
            hits.setdefault(kind, []).append(scores[0] > score)
    return {f"clip/{kind}": 100 * sum(right) / len(right) for kind, right in hits.items()}


def sentences(scene: Scene, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """A true sentence about one object of a scene, and false ones by what is changed."""
    found = first_instances(scene)
    cell, thing = found[rng.integers(len(found))]
    elsewhere = [other for other in range(len(CELLS)) if other != cell]
    false = {
        "plausible": cell_sentence(cell, [noun_phrase(absent(scene, 1, rng)[0])]),
        "random": cell_sentence(cell, [noun_phrase(absent(scene, 1, rng, plausible=False)[0])]),
        "place": cell_sentence(elsewhere[rng.integers(len(elsewhere))], [noun_phrase(thing.name, thing.color)]),
    }
    if thing.color:
        others = [color for color in COLORS if color != thing.color]
        false["color"] = cell_sentence(cell, [noun_phrase(thing.name, others[rng.integers(len(others))])])
    return cell_sentence(cell, [noun_phrase(thing.name, thing.color)]), false


def front_matter(name: str, part: str) -> dict:
    """The head of a card, as the hub reads it."""
    tags = {"policy": ("transformers", "image-text-to-text"), "clip": ("open_clip", "zero-shot-image-classification")}[part]
    return {
        "license": "cc-by-4.0",
        "library_name": tags[0],
        "pipeline_tag": tags[1],
        "model_name": name,
        "publisher": "small world",
        "credits": "Graphics: Twemoji, © Twitter, Inc and other contributors, CC-BY 4.0.",
    }


def table(rows: Sequence[tuple[str, float, Band]]) -> str:
    """A Markdown table of figures and the bands that the bases were made for."""
    lines = ["| figure | value | made for |", "|:--|--:|:--|"]
    for what, value, (low, high) in rows:
        band = f"{low:g} to {high:g}" if low > 0 and high < 100 else f"{low:g} or more" if low > 0 else f"{high:g} or less"
        lines.append(f"| {what} | {value:.1f} | {'' if (low, high) == (0, 100) else band} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
