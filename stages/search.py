"""CSR Algorithm 1, candidates of one iteration: search by sentences with the calibrated reward, pair the best and the worst.

Run:    python -m lookagain.launch search ITERATION PARENT, e.g. `search 2 csr-1`
Reads:  data/sample/, models/scorer, models/PARENT
Writes: data/pairs/csr-ITERATION/: pairs.jsonl, images/, counts.json
"""

import dataclasses
import random

from lookagain import runtime, tracking
from lookagain.extensions import find
from lookagain.generation import Request
from lookagain.images import ImageStore
from lookagain.pairs import Made, write_pairs
from lookagain.params import flatten, load_params
from lookagain.policy import Policy, load_policy
from lookagain.prompts import CSR_DESCRIBE
from lookagain.records import Pair, Provenance, from_dict
from lookagain.rewards import ImageTextScorer
from lookagain.schema import Params
from lookagain.search import Tree, best_and_worst, cumulative, search
from lookagain.seeds import derive


def main(iteration: str, parent: str) -> None:
    """Search on the policy of the iteration before; every iteration sees the same images and prompts."""
    params = load_params()
    method = f"csr-{iteration}"
    settings = params.csr.search
    find("rewards", settings.reward, "rewards")
    used = {
        "seed": params.seed,
        "lambda": params.lambda_,
        "search": settings,
        "images": params.csr.images,
        "loading": params.policy.loading,
    }
    with (
        runtime.stage(f"search@{iteration}", used, ["data/sample", "models/scorer", f"models/{parent}"]) as run,
        tracking.child(
            f"search@{iteration}", {"lambda": params.lambda_} | flatten(params.csr.search, "csr.search."), run.is_main
        ) as track,
    ):
        images = ImageStore("data/sample/images", params.data.max_image_pixels)
        ids = sorted(images.ids, key=lambda image_id: derive(params.seed, "csr", image_id))[: params.csr.images]
        requests = [
            Request(f"csr/{one}", one, random.Random(derive(params.seed, "csr prompt", one)).choice(CSR_DESCRIBE))
            for one in ids
        ]
        policy = load_policy(f"models/{parent}", params.policy.loading, run.device)
        scorer = ImageTextScorer("models/scorer", run.device)

        def work(batch: list[Request]) -> list[dict | None]:
            loaded = [images.load(one.image_id) for one in batch]
            found = search(policy, loaded, batch, scorer, settings, params.lambda_, params.seed)
            return [_pair(policy, method, one, tree, params) for one, tree in zip(batch, found, strict=True)]

        step = max(1, params.runtime.batch_size // (settings.keep_top + settings.keep_bottom))
        dealt = [requests[start : start + step] for start in range(0, len(requests), step)]
        made = run.map_batches(dealt, work, "trees")
        pairs = [from_dict(Pair, pair) for pair in made if pair is not None]
        if run.is_main:
            counts = {"planned": len(made), "no_pair": len(made) - len(pairs)}
            write_pairs(f"data/pairs/{method}", Made(pairs, counts, images))
            gaps = [_gap(pair) for pair in pairs]
            track.metrics(
                {"pairs": len(pairs), "no_pair": len(made) - len(pairs), "reward_gap": sum(gaps) / max(1, len(gaps))}, step=0
            )
            print(f"{method}: {len(pairs)} pairs of {len(made)} images; the others' responses all had one reward")


def _pair(policy: Policy, method: str, request: Request, tree: Tree, params: Params) -> dict | None:
    settings = params.csr.search
    ends = best_and_worst(tree, settings.aggregate)
    if ends is None:
        return None
    texts = [policy.text(node.tokens) for node in ends]
    decoding = dataclasses.asdict(settings) | {"lambda": params.lambda_}
    made = [
        Provenance(
            request.prompt,
            {"name": "none"},
            decoding,
            params.seed,
            cumulative(node, settings.aggregate),
            relevance=sum(sentence.relevance for sentence in node.sentences) / len(node.sentences),
        )
        for node in ends
    ]
    return dataclasses.asdict(
        Pair(request.id, request.image_id, method, request.prompt, texts[0], [texts[1]], made[0], [made[1]])
    )


def _gap(pair: Pair) -> float:
    return (pair.chosen_provenance.score or 0.0) - (pair.rejected_provenance[0].score or 0.0)
