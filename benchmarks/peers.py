"""The slow ways that the fast paths are measured against and must agree with, written from their descriptions.

STIC's, SeVa's and CSR's generators answer one prompt at a time; plain batches call `generate` on padded prompts. CSR's released
search prefills the image and the response so far again for every node, and its reward scores one sentence at a time. trl's
trainers run as they come: vision data, LoRA, their own collators.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from benchmarks.timing import Done
from lookagain.decoder import Decoder
from lookagain.generation import Request
from lookagain.policy import Policy
from lookagain.rewards import ImageTextScorer
from lookagain.schema import SearchSettings
from lookagain.search import Growth, Node, full_stops, grow_sentences


@torch.inference_mode()
def generate(
    policy: Policy, requests: Sequence[Request], images: dict[str, Image.Image], max_new_tokens: int, batch_size: int
) -> list[str]:
    """Greedy responses by transformers' `generate` in plain batches; at batch size 1, one prompt at a time."""
    responses = []
    for start in range(0, len(requests), batch_size):
        batch = requests[start : start + batch_size]
        inputs = policy.processor(
            images=[[images[one.image_id]] for one in batch],
            text=[prompt_text(policy, one.prompt) for one in batch],
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(policy.device)
        ids = policy.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        responses += [policy.text(row) for row in ids[:, inputs["input_ids"].shape[1] :].tolist()]
    return responses


def prompt_text(policy: Policy, prompt: str) -> str:
    """A prompt about an image by the chat template, with BOS."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    text = policy.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    bos = policy.tokenizer.bos_token or ""
    return text if text.startswith(bos) else bos + text


class FreshGrower:
    """Grows sentences as `search.CachedGrower` does, but prefills image, prompt and response anew for every candidate."""

    def __init__(self, policy: Policy, images: Sequence[Image.Image], prompts: Sequence[str], settings: SearchSettings):
        self.policy, self.images, self.prompts, self.settings = policy, images, prompts, settings
        self.stops = full_stops(policy)

    @torch.inference_mode()
    def grow(self, nodes: Sequence[Node], uniforms: Tensor) -> list[list[Growth]]:
        """The distinct candidate sentences of each node."""
        grown = []
        for node, draws in zip(nodes, uniforms.view(len(nodes), self.settings.candidates, -1), strict=True):
            suffix = self.policy.suffix(self.prompts[node.tree]) + node.tokens
            copies = [self.images[node.tree].copy() for _ in range(self.settings.candidates)]
            decoder = Decoder(self.policy, copies).ask(range(len(copies)), [suffix] * len(copies)).branches()
            grown += grow_sentences(decoder, torch.arange(len(copies)), self.settings, self.stops, draws)
        return grown

    def keep(self, nodes: Sequence[Node]) -> list[Node]:
        """Nothing is kept but the text."""
        return list(nodes)


class OneByOneScorer(ImageTextScorer):
    """Encodes one image and one sentence at a time, and each as often as it comes."""

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Normalised image embeddings, (images, width)."""
        return torch.cat([super(OneByOneScorer, self).encode_images([image]) for image in images])

    def encode_texts(self, texts: Sequence[str], batch_size: int = 1) -> Tensor:
        """Normalised text embeddings, (texts, width)."""
        rows = []
        for text in texts:
            self.forget()
            rows.append(super().encode_texts([text], batch_size))
        return torch.cat(rows)

    def _embedded(self, tokens: Tensor) -> Tensor:
        """With the whole context, as open_clip has it."""
        return self.model.encode_text(tokens, normalize=True)


def trl_dpo(policy: Policy, rows: list[dict[str, Any]], lora: dict[str, Tensor], steps: dict[str, Any], beta: float) -> Done:
    """An epoch of trl's DPOTrainer on {images, prompt, chosen, rejected}; the losses of its steps come out."""
    arguments = DPOConfig(output_dir=tempfile.gettempdir(), beta=beta, **steps)
    return _epoch(lambda **shared: DPOTrainer(args=arguments, **shared), policy, rows, lora)


def trl_sft(policy: Policy, rows: list[dict[str, Any]], lora: dict[str, Tensor], steps: dict[str, Any]) -> Done:
    """An epoch of trl's SFTTrainer on {images, prompt, completion}; the losses of its steps come out."""
    arguments = SFTConfig(output_dir=tempfile.gettempdir(), **steps)
    return _epoch(lambda **shared: SFTTrainer(args=arguments, **shared), policy, rows, lora)


def _epoch(make: Callable[..., Any], policy: Policy, rows: list[dict[str, Any]], lora: dict[str, Tensor]) -> Done:
    """Train a fresh adapter that starts from the same weights as ours; trl wraps the model itself, so it gets a copy."""
    model = copy.deepcopy(policy.model)
    config, weights = model.peft_config["default"], {name: value.clone() for name, value in lora.items()}
    base, data = model.unload(), Dataset.from_list(rows)
    start = time.perf_counter()
    trainer = make(model=base, train_dataset=data, processing_class=policy.processor, peft_config=config)
    trainer.model.load_state_dict(weights, strict=False)
    trainer.train()
    seconds = time.perf_counter() - start
    return Done(len(rows), seconds, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
