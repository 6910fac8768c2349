"""What DVC makes of the inputs: a hub preset with a local checkpoint, and a publication that comes, goes and comes back."""

import shutil
from pathlib import Path

import pytest
from project import copy_repository, run, stages_run
from publication import ROOT, published_params, write, write_publication, write_yaml
from ruamel.yaml import YAML

PREPARED = ("check_params", "prepare_data", "prepare_policy", "prepare_scorer")
# Stands for the world's publisher, with its command, params and outputs; the files come from elsewhere.
PUBLISHER = """
import shutil, sys
shutil.copytree({source!r}, f"data/published/{{sys.argv[1]}}")
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory, policy_folder):
    return write_publication(tmp_path_factory.mktemp("elsewhere") / "files", policy_folder)


@pytest.fixture
def repository(tmp_path, published):
    """A repository whose publisher copies files, with nothing run in it."""
    folder = tmp_path / "lookagain"
    copy_repository(folder)
    (folder / "world/dvc.yaml").unlink()  # no checkpoint is trained here
    write(folder / "world/publish.py", PUBLISHER.format(source=str(published)))
    stage = YAML().load((ROOT / "dvc.yaml").read_text())["stages"]["publish"]["do"]
    for dep in [*stage["deps"], "checkpoints/world-0"]:
        if "${" not in dep and dep != "reports/params.ok" and not (folder / dep).exists():
            write(folder / dep if Path(dep).suffix else folder / dep / "part", "x")
    return folder


def use(folder, params):
    write_yaml(folder / "params.yaml", params)
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--allow-empty", "--message=params")


def elsewhere(root, **changes):
    """Params without a publication, of files and checkpoints at `root`."""
    return published_params(root, publish={}, **changes)


def test_a_publication_comes_goes_and_comes_back(repository, published):
    here, there = published_params("data/published/world"), elsewhere(published)
    ran = []
    for params in (here, there, here, there):
        use(repository, params)
        ran.append(stages_run(run(repository, "dvc", "repro", *PREPARED)))
        names = ["world"] if params["publish"] else []
        assert [path.name for path in Path(repository, "data/published").glob("*/")] == names
        assert "up to date" in run(repository, "dvc", "status", *PREPARED)
        run(repository, "git", "add", "--all")
        run(repository, "git", "commit", "--quiet", "--allow-empty", "--message=lock")
        assert run(repository, "git", "status", "--porcelain") == ""
    assert ran == [{*PREPARED, "publish@world"}, {*PREPARED}, {"check_params"}, {"check_params"}]


def test_one_prepared_input_is_new_where_one_key_is(repository, published):
    use(repository, elsewhere(published))
    run(repository, "dvc", "repro", *PREPARED)
    for change, stage in (
        ({"scorer__pretrained": "openai", "scorer__model": "ViT-L-14-336-quickgelu"}, "prepare_scorer"),
        ({"policy__revision": "x"}, "prepare_policy"),
        ({"data__max_bad_images": 1}, "prepare_data"),
        ({"evaluate__bootstrap": 7, "lambda": 0.5, "policy__dtype": "bfloat16"}, None),
    ):
        use(repository, elsewhere(published, **change))
        assert stages_run(run(repository, "dvc", "repro", *PREPARED)) == {"check_params", *([stage] if stage else [])}
        use(repository, elsewhere(published))
        run(repository, "dvc", "repro", *PREPARED)


def test_a_hub_preset_runs_on_a_local_checkpoint(repository, published):
    """Files in data/raw, which neither git nor DVC holds; the copy that an experiment runs in sees them all the same."""
    shutil.copytree(published, repository / "data/raw")
    preset = YAML().load((repository / "presets/llava-1.5-7b-quick.yaml").read_text())
    files = elsewhere("data/raw")
    chosen = preset | {key: files[key] for key in ("data", "scorer", "sample")}
    chosen["policy"] |= {"checkpoint": "data/raw/policy", "dtype": "float32"}
    for section in ("csr", "povid", "self_rewarding"):
        (chosen[section] if section == "csr" else chosen[section]["pairs"])["images"] = 6
    chosen["evaluate"]["chair"]["max_new_tokens"] = 8
    use(repository, chosen)
    planned = stages_run(run(repository, "dvc", "repro", "--dry", "--force"))  # else DVC 3.67 looks for deps to be made
    assert {*PREPARED, "report", "evaluate_base"} < planned
    assert not [name for name in planned if name.startswith("publish")]
    said = run(repository, "dvc", "exp", "run", "--temp", "--name", "local", "evaluate_base", "prepare_scorer")
    assert stages_run(said) == {*PREPARED, "evaluate_base"}
    (ref,) = run(repository, "git", "for-each-ref", "--format=%(refname)", "refs/exps/*/*/local").split()
    assert '"chair/novel_art/chair_s"' in run(repository, "git", "show", f"{ref}:reports/metrics/base.json")
    assert not (repository / "models").exists()


def test_wrong_params_stop_before_anything_runs(repository, published):
    use(repository, elsewhere(published, sample__images=0))
    with pytest.raises(AssertionError, match=r"sample.images = 0 must be") as failed:
        run(repository, "dvc", "repro", *PREPARED)
    assert stages_run(str(failed.value)) == {"check_params"}
