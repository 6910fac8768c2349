"""The slow ways that the fast paths are measured against and must agree with, written from their descriptions.

CSR's released search prefills the image and the response so far again for every node; STIC's and CSR's generators answer one
prompt at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from lookagain.decoder import Decoder
from lookagain.params import SearchSettings
from lookagain.policy import Policy
from lookagain.search import Growth, Node, full_stops, grow_sentences


@torch.inference_mode()
def generate_one_by_one(policy: Policy, images: Sequence[Image.Image], prompt: str, max_new_tokens: int) -> list[str]:
    """Greedy responses by transformers' `generate`, one image at a time."""
    text = policy.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    responses = []
    for image in images:
        inputs = policy.processor(images=image, text=text, return_tensors="pt").to(policy.device)
        ids = policy.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        responses.append(policy.text(ids[0, inputs["input_ids"].shape[1] :].tolist()))
    return responses


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
            decoder = Decoder(self.policy, copies).ask(range(len(copies)), [suffix] * len(copies))
            grown += grow_sentences(decoder, 1, self.settings, self.stops, draws)
        return grown

    def keep(self, nodes: Sequence[Node]) -> list[Node]:
        """Nothing is kept but the text."""
        return list(nodes)
