"""STIC Algorithm 2, second half: fine-tune the stage-1 adapter on instructions with the model's own descriptions before them.

The description goes into the first turn's instruction; the ground-truth responses stay unchanged and are all that is learned.

Run:    python -m lookagain.launch train_sft
Reads:  data/instruct/, data/descriptions.jsonl, models/stic-stage1
Writes: models/stic with training_log.json
"""

import hashlib
from pathlib import Path

from lookagain import runtime, tracking
from lookagain.images import ImageStore
from lookagain.params import flatten, load_params
from lookagain.policy import check_trainable, load_policy, save_adapter
from lookagain.prompts import infuse
from lookagain.records import Conversation, Description, iter_records, read_records
from lookagain.seeds import derive
from lookagain.training.collate import Example
from lookagain.training.sft import train_sft
from lookagain.training.trainer import Optimisation, write_log


def main() -> None:
    """Train STIC's second stage."""
    params = load_params()
    settings = params.stic.sft
    used = {"seed": params.seed, "sft": settings, "infusion": params.stic.infusion, "loading": params.policy.loading}
    source = Path("data/descriptions.jsonl")
    with (
        runtime.stage("train_sft", used, [source, "data/instruct", "models/stic-stage1"]) as run,
        tracking.child("train_sft", flatten(settings, "stic.sft."), enabled=run.is_main) as track,
    ):
        images = ImageStore("data/instruct/images", params.data.max_image_pixels)
        described = {one.id: one.response for one in read_records(source, Description)}
        conversations = [one for one in iter_records("data/instruct/conversations.jsonl", Conversation) if one.id in described]
        policy = load_policy("models/stic-stage1", params.policy.loading, run.device, merge_last=False)
        check_trainable(policy.model)
        examples = []
        for one in conversations:
            turns = [(turn.prompt, turn.response) for turn in one.turns]
            turns[0] = (infuse(described[one.id], turns[0][0], params.stic.infusion), turns[0][1])
            examples.append(Example(one.image_id, *policy.conversation(turns)))
        optimisation = Optimisation.of(settings, params.runtime, derive(params.seed, "order", "stic"), run, params.policy.dtype)
        log = train_sft(policy, examples, images.load, optimisation, track.metrics)
        if run.is_main:
            data = {str(source): hashlib.sha256(source.read_bytes()).hexdigest()}
            record = {"method": "stic stage 2", "params": flatten(settings, "sft."), "data": data}
            save_adapter(policy, "models/stic", continues=True, record=record)
            write_log("models/stic/training_log.json", log)
            print(f"stic: {len(examples)} conversations, {len(log)} steps, last loss {log[-1]['loss']:.3f}")
