"""A study as Markdown: what it says of each published effect, decided by rule, then all figures, then where they come from."""

from __future__ import annotations

from collections.abc import Sequence

from lookagain.papers.gaps import HERE, SHOWS, Gap, together, verdict
from lookagain.papers.studies import CONTROL, VS_CONTROL, Block, Effect, Figures, Unit
from lookagain.papers.tables import Column

ARROWS = {"up": " ↑", "down": " ↓", None: ""}
SPLITS = {"test": "test images", "validation": "validation images, on which settings are tuned"}
NONE = "–"
READING = """A run is one of a base, published with its scorer, and a seed, which draws samples, pairs, order and decoding; the
images are the same for all. Intervals are 95%:

- **over runs**, Student's t: {runs};
- **over images**, from the bootstrap errors of each run: what these very models would give on other images. It is paired against
  the base, and the base cut; between two other models it is rather too wide.

An effect *shows* in a figure if the interval over runs lies on its side of 0. It *shows in these runs* if only the interval over
images does, and every run has the same sign: more runs may decide it. Nothing is corrected for the number of comparisons. Of
several figures the first one decides, which the study's file names; the others are there to see what else moves."""
ONE_SEED = "the differences at the bases vary, and it says what another base would give"
MORE_SEEDS = "the base is a fixed factor, and it says what other seeds would give for these bases"


def page(figures: Figures, params: str) -> str:
    """The whole page; `params` says in words which params were in force."""
    study = figures.study
    split = study.splits[-1]
    lost = [found for found in study.measured if any(figures.row(row.label, *found).missing for row in study.rows)]
    bases = "; ".join(f"{', '.join(own)} on {one}" for one, own in study.checkpoints.items())
    seeds = f"{'seeds' if study.seeds[1:] else 'seed'} {', '.join(map(str, study.seeds))}"
    head = [
        f"# {study.title}",
        f"Written by `lookagain study {study.name}` from files that the pipeline produced; nothing here is edited by hand. "
        f"`lookagain grid {study.name}` runs what is missing. {params}; {seeds}; {bases}.",
        *([_unmeasured(study.name, lost)] if lost else []),
        READING.format(runs=MORE_SEEDS if study.seeds[1:] else ONE_SEED),
        _list(study.notes),
    ]
    effects = ["## Published effects", _summary(figures, split), *(_effect(figures, effect) for effect in study.effects)]
    tables = []
    for one in reversed(study.splits):
        tables += [f"## On {SPLITS.get(one, one)}", _legend(study.rows[0].label)]
        tables += [*(_block(figures, block, one) for block in study.blocks), _control(figures, one)]
    sources = ["## Where the numbers come from", _sources(figures)]
    return "\n\n".join(part for part in [*head, *effects, *tables, *sources] if part) + "\n"


def _unmeasured(name: str, lost: Sequence[tuple[Unit, str]]) -> str:
    where = ", ".join(f"{unit} on {split}" for unit, split in lost)
    return f"**Not all is measured yet** (missing, at least in part: {where}): `lookagain grid {name}` runs it."


def _summary(figures: Figures, split: str) -> str:
    rows = []
    for effect in figures.study.effects:
        rows.append([f"**{effect.says}**", effect.source, effect.figures[0], _verdict_of(figures, effect, split)])
    return _table(["effect", "published in", f"decided by, on {split}", "here"], rows, ":--")


def _verdict_of(figures: Figures, effect: Effect, split: str) -> str:
    title = effect.figures[0]
    better = _column(figures, title).better or "up"
    gaps = [figures.gap(step.better, step.than, split, title) for step in effect.steps]
    known = [gap for gap in gaps if gap is not None]
    return together([verdict(gap, better) for gap in known]) if len(known) == len(gaps) else "not measured"


def _effect(figures: Figures, effect: Effect) -> str:
    """One effect: its verdict as a sentence, all comparisons, and why it may not show."""
    *others, split = figures.study.splits
    found = _verdict_of(figures, effect, split)
    heads = ["comparison", "figure", f"{split}", "over runs", "over images", "in each run", "", *others]
    rows = []
    for title in effect.figures:
        column = _column(figures, title)
        for step in effect.steps:
            gap = figures.gap(step.better, step.than, split, title)
            elsewhere = [figures.gap(step.better, step.than, one, title) for one in others]
            rows.append(
                [
                    f"{step.better} − {step.than}",
                    title + ARROWS[column.better],
                    *_told(gap, column),
                    verdict(gap, column.better or "up") if gap else NONE,
                    *(_signed(one.value, column) if one else NONE for one in elsewhere),
                ]
            )
    said = (
        f"{effect.source}; in {effect.figures[0]} it {found}."
        if found != "not measured"
        else f"{effect.source}; not measured yet."
    )
    why = [effect.otherwise.strip()] if effect.otherwise and found not in (SHOWS, HERE, "not measured") else []
    return "\n\n".join([f"### {effect.says[0].upper()}{effect.says[1:]}", said, _table(heads, rows), *why])


def _told(gap: Gap | None, column: Column) -> list[str]:
    """A difference, its intervals, and its value in each run."""
    if gap is None:
        return [NONE] * 4
    each = ", ".join(_signed(value, column) for value in gap.in_runs)
    return [_signed(gap.value, column), _interval(gap.over_runs, column), _interval(gap.over_images, column), each]


def _block(figures: Figures, block: Block, split: str) -> str:
    """Figures of the base, mean and each run's, and other models' differences from it with the interval over runs."""
    base, *others = [row.label for row in figures.study.rows]
    heads = [block.title, *(column.title + ARROWS[column.better] for column in block.columns)]
    rows = [[f"**{base}**", *(_mean(figures.values(base, split, column.title), column) for column in block.columns)]]
    rows += [[f"**{label}**", *(_cell(figures, label, base, split, one) for one in block.columns)] for label in others]
    return _table(heads, rows)


def _legend(other: str) -> str:
    return (
        f"Means over runs, and in brackets each run's; below each first row, differences from {other} with the 95% interval over "
        "runs. \\* it excludes 0; ° only that over images does, with one sign in all runs."
    )


def _control(figures: Figures, split: str) -> str:
    """The figures of descriptions against the base's descriptions cut to the model's own length."""
    columns = [
        column
        for column in figures.study.columns
        if any(_has_control(figures, row.label, split, column) for row in figures.study.rows)
    ]
    others = [row.label for row in figures.study.rows[1:]]
    heads = ["against the base cut to the same length", *(column.title + ARROWS[column.better] for column in columns)]
    rows = [[f"**{label}**", *(_cell(figures, label, CONTROL, split, column) for column in columns)] for label in others]
    return _table(heads, rows) if columns else ""


def _has_control(figures: Figures, label: str, split: str, column: Column) -> bool:
    return bool(figures.values(label, split, f"{column.title}{VS_CONTROL}"))


def _cell(figures: Figures, label: str, other: str, split: str, column: Column) -> str:
    gap = figures.gap(label, other, split, column.title)
    if gap is None:
        return NONE
    sure, here = (any(verdict(gap, side) == one for side in ("up", "down")) for one in (SHOWS, HERE))
    mark = "\\*" if sure else "°" if here else ""
    return f"{_signed(gap.value, column)} {_interval(gap.over_runs, column)}{mark}".strip()


def _sources(figures: Figures) -> str:
    """Each experiment, and the units, splits and runs that it measured."""
    study = figures.study
    measured: dict[str, list[str]] = {}
    changed: set[str] = set()
    for unit, split in study.measured:
        for row in study.rows:
            made = figures.row(row.label, unit, split).provenance
            if made is not None:
                who = (
                    f"{made.experiment} (code of {made.baseline[:12]}, benchmark data {made.data_hash[:12] or 'of no record'})"
                )
                what = f"{unit}, {split}, run {row.run}"
                if what not in measured.setdefault(who, []):
                    measured[who].append(what)
                changed.update(made.changed)
    lines = [f"{who}: {'; '.join(what)}" for who, what in measured.items()]
    runs = [
        f"run {name}: " + (", ".join(f"{key}={value}" for key, value in own.items()) or "params as they are")
        for name, own in study.runs.items()
    ]
    edited = [f"code changed since: {', '.join(sorted(changed))}"] if changed else []
    return _list([*runs, *(lines or ["nothing is measured yet"]), *edited])


def _column(figures: Figures, title: str) -> Column:
    return next(column for column in figures.study.columns if column.title == title)


def _mean(values: Sequence[float], column: Column) -> str:
    if not values:
        return NONE
    each = f" ({', '.join(f'{value:.{column.digits}f}' for value in values)})" if values[1:] else ""
    return f"{sum(values) / len(values):.{column.digits}f}{each}"


def _signed(value: float, column: Column) -> str:
    return f"{'+' if value >= 0 else '−'}{abs(value):.{column.digits}f}"


def _interval(ends: tuple[float, float] | None, column: Column) -> str:
    return f"[{_signed(ends[0], column)}, {_signed(ends[1], column)}]" if ends else NONE


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], aligned: str = "--:") -> str:
    lines = [list(heads), [":--"] + [aligned] * (len(heads) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|").replace("_", "\\_") for cell in line) + " |" for line in lines)


def _list(entries: Sequence[str]) -> str:
    return "\n".join(f"- {entry}" for entry in entries)
