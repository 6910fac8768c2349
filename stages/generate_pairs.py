"""Make preference pairs by a method: its source in lookagain/sources/ says what to ask the base and what becomes a pair.

Run:    python -m lookagain.launch generate_pairs METHOD, e.g. `generate_pairs stic`
Reads:  data/sample/, data/instruct/ (questions), models/base
Writes: data/pairs/METHOD/: pairs.jsonl, images/, counts.json
"""

import functools
from collections.abc import Sequence

from lookagain import runtime, tracking
from lookagain.extensions import find
from lookagain.generation import Decoding, Request, respond_in_turn
from lookagain.images import ImageStore
from lookagain.pairs import Ask, Inputs, batches_by_image, shown_as, write_pairs
from lookagain.params import flatten, load_params, pair_settings
from lookagain.policy import load_policy
from lookagain.records import Conversation, read_records
from lookagain.transforms import apply


def main(method: str) -> None:
    """Generate the pairs of one method."""
    params = load_params()
    source = find("sources", method, "make_pairs")
    settings = pair_settings(params, method, source.Settings)
    used = {"seed": params.seed, "pairs": settings, "loading": params.policy.loading}
    name = f"generate_pairs@{method}"
    with (
        runtime.stage(name, used, ["data/sample", "data/instruct", "models/base"]) as run,
        tracking.child(name, flatten(settings, f"{method}.pairs."), enabled=run.is_main) as track,
    ):

        @functools.cache
        def policy():
            return load_policy("models/base", params.policy.loading, run.device)

        rounds: list[str] = []

        def respond_to(images: ImageStore, asks: Sequence[Ask], decoding: Decoding) -> dict[str, str]:
            by_id = {ask.id: ask for ask in asks}

            def work(batch: Sequence[Ask]) -> list[str]:
                requests = [Request(ask.id, ask.image_id, ask.prompt) for ask in batch]
                distinct = {shown_as(ask): ask for ask in batch}
                shown = {key: apply(images.load(ask.image_id), ask.transform) for key, ask in distinct.items()}
                asked = requests, [decoding] * len(requests), lambda one: shown[shown_as(by_id[one.id])]
                return respond_in_turn(policy(), *asked, params.seed, params.runtime.batch_size)

            rounds.append(f"responses {len(rounds) + 1}")
            dealt = batches_by_image(list(by_id.values()), params.runtime.batch_size)
            ids = [ask.id for batch in dealt for ask in batch]
            return dict(zip(ids, run.map_batches(dealt, work, rounds[-1]), strict=True))

        pixels = params.data.max_image_pixels
        inputs = Inputs(
            seed=params.seed,
            sample=ImageStore("data/sample/images", pixels),
            respond=respond_to,
            instructions=lambda: read_records("data/instruct/conversations.jsonl", Conversation),
            instruct_images=lambda: ImageStore("data/instruct/images", pixels),
        )
        made = source.make_pairs(inputs, settings)
        if run.is_main:
            write_pairs(f"data/pairs/{method}", made)
            track.metrics({"pairs": len(made.pairs), **made.counts}, step=0)
            counted = ", ".join(f"{key.replace('_', ' ')} {count}" for key, count in made.counts.items())
            print(f"{method}: {len(made.pairs)} pairs ({counted})")
