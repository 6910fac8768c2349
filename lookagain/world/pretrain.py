"""The base policy: a LLaVA from scratch in minutes, on a frozen tower that already tells what is where.

Four phases, each needed (without the first two, yes/no answers stay at chance):
1. Alignment: the projector puts a patch near the word embeddings of its two words (`labels.py`), such as category and cell.
2. Yes/no questions, several about each image in one sequence, until their loss falls: attention learns to match a word of the
   question with a patch. The key projections of the first two layers start as copies of the query projections, so that it nearly
   can already. All tokens of the answers are labelled: with "yes" and "no" alone, the loss stays at chance for much longer.
3. Open questions, packed as well: to match one word of a patch and say the other. Some yes/no questions stay among them, and
   some about position, number and place and of multiple choice come in. Before phase 2 they would keep yes/no answers near
   chance; among the conversations alone they are too few.
4. Mixed conversations, as LLaVA's instruction data are.
Which answers are untrue, and so how imperfect the base is, the conversations decide (`language.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import (
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from lookagain.errors import UserError
from lookagain.records import Turn
from lookagain.seeds import derive
from lookagain.world import tokenizer as words
from lookagain.world.charts import Chart
from lookagain.world.conversations import choice, packed_questions, pair_questions
from lookagain.world.labels import FIRST_WORDS, SECOND_WORDS, first_weights, patch_words
from lookagain.world.lookups import chart_lookups, lookups
from lookagain.world.optimise import IGNORED, Report, hidden_matrices, in_bfloat16, mean_cross_entropy, minimise, own
from lookagain.world.scenes import Scene

WIDTH, LAYERS, HEADS = 128, 4, 4
MATCHING_LAYERS = 2  # whose keys start as their queries
BATCH = 32  # conversations
PACKED_BATCH = 24  # images; with 16 in either phase, yes/no answers were worse
KEPT_YES_NO, PAIRED, CHOICES = 1, 4, 2  # of the third phase: yes/no as in the second, yes/no of other kinds, multiple choice
ALIGN_BATCH = 64  # scenes
LENGTH_STEP = 32  # tokens: batches are padded to a multiple of it
LEARNING_RATE, ALIGN_LEARNING_RATE = 2e-3, 3e-3
YES_NO_LEARNING_RATE = 1e-3  # at 2e-3 the yes/no loss stays at chance for three times as long, or for good
PACKED_LEARNING_RATE = 1.5e-3
LOGIT_SCALE = 10.0  # of a projected patch with a word embedding


class PretrainError(UserError):
    """A base that did not learn to look: the message says which phase failed and what to change."""


@dataclass(frozen=True)
class Example:
    """One training sequence: token ids with its image's tokens, labels (IGNORED but for responses), and the image's row."""

    ids: list[int]
    labels: list[int]
    row: int


def new_llava(tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A LLaVA with this tower and an untrained projector and decoder."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(words.IMAGE),
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        vision_feature_layer=-1,  # the supervised one; LLaVA-1.5 takes -2 of a CLIP whose last layer serves its class token
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.vision_tower.requires_grad_(False)
    with torch.no_grad():
        for layer in model.model.language_model.layers[:MATCHING_LAYERS]:
            layer.self_attn.q_proj.weight.mul_(2.0)
            layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def encode(
    tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Sequence[Turn]], rows: Sequence[int], image_tokens: int
) -> list[Example]:
    """Conversations as the chat template writes them, each response ended by EOS; `rows` are their images' rows."""
    texts = sorted({text for turns in conversations for turn in turns for text in (turn.prompt, turn.response)})
    ids = dict(zip(texts, tokenizer(texts, add_special_tokens=False).input_ids, strict=True))
    user, assistant, image = tokenizer.convert_tokens_to_ids([words.USER, words.ASSISTANT, words.IMAGE])
    examples = []
    for turns, row in zip(conversations, rows, strict=True):
        sequence, labels = [tokenizer.bos_token_id], [IGNORED]
        for number, turn in enumerate(turns):
            asked = [user, *([] if number else [image] * image_tokens), *ids[turn.prompt], assistant]
            answered = [*ids[turn.response], tokenizer.eos_token_id]
            sequence += asked + answered
            labels += [IGNORED] * len(asked) + answered
        examples.append(Example(sequence, labels, row))
    return examples


class _Answering(torch.nn.Module):
    """Projector and decoder on precomputed tower features."""

    def __init__(self, model: LlavaForConditionalGeneration):
        super().__init__()
        self.image_token = model.config.image_token_id
        self.projector, self.decoder, self.head = model.model.multi_modal_projector, model.model.language_model, model.lm_head

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        """(rows, length) ids and (rows, patches, width) features -> logits of each next token (rows, length - 1, vocabulary)."""
        embedded = self.decoder.embed_tokens(ids)
        embedded = embedded.masked_scatter((ids == self.image_token)[..., None], self.projector(features))
        states = self.decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, :-1]
        return self.head(states)  # all of them: a shape that changes every step costs more than the prompts' logits


def align(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    shown: Sequence[Scene | Chart],
    steps: int,
    seed: int,
    report: Report,
) -> None:
    """Phase 1: train the projector and the word embeddings on (images, 1 + patches, width) tower features."""
    device = model.device
    generator = torch.Generator().manual_seed(derive(seed, "align"))
    firsts, seconds = patch_words(shown)
    embeddings, weight = model.get_input_embeddings().weight, first_weights().to(device)
    first_ids, second_ids = (
        torch.tensor(tokenizer.convert_tokens_to_ids(list(tokens)), device=device) for tokens in (FIRST_WORDS, SECOND_WORDS)
    )

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(len(shown), (ALIGN_BATCH,), generator=generator)
        patches = model.model.multi_modal_projector(features[own(rows), 1:].to(device).float()).flatten(0, 1)
        named, told = (LOGIT_SCALE * patches @ embeddings[ids].T for ids in (first_ids, second_ids))
        first, second = firsts[rows], seconds[rows]
        return mean_cross_entropy(named, own(first).flatten().to(device), first, weight) + 0.5 * mean_cross_entropy(
            told, own(second).flatten().to(device), second
        )

    projector = model.model.multi_modal_projector
    minimise("projector", [*projector.parameters(), embeddings], [], loss_at, steps, ALIGN_LEARNING_RATE, report)


def fit(
    label: str,
    model: LlavaForConditionalGeneration,
    examples: Sequence[Example],
    features: Tensor,
    steps: int,
    seed: int,
    report: Report,
    batch_size: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    floor: float = 0.02,
    enough: float | None = None,
) -> float:
    """Phases 2 to 4: train projector and decoder on the labelled tokens; returns the smoothed loss."""
    device = model.device
    batches = _batches(examples, batch_size, np.random.default_rng(derive(seed, label)))
    answering = in_bfloat16(_Answering(model))

    def loss_at(step: int) -> Tensor:
        whole = next(batches)
        answers = torch.tensor([label for example in whole for label in example.labels[1:]])
        batch = own(whole)
        ids = _padded([example.ids for example in batch], 0).to(device)
        labels = _padded([example.labels for example in batch], IGNORED).to(device)[:, 1:]
        logits = answering(ids, features[[example.row for example in batch], 1:].to(device))
        return mean_cross_entropy(logits.flatten(0, 1), labels.flatten(), answers)

    model.set_attn_implementation("eager")  # the fused attention's backward is slow on CPUs
    model.train()
    trained = model.parameters(), hidden_matrices(model)
    loss = minimise(label, *trained, loss_at, steps, learning_rate, report, floor=floor, enough=enough)
    model.set_attn_implementation("sdpa")
    model.eval()
    return loss


def packed(one: Scene | Chart, seed: int) -> list[Turn]:
    """The packed questions of phase 3 about a scene or a chart; a chart has short open questions only."""
    rng = np.random.default_rng(derive(seed, "packed", one.id))
    if isinstance(one, Chart):
        return chart_lookups(one, rng)
    turns = [*packed_questions(one, rng, KEPT_YES_NO), *pair_questions(one, rng, PAIRED), *lookups(one, rng)]
    turns += [choice(one, rng) for _ in range(CHOICES)]
    return [turns[number] for number in rng.permutation(len(turns))]


def pretrain(
    tower: CLIPVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    shown: Sequence[Scene | Chart],
    conversations: Sequence[Sequence[Turn]],
    steps: tuple[int, int, int, int],
    yes_no_loss: float,
    seed: int,
    report: Report,
) -> LlavaForConditionalGeneration:
    """All four phases on scenes and charts, their tower features (images, 1 + patches, width) and one conversation for each.

    `steps` are those of alignment, yes/no questions (at most), all packed questions and mixed conversations. Raises PretrainError
    if the yes/no loss does not fall below `yes_no_loss`.
    """
    align_steps, most_yes_no_steps, packed_steps, mixed_steps = steps
    torch.manual_seed(derive(seed, "decoder"))
    model = new_llava(tower, tokenizer).to(tower.device)
    image_tokens = features.shape[1] - 1
    align(model, tokenizer, features, shown, align_steps, seed, report)
    steady = 1.0  # the learning rate's floor: not slower towards the end
    scenes = {row: one for row, one in enumerate(shown) if isinstance(one, Scene)}
    asked = [packed_questions(one, np.random.default_rng(derive(seed, "yes/no", one.id))) for one in scenes.values()]
    examples = encode(tokenizer, asked, list(scenes), image_tokens)
    settings = PACKED_BATCH, YES_NO_LEARNING_RATE, steady, yes_no_loss
    loss = fit("yes/no", model, examples, features, most_yes_no_steps, seed, report, *settings)
    if loss >= yes_no_loss:
        raise PretrainError(
            f"the yes/no loss is {loss:.3f} after {most_yes_no_steps} steps, not below policy.world.yesno_loss = {yes_no_loss}: "
            "the base does not look at the image yet; raise policy.world.max_yesno_steps, or tower_steps and align_steps"
        )
    examples = encode(tokenizer, [packed(one, seed) for one in shown], range(len(shown)), image_tokens)
    fit("questions", model, examples, features, packed_steps, seed, report, PACKED_BATCH, PACKED_LEARNING_RATE, steady)
    mixed = encode(tokenizer, conversations, range(len(shown)), image_tokens)
    fit("conversations", model, mixed, features, mixed_steps, seed, report)
    return model


def _batches(examples: Sequence[Example], size: int, rng: np.random.Generator) -> Iterator[list[Example]]:
    """Endless shuffled batches of examples of about the same length, each example once an epoch."""
    while True:
        order = rng.permutation(len(examples))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), 16 * size):
            bucket = sorted(order[start : start + 16 * size], key=lambda number: len(examples[number].ids))
            batches += [np.array(bucket[first : first + size]) for first in range(0, len(bucket), size)]
        for number in rng.permutation(len(batches)):
            yield [examples[index] for index in batches[number]]


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of different length as one tensor, padded on the right; to few lengths, for each new shape is compiled anew."""
    length = -(-max(map(len, rows)) // LENGTH_STEP) * LENGTH_STEP
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])
