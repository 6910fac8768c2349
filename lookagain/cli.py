"""The command line `lookagain`, run from the repository's root. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookagain.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from lookagain.papers.cells import Filled
    from lookagain.schema import Params

COMPARED_RESAMPLES = 10_000  # of `compare`, at the least

app = typer.Typer(
    help="Self-training of vision-language models, reproduced.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def use(preset: Annotated[str, typer.Argument(help="a file of presets/ without its ending, as tiny or smoke")]) -> None:
    """Make a preset the params: copy presets/PRESET.yaml over params.yaml."""
    from lookagain.params import load_params

    source = Path("presets") / f"{preset}.yaml"
    if not source.is_file():
        known = (
            ", ".join(sorted(path.stem for path in Path("presets").glob("*.yaml"))) or "none: run from the repository's root"
        )
        raise UserError(f"no preset {preset!r}; presets: {known}")
    load_params(source)
    temporary = Path(".params.yaml.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace("params.yaml")
    print(f"params.yaml is now presets/{preset}.yaml; `dvc repro` runs what that changes")


@app.command()
def params(path: Annotated[Path, typer.Argument(help="a params file")] = Path("params.yaml")) -> None:
    """Check a params file: every key known, present, of its type and in its bounds. Also that ACCELERATE_CONFIG names a config."""
    from lookagain.params import load_params
    from lookagain.runtime import accelerate_config

    load_params(path)
    if os.environ.get("ACCELERATE_CONFIG"):
        accelerate_config()
    print(f"{path}: well-formed")


@app.command()
def fidelity(
    method: Annotated[str, typer.Argument(help="stic, seva or csr; without it, all are listed")] = "",
    to: Annotated[str, typer.Argument(help="paper or as_released; without it, the method's switches are listed")] = "",
) -> None:
    """Do a method as its paper says or as its released code does: write that method's switches into params.yaml."""
    from lookagain.fidelity import SWITCHES, fidelity_of, set_fidelity, switches, written
    from lookagain.params import read_raw

    if to:
        changes = set_fidelity("params.yaml", method, to)
        for key, (before, after) in changes.items():
            print(f"{key}: {written(before)} -> {written(after)}")
        print(f"{method} is {to}; " + ("`dvc repro` runs what that changes" if changes else "nothing to change"))
        return
    raw = read_raw()
    for name in [method] if method else SWITCHES:
        paper, released = switches(name, "paper"), switches(name, "as_released")
        print(f"{name}: {fidelity_of(raw, name)}")
        for key in paper if method else ():
            print(f"  {key}: {written(paper[key])} (paper), {written(released[key])} (as released)")


@app.command()
def describe(
    image: Annotated[Path, typer.Argument(help="any image file")],
    model: Annotated[Path, typer.Option(help="a policy folder")] = Path("models/stic"),
    dar: Annotated[bool, typer.Option("--dar", help="describe and respond: describe first, then answer with it")] = False,
    prompt: Annotated[str, typer.Option(help="what to ask; evaluate.chair.prompt if not given")] = "",
) -> None:
    """Let a model describe an image, or answer a question about it."""
    from lookagain.images import read_image
    from lookagain.params import load_params

    settings = load_params()
    picture = read_image(image, settings.data.max_image_pixels)
    if not (model / "lineage.json").is_file():
        known = ", ".join(str(path.parent) for path in sorted(Path("models").glob("*/lineage.json")))
        raise UserError(f"no model in {model}; there are: {known or 'none yet, `dvc repro` trains them'}")
    print(_answer(settings, model, picture, prompt, dar))


def _answer(settings: Params, model: Path, picture: Image, prompt: str, dar: bool) -> str:
    import torch

    from lookagain.generation import Decoding, Request, respond
    from lookagain.policy import load_policy
    from lookagain.prompts import infuse

    policy = load_policy(model, settings.policy.loading, "cuda:0" if torch.cuda.is_available() else "cpu")
    chair = settings.evaluate.chair
    decoding = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=chair.max_new_tokens)

    def ask(text: str, shown: Image | None = picture) -> str:
        return respond(policy, [Request("describe", "describe", text)], lambda _: shown, decoding, settings.seed)[0]

    asked = prompt or chair.prompt
    if not dar:
        return ask(asked)
    return ask(infuse(ask(chair.prompt, None if settings.stic.blind_dar else picture), asked, settings.stic.infusion))


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="as pope, chair or mme; a wrong name lists all")],
    answers: Annotated[Path, typer.Option(help="a model's answers in the benchmark's official format")],
    reference: Annotated[Path, typer.Option(help="the publisher's folder, or one file of it; chair: the instances")],
    captions: Annotated[Path | None, typer.Option(help="chair: the reference captions, if not beside the instances")] = None,
) -> None:
    """Score any model's answers to an official benchmark, as JSON: neither torch nor the pipeline is needed."""
    import gc
    import json

    from lookagain.metrics.score import score_files

    gc.disable()  # the process ends with this command, and walking COCO's annotations again and again costs a second
    print(json.dumps(score_files(benchmark, answers, reference, captions), indent=1, ensure_ascii=False))


@app.command()
def results() -> None:
    """Print the results table of the last run."""
    from lookagain.report import tables

    tables.print_results()


@app.command("tables")
def paper_tables(
    name: Annotated[str, typer.Argument(help="as csr-9 or stic-fig-6; without it, all are listed")] = "",
    form: Annotated[str, typer.Option("--format", help="terminal, markdown, csv or latex (booktabs)")] = "terminal",
    out: Annotated[Path | None, typer.Option(help="a folder: write the table in all forms, and its figure, into it")] = None,
) -> None:
    """The papers' tables and figures: published numbers beside ours, from the workspace and DVC's experiments."""
    from lookagain.papers import render
    from lookagain.papers.tables import names

    if form not in ("terminal", *render.FORMATS):
        raise UserError(f"--format {form}: allowed are terminal, {', '.join(render.FORMATS)}")
    if not name:
        render.print_list(_filled(*names()))
        return
    (filled,) = _filled(name)
    if out is not None:
        from lookagain.papers import figures

        render.write(filled, out)
        figures.write(filled, out)
    if form == "terminal":
        render.print_table(filled)
    else:
        print(render.render(filled, form), end="")


@app.command()
def grid(
    name: Annotated[str, typer.Argument(help="a table or figure, as csr-9 (`lookagain tables` lists all), or a study")],
    jobs: Annotated[int, typer.Option(min=1, help="experiments at a time; each takes the memory of a whole run")] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be run, and run nothing")] = False,
) -> None:
    """Run the experiments that a table or a study still needs, through DVC, and print the table; a killed grid goes on."""
    from lookagain.papers import render, studies
    from lookagain.papers.grid import command, missing_runs, run_grid, with_failures
    from lookagain.params import read_raw

    raw = read_raw()
    if dry_run:
        for run in missing_runs(_filled(name)[0], raw):
            print(f"{', '.join(run.rows)}: {shlex.join(['dvc', *command(run, raw)[3:]])}")
        return
    outcomes = run_grid(lambda: _filled(name)[0], raw, jobs)
    filled = with_failures(_filled(name)[0], outcomes)
    if name in studies.names():
        done = sum(not row.missing for row in filled.rows)
        print(f"{done} of {len(filled.rows)} rows are measured; `lookagain study {name}` prints what they say")
    else:
        render.print_table(filled)
    if failed := [outcome for outcome in outcomes if outcome.error]:
        raise UserError(f"{len(failed)} of {len(outcomes)} experiments failed; `lookagain grid {name}` tries them again")


def _filled(*names: str) -> list[Filled]:
    """Tables with what the workspace and DVC's experiments measured under params.yaml and the rows' overrides."""
    from lookagain.cards import publisher_of
    from lookagain.papers import studies
    from lookagain.papers.cells import fill
    from lookagain.papers.experiments import experiments
    from lookagain.papers.tables import read
    from lookagain.params import read_raw

    raw, found, known = read_raw(), experiments(), studies.names()
    tables = [studies.unfold(studies.read(name), raw) if name in known else read(name) for name in names]
    return [fill(table, raw, found, publisher_of(raw)) for table in tables]


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="as world-results: a file of studies/ without its ending")] = "world-results",
    out: Annotated[Path | None, typer.Option(help="a file: write the page into it")] = None,
) -> None:
    """Which published effects a study's experiments show, as Markdown; `lookagain grid NAME` runs what is not measured yet."""
    from lookagain.records import atomic_write

    text = _study_page(name)
    if out is None:
        print(text, end="")
        return
    with atomic_write(out) as file:
        file.write(text)
    print(f"{out}: written")


def _study_page(name: str) -> str:
    from lookagain.papers import studies
    from lookagain.papers.study_page import page
    from lookagain.params import read_raw

    chosen = studies.read(name)
    preset = studies.preset_of(read_raw())
    params = f"Preset `{preset}`" if preset else "`params.yaml` as it is, which is no preset"
    return page(studies.Figures(chosen, _filled(name)[0]), params)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="a model with answers in data/answers/, as csr-1")],
    second: Annotated[str, typer.Argument(help="the model it is compared with, as stic")],
) -> None:
    """Test two models against each other on every benchmark: paired, with and without Holm's correction."""
    from lookagain.evaluation.questions import BenchmarkImages, read_annotations
    from lookagain.evaluation.scoring import Bootstrap, score_model
    from lookagain.params import load_params
    from lookagain.records import Answer, read_records
    from lookagain.report.compare import differences, show

    chosen = load_params()
    settings, folder = chosen.evaluate, Path("data/benchmarks") / chosen.evaluate.split
    images = BenchmarkImages(folder, chosen.data.max_image_pixels)
    annotations = read_annotations(
        folder, settings.pope.suffix, settings.chair.prompt, images, settings.benchmarks, settings.prompts
    )
    mine, other = (read_records(f"data/answers/{model}.jsonl", Answer) for model in (first, second))
    # A bootstrap's p is never below 2 / (resamples + 1), which Holm's correction over so many figures multiplies.
    resamples = max(settings.bootstrap, COMPARED_RESAMPLES)
    metrics = score_model(annotations, mine, other, None, Bootstrap(resamples, chosen.seed))
    show(differences(metrics), first, second)


@app.command()
def plan(
    gpu: Annotated[str, typer.Option(help="a GPU, or cpu; a wrong name lists all")] = "h200",
    gpus: Annotated[int, typer.Option(min=1, help="how many; with cpu, processes of one core each")] = 1,
    response_tokens: Annotated[int, typer.Option(min=0, help="how long descriptions are taken to be; 0: as usual")] = 0,
    path: Annotated[Path, typer.Argument(help="a params file")] = Path("params.yaml"),
) -> None:
    """Tell what a run will cost, stage by stage: tokens, FLOPs, memory, disk, time. Nothing runs."""
    from lookagain import plan as planning
    from lookagain.params import load_params
    from lookagain.sizes import HARDWARE

    if gpu not in HARDWARE:
        raise UserError(f"--gpu {gpu}: not known; known are {', '.join(HARDWARE)}")
    hardware = HARDWARE[gpu]
    print(planning.show(planning.plan(load_params(path), hardware, gpus, response_tokens or None), hardware, gpu, gpus))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="a policy folder, as models/stic")],
    out: Annotated[Path, typer.Argument(help="a folder that does not exist yet")],
    adapter_only: Annotated[bool, typer.Option("--adapter-only", help="the adapters as they are, without the base")] = False,
) -> None:
    """Write a model as one checkpoint in its base's format, with a model card; its logits are compared first."""
    import torch

    from lookagain.export import export as write
    from lookagain.params import load_params

    loading = load_params().policy.loading
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    difference = write(model, out, loading, adapter_only, Path("reports/metrics") / f"{model.name}.json", device)
    print(
        f"{out}: written" + ("" if difference is None else f"; log-probs differ by at most {difference:.2g} from the adapter's")
    )


@app.command()
def verify(
    commit: Annotated[str, typer.Option(help="a commit that holds a run's locks; without it, that of docs/results.md")] = "",
) -> None:
    """Tell whether the outputs here are, byte for byte, those of the committed run; exit code 1 if they are not."""
    from lookagain import verify as verifying

    equal, told = verifying.verify(commit)
    print("\n".join(told))
    raise typer.Exit(not equal)


@app.command()
def docs() -> None:
    """Write docs/results.md from the last run, once it is committed; to be run where it ran, with its ACCELERATE_CONFIG."""
    from lookagain import verify as verifying

    verifying.write_results()
    print(f"{verifying.RESULTS}: written")


@app.command()
def sync() -> None:
    """Bring MLflow up to date: stages not sent yet, and experiments that DVC restored from its cache."""
    from lookagain import tracking

    print(f"{tracking.sync()} recorded experiments are in the store, {tracking.sync_experiments()} added from DVC")


@app.command()
def ui(port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 5000) -> None:
    """Serve MLflow's page on 127.0.0.1 until interrupted."""
    from lookagain import tracking

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port} of 127.0.0.1 is taken ({error}): `lookagain ui --port {port + 1}`") from error
    tracking.sync()
    server = tracking.serve(port)
    print(f"MLflow on {tracking.address(port)} (Ctrl-C ends it)", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        tracking.end_server(server)


def main() -> None:
    """Entry point: an error that a user can mend is one line and exit code 1."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except subprocess.CalledProcessError as error:
        print(f"error: `{' '.join(map(str, error.cmd))}` failed: {(error.stderr or '').strip()[-500:]}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
