"""How much attention policies pay to image tokens while they describe, before and after self-training (CSR, Figure 6).

Run:    python -m lookagain.launch measure_attention
Reads:  models/, data/answers/ (greedy descriptions), data/benchmarks/<evaluate.split>/
Writes: data/attention.json: {"images": n, "bin": tokens, "models": {model: {"fingerprint", "figures": {key: Metric},
        "layers" and "positions": {"own" | "same": [[mean, standard error] of the share on the image in %, ...]}}}}; see
        lookagain.attention

It departs from the paper in what is shown: means over IMAGES images, not a map of one; of every evaluated policy, not of three.
Models evaluated with DaR or on augmented images are left out: they are asked something else.
"""

import dataclasses
import functools
import json
from pathlib import Path

from lookagain import runtime, tracking
from lookagain.attention import BIN, TEXTS, Text, attention, summary
from lookagain.images import ImageStore
from lookagain.params import load_params
from lookagain.policy import load_policy, read_lineage
from lookagain.records import atomic_write
from lookagain.seeds import derive

IMAGES = 64  # drawn by seed
BATCH = 8  # descriptions; one layer's maps of so many are in memory at once


def main() -> None:
    """Force each policy along its own descriptions and along the base's."""
    params = load_params()
    rows = {name: row.policy for name, row in params.evaluate.models.items() if not row.dar and row.augment is None}
    policies = {"base": "base", **rows} | {f"csr-{t}": f"csr-{t}" for t in range(1, params.csr.iterations + 1)}
    files = {name: Path(f"data/answers/{name}.jsonl") for name in policies}
    benchmark = Path(f"data/benchmarks/{params.evaluate.split}")
    loading = dataclasses.replace(params.policy.loading, attention="eager")
    used = [params.seed, params.evaluate.bootstrap, dataclasses.asdict(loading), rows]
    inputs = [benchmark, *files.values(), *(f"models/{policy}" for policy in policies.values())]
    with (
        runtime.stage("measure_attention", used, inputs) as run,
        tracking.child("measure_attention", {"images": IMAGES}, enabled=run.is_main) as track,
    ):
        texts = drawn({name: descriptions(path, name) for name, path in files.items()}, params.seed)
        store = ImageStore(benchmark / "images", params.data.max_image_pixels)
        load_image = functools.lru_cache(2 * BATCH)(store.load)
        own, same = {}, {}
        for name, policy in policies.items():
            loaded = functools.cache(lambda folder=f"models/{policy}": load_policy(folder, loading, run.device))
            both = [text for pair in zip(texts["base"], texts[name], strict=True) for text in pair]  # an image's together
            distinct = list({(text.image_id, text.response): text for text in both}.values())
            batches = [distinct[start : start + BATCH] for start in range(0, len(distinct), BATCH)]
            shares = run.map_batches(batches, lambda batch, model=loaded: attention(model(), batch, load_image), name)
            found = dict(zip([(text.image_id, text.response) for text in distinct], shares, strict=True))
            own[name] = [found[text.image_id, text.response] for text in texts[name]]
            same[name] = [found[text.image_id, text.response] for text in texts["base"]]
        if not run.is_main:
            return
        models = summary(own, same, params.evaluate.bootstrap, params.seed) if len(texts["base"]) > 1 else {}
        for name, one in models.items():
            figures = one["figures"]
            track.metrics({f"attention/{name}/{key}": metric.value for key, metric in figures.items()})
            one["figures"] = {key: dataclasses.asdict(metric) for key, metric in figures.items()}
            one["fingerprint"] = read_lineage(f"models/{policies[name]}").fingerprint
            own_text, base_text = (figures[f"{text}/image"].value for text in TEXTS)
            print(f"{name}: {own_text:.1f}% of attention on the image, {base_text:.1f}% along the base's descriptions")
        with atomic_write("data/attention.json") as file:
            json.dump({"images": len(texts["base"]), "bin": BIN, "models": models}, file)


def descriptions(path: Path, model: str) -> dict[str, Text]:
    """A model's greedy descriptions that have a word, by image. Other lines of its answers, most of them, are not parsed."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if '"chair"' in line]
    answers = [raw for raw in map(json.loads, lines) if raw["benchmark"] == "chair" and raw["response"].strip()]
    return {
        one["image_id"]: Text(f"{one['image_id']} by {model}", one["image_id"], one["prompt"], one["response"])
        for one in answers
    }


def drawn(found: dict[str, dict[str, Text]], seed: int) -> dict[str, list[Text]]:
    """By model the descriptions of the same images, drawn by seed from those that all models describe."""
    images = set.intersection(*map(set, found.values()))
    chosen = sorted(images, key=lambda one: (derive(seed, "attention", one), one))[:IMAGES]
    return {name: [by_image[image] for image in chosen] for name, by_image in found.items()}
