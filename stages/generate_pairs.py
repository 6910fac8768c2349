"""Make preference pairs by a method: its source in lookagain/sources/ says what to ask the base and what becomes a pair.

Run:    python -m lookagain.launch generate_pairs METHOD, e.g. `generate_pairs stic`
Reads:  data/sample/, data/instruct/ (questions), models/base
Writes: data/pairs/METHOD/: pairs.jsonl, images/, counts.json
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lookagain import runtime, tracking
from lookagain.extensions import find
from lookagain.generation import Decoding, Request, option_losses, respond_in_turn
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

        def ask(images: ImageStore, asks: Sequence[Ask], work: Callable, size: int) -> dict[str, Any]:
            """What `work` says of each ask, by id; it is given requests about `size` images, and how these are shown."""
            by_id = {one.id: one for one in asks}

            def show(batch: Sequence[Ask]) -> list[Any]:
                distinct = {shown_as(one): one for one in batch}
                shown = {key: apply(images.load(one.image_id), one.transform) for key, one in distinct.items()}
                requests = [Request(one.id, one.image_id, one.prompt) for one in batch]
                return work(requests, lambda one: shown[shown_as(by_id[one.id])])

            rounds.append(f"responses {len(rounds) + 1}")
            dealt = batches_by_image(list(by_id.values()), max(1, size))
            ids = [one.id for batch in dealt for one in batch]
            return dict(zip(ids, run.map_batches(dealt, show, rounds[-1]), strict=True))

        def respond_to(images: ImageStore, asks: Sequence[Ask], decoding: Decoding) -> dict[str, str]:
            def work(requests, image_of):
                decodings = [decoding] * len(requests)
                return respond_in_turn(policy(), requests, decodings, image_of, params.seed, params.runtime.batch_size)

            return ask(images, asks, work, params.runtime.batch_size)

        def losses_of(images: ImageStore, asks: Sequence[Ask], options: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
            def work(requests, image_of):
                return option_losses(policy(), requests, [options[one.id] for one in requests], image_of)

            most = max((len(options[one.id]) for one in asks), default=1)
            return ask(images, asks, work, params.runtime.batch_size // most)

        pixels = params.data.max_image_pixels
        inputs = Inputs(
            seed=params.seed,
            sample=ImageStore("data/sample/images", pixels),
            respond=respond_to,
            losses=losses_of,
            instructions=lambda: read_records("data/instruct/conversations.jsonl", Conversation),
            instruct_images=lambda: ImageStore("data/instruct/images", pixels),
        )
        made = source.make_pairs(inputs, settings)
        if run.is_main:
            write_pairs(f"data/pairs/{method}", made)
            track.metrics({"pairs": len(made.pairs), **made.counts}, step=0)
            counted = ", ".join(f"{key.replace('_', ' ')} {count}" for key, count in made.counts.items())
            print(f"{method}: {len(made.pairs)} pairs ({counted})")
