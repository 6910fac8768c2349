"""What the page shows of the data: descriptions of evaluation images side by side, and preference pairs by method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lookagain.records import Pair, Provenance
from lookagain.report.examples import Example, PairExample
from lookagain.report.markup import card, cell, mark_objects, photo, row, table, text
from lookagain.report.tables import Metrics, label

PAIR_COLUMNS = (  # of the table of pairs: title, key, decimals
    ("pairs", "pairs/all/pairs", 0),
    ("planned", "pairs/all/planned", 0),
    ("dropped", "pairs/all/equal_dropped", 0),
    ("words chosen", "pairs/chosen/length", 1),
    ("words rejected", "pairs/rejected/length", 1),
    ("gap", "pairs/all/length_gap", 1),
    ("CHAIR_I chosen", "pairs/chosen/chair_i", 1),
    ("CHAIR_I rejected", "pairs/rejected/chair_i", 1),
    ("reward margin", "pairs/all/reward_margin", 2),
)
PAIR_NOTE = (
    "Dropped: chosen and rejected were equal. CHAIR_I, in %, is of descriptions and short answers alike. Reward margin: mean over "
    "the last tenth of the training."
)


def gallery(examples: Sequence[Example]) -> str:
    """A card for each image: a row for each decoding, in it the models' descriptions beside each other."""
    if not examples:
        return "<p>No descriptions: no answers file has any.</p>"
    key = '<mark class="present">in the image</mark> <mark class="absent">not in the image</mark>'
    cards = "".join(_described(example) for example in examples)
    return f'<p class="note">{len(examples)} evaluation images drawn by seed. Named objects: {key}</p>{cards}'


def _described(example: Example) -> str:
    parts = []
    for decoding in dict.fromkeys(how for _, how, _ in example.descriptions):
        texts = "".join(
            f"<div><h5>{text(label(model))}</h5><p>{mark_objects(said, example.objects)}</p></div>"
            for model, how, said in example.descriptions
            if how == decoding
        )
        parts.append(f'<h4>{text(decoding)}</h4><div class="beside">{texts}</div>')
    truth = ", ".join(sorted(example.objects)) or "nothing of COCO's categories"
    return card(photo(example.image, example.image_id), f"In the image: {truth}", "".join(parts))


def pairs(examples: Mapping[str, Sequence[PairExample]], figures: Mapping[str, Metrics | None]) -> str:
    """The figures of all sets of pairs, then a few pairs of each."""
    drawn = '<p class="note">Drawn by seed. The training image is the one shown, always clean.</p>' if examples else ""
    return pair_table(figures) + drawn + "".join(_method(method, shown) for method, shown in examples.items())


def pair_table(diagnostics: Mapping[str, Metrics | None]) -> str:
    """Figures of all sets of pairs; what was not counted or measured is a dash that says why where it is known."""
    if not diagnostics:
        return ""
    groups = [[row(label(method), _counted(figures or {}), "main")] for method, figures in diagnostics.items()]
    return table(["", *(title for title, _, _ in PAIR_COLUMNS)], groups) + f'<p class="note">{PAIR_NOTE}</p>'


def _counted(figures: Metrics) -> list[str]:
    cells = []
    for _, key, decimals in PAIR_COLUMNS:
        metric = figures.get(key)
        if metric is None or metric.value is None:
            cells.append(cell("–", title=metric.reason or "" if metric else "not counted here"))
        else:
            error = f" ± {metric.se:.{decimals}f}" if metric.se is not None else ""
            cells.append(cell(f"{metric.value:.{decimals}f}{error}"))
    return cells


def _method(method: str, examples: Sequence[PairExample]) -> str:
    """A method's pairs; how responses were made is said once where it is the same for all of them, or for all of one side."""
    sides = {"chosen": list[list[str]](), "rejected": list[list[str]]()}
    for example in examples:
        for role, _, facts in _responses(example.pair):
            sides[role].append(facts)
    shared = {"all": _common([*sides["chosen"], *sides["rejected"]])}
    shared |= {side: [fact for fact in _common(made) if fact not in shared["all"]] for side, made in sides.items()}
    notes = "".join(f'<p class="note">{side}: {text(" · ".join(facts))}</p>' for side, facts in shared.items() if facts)
    said = {fact for facts in shared.values() for fact in facts}
    return f"<h3>{text(label(method))}</h3>{notes}{''.join(_pair(example, said) for example in examples)}"


def _common(made: Sequence[list[str]]) -> list[str]:
    """The facts that all of some responses have."""
    return [fact for fact in (made[0] if made else []) if all(fact in other for other in made)]


def _responses(pair: Pair) -> list[tuple[str, str, list[str]]]:
    """(chosen or rejected, text, how it was made) of each response of a pair."""
    rejected = zip(pair.rejected, pair.rejected_provenance, strict=True)
    chosen = ("chosen", pair.chosen, _facts(pair.chosen_provenance, pair.prompt))
    return [chosen, *(("rejected", said, _facts(made, pair.prompt)) for said, made in rejected)]


def _pair(example: PairExample, known: Collection[str]) -> str:
    """A pair: the prompt, under it the chosen and the rejected responses beside each other."""
    pair, responses = example.pair, []
    for role, said, made in _responses(pair):
        facts = " · ".join(fact for fact in made if fact not in known)
        responses.append(f'<div><h5 class="{role}">{role}</h5><p>{text(said)}</p><p class="note">{text(facts)}</p></div>')
    prompt = f'<p class="prompt">{text(pair.prompt)}</p>'
    return card(photo(example.image, pair.image_id), pair.id, f'{prompt}<div class="beside">{"".join(responses)}</div>')


def _facts(made: Provenance, prompt: str) -> list[str]:
    """How a response was made; its own prompt where it differs from the training prompt."""
    transform = dict(made.image_transform)
    name = str(transform.pop("name", "none"))
    settings = _settings(transform)
    facts = [] if made.prompt == prompt else [f"asked “{made.prompt}”"]
    facts.append("clean image" if name == "none" else f"image: {name.replace('_', ' ')}{f' ({settings})' if settings else ''}")
    facts += [_settings(made.decoding), f"seed {made.seed}"]
    if made.score is not None:
        facts.append(f"reward {made.score:.3g}")
    return [fact for fact in facts if fact]


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {f'{v:.3g}' if isinstance(v, float) else v}" for name, v in values.items())
