"""Continued supervised fine-tuning of the base on a share of the instruction data: the control of SeVa's Table 3 (2, 10, 20%).

Run:    python -m lookagain.launch train_continued MODEL, a name of continued_sft.models, e.g. `train_continued sft-10`
Reads:  data/instruct/, models/base
Writes: models/MODEL with training_log.json

A fresh adapter, where the paper trains all weights of the language model; labels are the data's own answers, all turns of a
conversation. A larger share holds a smaller one. Shares are of the conversations about images of `continued_sft.folders`, of all if
there are none (the paper's row of TextVQA and OCR-VQA).
"""

import hashlib
from pathlib import Path

import torch

from lookagain import runtime, tracking
from lookagain.errors import UserError
from lookagain.images import ImageStore
from lookagain.params import flatten, load_params
from lookagain.policy import add_adapter, load_policy, save_adapter
from lookagain.records import Conversation, read_records
from lookagain.seeds import derive
from lookagain.training.collate import Example
from lookagain.training.sft import train_sft
from lookagain.training.trainer import Optimisation, write_log


def main(model: str) -> None:
    """Train one model."""
    params = load_params()
    if model not in params.continued_sft.models:
        raise UserError(f"continued_sft.models has no {model!r}: it names {', '.join(params.continued_sft.models) or 'none'}")
    settings, share = params.continued_sft.sft, params.continued_sft.models[model]
    folders = params.continued_sft.folders
    used = {"seed": params.seed, "sft": settings, "share": share, "folders": folders, "loading": params.policy.loading}
    source = Path("data/instruct/conversations.jsonl")
    with (
        runtime.stage(f"train_continued@{model}", used, ["data/instruct", "models/base"]) as run,
        tracking.child(f"train_continued@{model}", flatten(settings, "sft.") | {"share": share}, enabled=run.is_main) as track,
    ):
        images = ImageStore("data/instruct/images", params.data.max_image_pixels)
        inside = tuple(f"{folder}/" for folder in folders)
        conversations = [one for one in read_records(source, Conversation) if not folders or one.image_id.startswith(inside)]
        if not conversations:
            raise UserError(f"continued_sft.folders = {folders}: no image of the instruction data lies there")
        ranked = sorted(conversations, key=lambda one: derive(params.seed, "continued", one.id))
        drawn = ranked[: max(1, round(share * len(conversations)))]
        policy = load_policy("models/base", params.policy.loading, run.device)
        torch.manual_seed(derive(params.seed, "adapter", model))
        add_adapter(policy, settings.lora_rank, settings.lora_alpha, settings.lora_dropout)
        examples = [
            Example(one.image_id, *policy.conversation([(turn.prompt, turn.response) for turn in one.turns])) for one in drawn
        ]
        optimisation = Optimisation.of(settings, params.runtime, derive(params.seed, "order", model), run, params.policy.dtype)
        log = train_sft(policy, examples, images.load, optimisation, track.metrics)
        if run.is_main:
            data = {str(source): hashlib.sha256(source.read_bytes()).hexdigest()}
            chosen = flatten(settings, "sft.") | {"share": share, "folders": folders}
            record = {"method": "continued sft", "params": chosen, "data": data}
            save_adapter(policy, f"models/{model}", continues=False, record=record)
            write_log(f"models/{model}/training_log.json", log)
            print(f"{model}: {len(examples)} conversations, {len(log)} steps, last loss {log[-1]['loss']:.3f}")
