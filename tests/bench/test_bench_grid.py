"""A grid file: every run in it, and an error that names file, key and value for what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from blocklora.bench.grid import load_grid
from blocklora.bench.published import load_published
from blocklora.bench.store import read_plan, read_records
from blocklora.core.errors import ConfigError
from blocklora.methods import METHODS

EXAMPLES = Path(__file__).parents[2] / "examples"
GOOD = """
models = ["tiny"]
shots = [1, 4]
seeds = [1, 2, 3]
[data.digits]
[data.mine]
path = "photos"
prompt = "a drawing of {}."
[methods.clip-lora]
[methods.folded]
method = "block-lora"
parametrization = "folded"
iterations = 7
targets = ["q", "v"]
[settings]
iterations = 5
device = "cpu"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_grid_is_the_product_of_its_parts(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    grid = load_grid(write(tmp_path, GOOD))
    assert len(grid.runs) == len({run.key for run in grid.runs}) == 1 * 2 * 2 * 3 * 2
    folded = next(run for run in grid.runs if run.method == "folded" and run.data == "mine")
    assert folded.arguments == {
        "method": "block-lora", "parametrization": "folded", "iterations": 7, "targets": ("q", "v"), "device": "cpu",
        "data": (tmp_path / "photos").as_posix(), "prompt": "a drawing of {}.", "model": "tiny", "shots": 1, "seed": 1,
    }  # fmt: skip
    assert (folded.resolved["lr"], folded.resolved["iterations"]) == (4e-3, 7)
    assert folded.name == "folded on mine, 1 shots, seed 1, tiny"
    assert load_grid(write(tmp_path, GOOD)).plan == grid.plan


def test_all_of_a_seed_comes_before_the_next(tmp_path: Path) -> None:
    seeds = [run.seed for run in load_grid(write(tmp_path, GOOD)).runs]
    assert seeds == sorted(seeds)


def test_the_keys_of_the_results_that_came_with_the_project_stay() -> None:
    runs = load_grid(EXAMPLES / "grids" / "tiny.toml").runs
    folder = EXAMPLES.parent / "results" / "tiny"
    assert [run.entry for run in runs] == read_plan(folder)
    assert {run.key for run in runs} <= read_records(folder).keys()


def test_equal_settings_under_two_names_are_one_run(tmp_path: Path) -> None:
    text = (
        GOOD
        + '[methods.again]\nmethod = "clip-lora"\niterations = 5\nlr = 4e-3\n[data.also]\npath = "./photos/"\n'
    )
    (tmp_path / "photos").mkdir()
    grid = load_grid(write(tmp_path, text.replace('prompt = "a drawing of {}."', "")))
    assert len(grid.runs) == 2 * 3 * 3 * 3
    assert len(grid.distinct_runs) == len({run.key for run in grid.runs}) == 2 * 3 * 2 * 2
    assert {(run.method, run.data) for run in grid.distinct_runs} == {
        (method, data) for method in ("clip-lora", "folded") for data in ("digits", "mine")
    }
    assert grid.distinct_runs == sorted(grid.distinct_runs, key=grid.runs.index)
    assert [note.split(":")[0] for note in grid.notes] == [
        "also has equal settings to mine",
        "again has equal settings to clip-lora",
    ]
    assert load_grid(write(tmp_path, GOOD)).notes == []


def test_one_model_folder_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for other in ("clip/", "./clip", (tmp_path / "clip").as_posix(), "../" + tmp_path.name + "/clip"):
        text = GOOD.replace('["tiny"]', f'["clip", "{other}"]')
        with pytest.raises(
            ConfigError, match=r"models: 'clip' and '.*clip/?' are the same folder; name it once"
        ):
            load_grid(write(tmp_path, text))


def test_other_spellings_of_a_known_data_set_are_the_same_data(tmp_path: Path) -> None:
    grid = load_grid(
        write(tmp_path, GOOD.replace("[data.digits]", 'root = "."\n[data.oxford_pets]\n[data.OxfordPets]'))
    )
    named = [run for run in grid.runs if "pets" in run.data.lower()]
    assert {run.arguments["data"] for run in named} == {"oxford_pets"}
    assert len(named) == 2 * len({run.key for run in named})


def test_files_of_a_grid_lie_beside_it_and_count_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, model = tmp_path / "names.txt", tmp_path / "clip"
    names.write_text("a\nb\n", encoding="utf-8")
    model.mkdir()
    (model / "config.json").write_text("{}", encoding="utf-8")
    text = GOOD.replace("[data.mine]", '[data.mine]\nclass_names = "names.txt"').replace('"tiny"', '"clip"')
    runs = load_grid(write(tmp_path, text)).runs
    mine = [run for run in runs if run.data == "mine"]
    assert {run.arguments["class_names"] for run in mine} == {names.as_posix()}
    assert {tuple(run.files) for run in mine} == {(names,)}
    assert not any("class_names" in run.resolved or run.files for run in runs if run.data == "digits")
    names.write_text("a\nc\n", encoding="utf-8")
    changed = load_grid(write(tmp_path, text)).runs
    assert {run.data for run, now in zip(runs, changed, strict=True) if run.key != now.key} == {"mine"}
    (model / "model.safetensors").write_bytes(b"weights")
    again = load_grid(write(tmp_path, text)).runs
    assert all(run.key != now.key for run, now in zip(changed, again, strict=True))
    (model / "README.md").write_text("no part of the model", encoding="utf-8")
    assert [run.key for run in load_grid(write(tmp_path, text)).runs] == [run.key for run in again]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    home = (
        text.replace('"names.txt"', '"~/names.txt"')
        .replace('"clip"', '"~/clip"')
        .replace('"photos"', '"~/photos"')
    )
    assert [run.key for run in load_grid(write(tmp_path, home)).runs] == [run.key for run in again]
    names.unlink()
    with pytest.raises(
        ConfigError, match=r"grid\.toml: data\.mine\.class_names: .*names\.txt: cannot be read"
    ):
        load_grid(write(tmp_path, text))
    unknown = GOOD.replace('"photos"', '"~no_such_user/photos"')
    run = next(run for run in load_grid(write(tmp_path, unknown)).runs if run.data == "mine")
    assert run.arguments["data"] == (tmp_path / "~no_such_user" / "photos").as_posix()


def test_the_folder_where_the_command_is_given_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    for name in ("digits", "mymodel", "photos"):
        (here / name).mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(
        ConfigError, match=r"data\.digits: 'digits' is in the folder where you are, not beside the grid"
    ):
        load_grid(write(tmp_path, GOOD))
    with pytest.raises(ConfigError, match="models: 'mymodel' is in the folder where you are"):
        load_grid(write(tmp_path, GOOD.replace('"tiny"', '"mymodel"')))
    (here / "digits").rmdir()
    run = next(run for run in load_grid(write(tmp_path, GOOD)).runs if run.data == "mine")
    assert run.arguments["data"] == (tmp_path / "photos").as_posix()


def test_the_common_root_is_for_data_sets_known_by_name(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    text = 'root = "sets"\n' + GOOD.replace(
        "[data.digits]", '[data.digits]\n[data.dtd]\n[data.pets]\npath = "OxfordPets"'
    )
    found = {run.data: run.arguments for run in load_grid(write(tmp_path, text)).runs}
    root = (tmp_path / "sets").as_posix()
    assert {name: (a["data"], a.get("root")) for name, a in found.items()} == {
        "digits": ("digits", None),
        "dtd": ("dtd", root),
        "pets": ("oxford_pets", root),
        "mine": ((tmp_path / "photos").as_posix(), None),
    }
    with pytest.raises(ConfigError, match=r"data\.dtdd: no data set is called 'dtdd'.*did you mean 'dtd'"):
        load_grid(write(tmp_path, text.replace("[data.dtd]", "[data.dtdd]")))


def test_a_peft_configuration_lies_beside_the_grid_or_in_it(tmp_path: Path) -> None:
    text = '{"peft_type": "LORA", "r": 3}'
    (tmp_path / "lora.json").write_text(text, encoding="utf-8")
    for value in ('"lora.json"', f"'{text}'"):
        grid = GOOD + f'[methods.mine]\nmethod = "peft"\npeft_config = {value}\n'
        run = next(run for run in load_grid(write(tmp_path, grid)).runs if run.method == "mine")
        assert run.resolved["peft_config"] == run.arguments["peft_config"] == text
    with pytest.raises(ConfigError, match=r"gone\.json"):
        load_grid(write(tmp_path, grid.replace(f"'{text}'", '"gone.json"')))


def test_a_key_changes_with_every_setting_and_with_nothing_else(tmp_path: Path) -> None:
    before = {run.key for run in load_grid(write(tmp_path, GOOD)).runs}
    for old, new in [("iterations = 5", "iterations = 6"), ("iterations = 7", "iterations = 8")]:
        changed = {run.key for run in load_grid(write(tmp_path, GOOD.replace(old, new))).runs}
        assert len(before & changed) == 12  # the other method's
    renamed = load_grid(write(tmp_path, GOOD.replace("methods.folded", "methods.other")))
    assert {run.key for run in renamed.runs} == before
    said = GOOD.replace("iterations = 7", "iterations = 7\nlr = 4e-3")  # the default for tiny, written out
    assert {run.key for run in load_grid(write(tmp_path, said)).runs} == before
    published = GOOD.replace("iterations = 7", "iterations = 7\nlr = 2e-4")
    assert len(before & {run.key for run in load_grid(write(tmp_path, published)).runs}) == 12


def test_defaults_of_the_bundled_model_are_its_own(tmp_path: Path) -> None:
    runs = load_grid(
        write(tmp_path, GOOD.replace('["tiny"]', '["tiny", "openai/clip-vit-base-patch32"]'))
    ).runs
    assert {(run.model, run.resolved["lr"]) for run in runs} == {
        ("tiny", 4e-3), ("openai/clip-vit-base-patch32", 2e-4)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "shots = [1, 4]",
            "shots = [0]",
            r"shots = \[0\]: expected a list of different whole numbers of 1 or",
        ),
        ("shots = [1, 4]", "shots = [true]", r"shots = \[True\]: expected a list"),
        ("shots = [1, 4]", "", r"shots = None: expected a list"),
        ("seeds = [1, 2, 3]", "seeds = [1, 1]", r"seeds = \[1, 1\]: expected a list of different"),
        ('models = ["tiny"]', "models = []", r"models = \[\]: expected a list of different names"),
        ("seeds =", "seed =", r"unknown key 'seed'; did you mean 'seeds'\?"),
        ("prompt =", "promt =", r"\[data.mine\]: unknown key 'promt'; did you mean 'prompt'\?"),
        ('"photos"', "3", r"data.mine.path = 3: expected text in quotes"),
        (
            '"block-lora"',
            '"block-lore"',
            r"methods.folded.method = 'block-lore': expected one of .*block-lora",
        ),
        ('"folded"', '"fold"', r"methods.folded: parametrization 'fold': expected one of blocks, folded"),
        ("iterations = 7", 'lr = "fast"', r"methods.folded: lr 'fast': expected a number"),
        ("iterations = 7", "learning_rate = 1", r"methods.folded: unknown option 'learning_rate'"),
        ("iterations = 7", "seed = 1", r"methods.folded.seed: this is not a method's setting"),
        (
            "iterations = 5",
            "iteration = 5",
            r"\[settings\]: unknown key 'iteration'; did you mean 'iterations'\?",
        ),
        ("[settings]", '[settings]\nmethod = "coop"', r"\[settings\]: unknown key 'method'"),
        ("[settings]", "[settings]\nshots = 3", r"methods.clip-lora.shots: this is not a method's setting"),
        ("[data.digits]\n[data.mine]", "[photos]", r"unknown key 'photos'"),
        ("[settings]", "[settings", r"not valid TOML"),
        ("[data.digits]", "[data.digits]\nroot = 1", r"data.digits.root = 1: expected text in quotes"),
    ],
)
def test_what_cannot_work_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=rf"grid\.toml: .*{message}"):
        load_grid(path)


def test_a_missing_grid_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: there is no such file"):
        load_grid(tmp_path / "no.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_grid(tmp_path)


def test_a_users_method_counts_by_its_code(tmp_path: Path) -> None:
    methods = tmp_path / "mine.py"
    code = "from blocklora.methods.frozen.zero_shot import METHOD\nMETHODS = {'my-method': METHOD}\n"
    methods.write_text(code, encoding="utf-8")
    text = 'methods_from = "mine.py"\n' + GOOD.replace("[methods.clip-lora]", "[methods.my-method]")
    try:
        before = load_grid(write(tmp_path, text))
        assert before.methods_from == methods
        methods.write_text(code + "# another\n", encoding="utf-8")
        after = load_grid(write(tmp_path, text))
    finally:
        METHODS.pop("my-method", None)
    assert {run.method for run in before.runs if run not in after.runs} == {"my-method"}
    assert len({run.key for run in before.runs} & {run.key for run in after.runs}) == 12


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "expected a dictionary METHODS"),
        ("METHODS = {}", "expected a dictionary METHODS"),
        ("METHODS = {'my-method': print}", "expected a dictionary METHODS"),
        (
            "from blocklora.methods.frozen.zero_shot import METHOD\nMETHODS = {'zero-shot': METHOD}",
            "METHODS has 'zero-shot', which is a method of blocklora",
        ),
        ("1 / 0", "running it fails: ZeroDivisionError"),
    ],
)
def test_a_users_file_that_cannot_work_is_named(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    before = dict(METHODS)
    with pytest.raises(ConfigError, match=rf"mine\.py: {message}"):
        load_grid(write(tmp_path, 'methods_from = "mine.py"\n' + GOOD))
    with pytest.raises(ConfigError, match=r"other\.py: there is no such Python file"):
        load_grid(write(tmp_path, 'methods_from = "other.py"\n' + GOOD))
    assert before == METHODS


def test_the_examples_are_grids() -> None:
    before = dict(METHODS)
    try:
        eleven = load_grid(EXAMPLES / "grids" / "eleven.toml")
        assert len(eleven.runs) % (3 * 11 * 5 * 3) == 0
        assert {run.data for run in eleven.runs} == set(load_published().data)
        assert eleven.runs[0].arguments["root"] == (EXAMPLES.parent / "data").as_posix()
        assert {run.model for run in load_grid(EXAMPLES / "grids" / "tiny.toml").runs} == {"tiny"}
        assert len(load_grid(EXAMPLES / "grids" / "new_method.toml").runs) == 54
        assert "my-prototypes" in METHODS
    finally:
        METHODS.clear()
        METHODS.update(before)
    assert len((EXAMPLES / "new_method.py").read_text(encoding="utf-8").splitlines()) < 60
