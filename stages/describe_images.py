"""STIC Algorithm 2, first half: describe the images of a part of the instruction data, by the stage-1 policy.

Run:    python -m lookagain.launch describe_images
Reads:  data/instruct/, models/stic-stage1
Writes: data/descriptions.jsonl
"""

import dataclasses
import heapq
import random

from lookagain import runtime, tracking
from lookagain.generation import Decoding, Request, respond
from lookagain.images import ImageStore
from lookagain.pairs import batches
from lookagain.params import flatten, load_params
from lookagain.policy import load_policy
from lookagain.prompts import STIC_CAPTION
from lookagain.records import Conversation, Description, Provenance, iter_records, write_records
from lookagain.seeds import derive


def main() -> None:
    """Describe the images of `stic.describe.items` conversations, drawn by seed."""
    params = load_params()
    settings = params.stic.describe
    used = {"seed": params.seed, "describe": settings, "loading": params.policy.loading}
    with (
        runtime.stage("describe_images", used, ["data/instruct", "models/stic-stage1"]) as run,
        tracking.child("describe_images", flatten(settings, "stic.describe."), enabled=run.is_main) as track,
    ):
        images = ImageStore("data/instruct/images", params.data.max_image_pixels)
        conversations = iter_records("data/instruct/conversations.jsonl", Conversation)
        drawn = heapq.nsmallest(settings.items, conversations, key=lambda one: derive(params.seed, "describe", one.id))
        requests = [
            Request(one.id, one.image_id, random.Random(derive(params.seed, "prompt", one.id)).choice(STIC_CAPTION))
            for one in drawn
        ]
        decoding = Decoding(settings.temperature, settings.top_p, settings.max_new_tokens)
        policy = load_policy("models/stic-stage1", params.policy.loading, run.device)
        dealt = batches(requests, params.runtime.batch_size)
        responses = run.map_batches(
            dealt,
            lambda batch: respond(policy, batch, lambda one: images.load(one.image_id), decoding, params.seed),
            "descriptions",
        )
        made = [
            Description(
                one.id, one.image_id, text, Provenance(one.prompt, {"name": "none"}, dataclasses.asdict(decoding), params.seed)
            )
            for one, text in zip([one for batch in dealt for one in batch], responses, strict=True)
        ]
        if run.is_main:
            write_records("data/descriptions.jsonl", sorted(made, key=lambda one: one.id))
            track.metrics({"descriptions": len(made)}, step=0)
            print(f"{len(made)} conversations' images described")
