"""Make preference pairs by a method: plan, generate both responses, record how each was made.

Run:    python -m lookagain.launch generate_pairs stic
Reads:  data/sample/, models/base
Writes: data/pairs/METHOD.jsonl
"""

import dataclasses

from lookagain import runtime, tracking
from lookagain.errors import UserError
from lookagain.generation import Decoding, Request, respond
from lookagain.images import ImageStore
from lookagain.pairs import batches, plan_stic
from lookagain.params import flatten, load_params
from lookagain.policy import load_policy
from lookagain.records import write_records
from lookagain.transforms import apply


def main(method: str) -> None:
    """Generate the pairs of one method."""
    params = load_params()
    if method != "stic":
        raise UserError(f"methods: no pair source {method!r}; known: stic")
    settings = params.stic.pairs
    used = {"seed": params.seed, "pairs": settings, "loading": params.policy.loading}
    name = f"generate_pairs@{method}"
    with (
        runtime.stage(name, used, ["data/sample", "models/base"]) as run,
        tracking.child(name, flatten(settings, f"{method}.pairs."), enabled=run.is_main) as track,
    ):
        images = ImageStore("data/sample/images", params.data.max_image_pixels)
        plans = plan_stic(
            images.ids, params.seed, settings.bad_prompt_share, settings.low_resolution, settings.brightness, settings.hue
        )
        asks = {ask.id: ask for plan in plans for ask in (plan.chosen, plan.rejected)}
        decoding = Decoding(settings.temperature, settings.top_p, settings.max_new_tokens)
        policy = load_policy("models/base", params.policy.loading, run.device)

        def work(batch):
            requests = [Request(ask.id, ask.image_id, ask.prompt) for ask in batch]
            return respond(
                policy, requests, lambda one: apply(images.load(one.image_id), asks[one.id].transform), decoding, params.seed
            )

        dealt = batches(list(asks.values()), params.runtime.batch_size)
        ids = [ask.id for batch in dealt for ask in batch]
        responses = dict(zip(ids, run.map_batches(dealt, work, "responses"), strict=True))
        pairs = [
            plan.pair(responses[plan.chosen.id], responses[plan.rejected.id], dataclasses.asdict(decoding), params.seed)
            for plan in plans
        ]
        if run.is_main:
            write_records(f"data/pairs/{method}.jsonl", pairs)
            equal = sum(pair.chosen in pair.rejected for pair in pairs)
            track.metrics({"pairs": len(pairs), "equal_pairs": equal}, step=0)
            print(f"{method}: {len(pairs)} pairs, {equal} with equal responses (kept, as Algorithm 1 has it)")
