"""Train an adapter on preference pairs: STIC stage 1 (Eq. 4.1), SeVa (Eq. 18), each iteration of CSR, and any other source's.

Run:    python -m lookagain.launch train_dpo METHOD MODEL [PARENT]
        e.g. `train_dpo stic stic-stage1`, `train_dpo csr-2 csr-2 csr-1`
Reads:  data/pairs/METHOD/, models/PARENT (the reference, and where the adapter starts)
Writes: models/MODEL with training_log.json, and reference_logps.json: by pair, the responses' log-probs under the reference

`objective: sft` learns the chosen responses alone (STIC's "positive only"). Two switches repeat what STIC's released code does:
`rejected_score: top1`, and `image_token: false`, which trains on prompts without the image.
"""

import hashlib
import json
from pathlib import Path

import torch

from lookagain import runtime, tracking
from lookagain.images import ImageStore
from lookagain.pairs import read_pairs
from lookagain.params import flatten, load_params, section
from lookagain.policy import add_adapter, load_policy, save_adapter
from lookagain.records import atomic_write
from lookagain.seeds import derive
from lookagain.training.collate import Kept
from lookagain.training.dpo import all_reference_logps, pair_examples, train_dpo
from lookagain.training.sft import train_sft
from lookagain.training.trainer import Optimisation, write_log
from lookagain.transforms import Shown


def main(method: str, model: str, parent: str = "base") -> None:
    """Train one model on one method's pairs."""
    params = load_params()
    settings = params.csr.dpo if method.startswith("csr-") else section(params, method).dpo
    used = {"seed": params.seed, "dpo": settings, "loading": params.policy.loading}
    source = Path(f"data/pairs/{method}")
    name = f"train_dpo@{model}"
    with (
        runtime.stage(name, used, [source, f"models/{parent}"]) as run,
        tracking.child(name, flatten(settings, "dpo."), enabled=run.is_main) as track,
    ):
        pairs = read_pairs(source)
        images = ImageStore(source / "images", params.data.max_image_pixels)
        policy = load_policy(f"models/{parent}", params.policy.loading, run.device)
        optimisation = Optimisation.of(settings, params.runtime, derive(params.seed, "order", model), run, params.policy.dtype)

        def load_image(image_id: str) -> Shown:
            return images.load(image_id) if settings.image_token else None

        def fresh_adapter() -> None:
            torch.manual_seed(derive(params.seed, "adapter", model))
            add_adapter(policy, settings.lora_rank, settings.lora_alpha, settings.lora_dropout)

        references = None
        if settings.objective == "sft":
            fresh_adapter()
            log = train_sft(policy, [pair_examples(policy, pair)[0] for pair in pairs], load_image, optimisation, track.metrics)
        else:
            kept, rows = Kept(), params.runtime.batch_size
            references = all_reference_logps(policy, pairs, load_image, settings, run.map_batches, rows, kept)
            fresh_adapter()
            losses = settings.beta, settings.alpha, optimisation, track.metrics, settings.rejected_score, kept
            log = train_dpo(policy, pairs, references, load_image, *losses)
        if run.is_main:
            data = hashlib.sha256((source / "pairs.jsonl").read_bytes()).hexdigest()
            record = {
                "method": method,
                "params": json.loads(json.dumps(flatten(settings, "dpo."))),
                "data": {str(source / "pairs.jsonl"): data},
            }
            save_adapter(policy, f"models/{model}", continues=False, record=record)
            write_log(f"models/{model}/training_log.json", log)
            if references is not None:
                with atomic_write(f"models/{model}/reference_logps.json") as file:
                    json.dump({pair.id: logps for pair, logps in zip(pairs, references, strict=True)}, file)
            last = f"last loss {log[-1]['loss']:.3f}"
            if "reward_margin" in log[-1]:
                last = f"last reward margin {log[-1]['reward_margin']:.2f}"
            print(f"{model}: {len(pairs)} pairs, {len(log)} steps, {last}")
