"""Train an adapter on preference pairs: STIC stage 1 (Eq. 4.1), and each iteration of CSR on the policy before it.

Run:    python -m lookagain.launch train_dpo METHOD MODEL [PARENT]
        e.g. `train_dpo stic stic-stage1`, `train_dpo csr-2 csr-2 csr-1`
Reads:  data/pairs/METHOD.jsonl, data/sample/, models/PARENT (the reference, and where the adapter starts)
Writes: models/MODEL with training_log.json
"""

import hashlib
import json
from pathlib import Path

import torch

from lookagain import runtime, tracking
from lookagain.images import ImageStore
from lookagain.pairs import batches
from lookagain.params import flatten, load_params
from lookagain.policy import add_adapter, load_policy, save_adapter
from lookagain.records import Pair, read_records
from lookagain.seeds import derive
from lookagain.training.dpo import reference_logps, train_dpo
from lookagain.training.trainer import Optimisation, write_log


def main(method: str, model: str, parent: str = "base") -> None:
    """Train one model on one method's pairs."""
    params = load_params()
    settings = params.csr.dpo if method.startswith("csr-") else getattr(params, method).dpo
    used = {"seed": params.seed, "dpo": settings, "loading": params.policy.loading}
    source = Path(f"data/pairs/{method}.jsonl")
    name = f"train_dpo@{model}"
    with (
        runtime.stage(name, used, [source, "data/sample", f"models/{parent}"]) as run,
        tracking.child(name, flatten(settings, "dpo."), enabled=run.is_main) as track,
    ):
        pairs = read_records(source, Pair)
        images = ImageStore("data/sample/images", params.data.max_image_pixels)
        policy = load_policy(f"models/{parent}", params.policy.loading, run.device)

        def references(batch: list[Pair]) -> list[list[float]]:
            return reference_logps(policy, batch, images.load, settings.max_length)

        dealt = batches(pairs, params.runtime.batch_size // 2 or 1)
        logps = run.map_batches(dealt, references, "reference")
        by_id = dict(zip([pair.id for batch in dealt for pair in batch], logps, strict=True))

        torch.manual_seed(derive(params.seed, "adapter", model))
        add_adapter(policy, settings.lora_rank, settings.lora_alpha, settings.lora_dropout)
        optimisation = Optimisation.of(settings, params.runtime, derive(params.seed, "order", model), run, params.policy.dtype)
        log = train_dpo(
            policy,
            pairs,
            [by_id[pair.id] for pair in pairs],
            images.load,
            settings.beta,
            settings.alpha,
            optimisation,
            track.metrics,
        )
        if run.is_main:
            data = hashlib.sha256(source.read_bytes()).hexdigest()
            record = {
                "method": method,
                "params": json.loads(json.dumps(flatten(settings, "dpo."))),
                "data": {str(source): data},
            }
            save_adapter(policy, f"models/{model}", continues=False, record=record)
            write_log(f"models/{model}/training_log.json", log)
            print(f"{model}: {len(pairs)} pairs, {len(log)} steps, last reward margin {log[-1]['reward_margin']:.2f}")
