import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from anomaly_zoo import yaml_files
from anomaly_zoo.config import BASE, CONFIGS, build, method_files, resolve
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.run import run
from anomaly_zoo.yaml_files import variants

TOY = {"class_path": "tests.toy.Toy", "init_args": {"steps": 2}}


def options(root: Path) -> list[str]:
    data = [f"--data.root={root}", "--data.category=alpha", "--data.shots=2", "--data.image_size=64"]
    return [*data, "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]


def write_method(path: Path, **parts: Any) -> Path:
    path.write_text(yaml.safe_dump({"model": TOY} | parts))
    return path


@pytest.mark.parametrize("method", sorted(method_files()))
def test_the_protocol_is_the_same_for_every_method(method: str, tiny_root: Path) -> None:
    config = resolve(method, [f"--data.root={tiny_root}", "--data.category=alpha"])
    base = yaml.safe_load(BASE.read_text())
    assert base.keys() >= {"seed_everything", "backbone", "data", "trainer"}
    for part, protocol in base.items():
        kept = config[part] if part == "seed_everything" else {key: config[part][key] for key in protocol}
        assert kept == protocol


@pytest.mark.parametrize("method", sorted(method_files()))
def test_a_method_file_says_what_runs_it_and_holds_nothing_but_the_method(method: str) -> None:
    file = method_files()[method]
    assert f"make bench METHOD={method}" in file.read_text()
    assert yaml.safe_load(file.read_text()).keys() == {"model"}


@pytest.mark.parametrize("method", sorted(method_files()))
def test_a_variant_is_the_method_but_for_what_it_says(method: str, tiny_root: Path) -> None:
    where = [f"--data.root={tiny_root}", "--data.category=alpha"]
    whole = resolve(method, where)
    own = whole["model"]["init_args"]
    for name, overrides in variants(method).items():
        assert own | overrides != own or method.endswith("_paper"), name
        expected = whole | {"model": whole["model"] | {"init_args": own | overrides}}
        assert resolve(f"{method}:{name}", where) == expected


def test_a_variant_comes_after_its_method_and_before_the_options(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coft.yaml").write_text("some: {steps: 3, learning_rate: 0.5, negatives: [blob], contrast: none}\n")
    monkeypatch.setattr(yaml_files, "SWEEPS", tmp_path)
    given = resolve("coft:some", [*options(tiny_root), "--model.init_args.learning_rate=0.25"])["model"]["init_args"]
    changed = {"steps": 3, "learning_rate": 0.25, "negatives": ["blob"], "contrast": "none"}
    assert given == resolve("coft", options(tiny_root))["model"]["init_args"] | changed


def test_a_variant_with_an_unknown_option_is_one_line_that_names_it(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "coft.yaml").write_text("some: {stepz: 3}\n")
    monkeypatch.setattr(yaml_files, "SWEEPS", tmp_path)
    with pytest.raises(ValueError, match="stepz") as raised:
        resolve("coft:some", options(tiny_root))
    assert "\n" not in str(raised.value)


def test_options_come_after_the_method_file_which_comes_after_the_protocol(tiny_root: Path, tmp_path: Path) -> None:
    file = write_method(tmp_path / "toy.yaml", data={"shots": 3, "views": 5})
    config = resolve(file, options(tiny_root))
    assert (config["data"]["shots"], config["data"]["views"]) == (2, 5)
    assert config["data"]["batch_size"] == yaml.safe_load(BASE.read_text())["data"]["batch_size"]


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--data.shotz=3", "data.shotz"),
        ("--shots=3", "--shots"),
        ("--data.shots=many", "data.shots"),
        ("--data.shots", "data.shots"),
        ("--data.seed=3", "seed_everything"),
        ("--model.init_args.lenght=3", "lenght"),
        ("--model.init_args.length=long", "length"),
        ("--model.class_path=anomaly_zoo.methods.nope.Nope", "anomaly_zoo.methods.nope.Nope"),
        ("--model.class_path=torch.nn.ReLU", "AnomalyModule"),
        ("--config=missing.yaml", "missing.yaml"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(
    option: str, named: str, tiny_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_method(tmp_path / "toy.yaml")
    with pytest.raises(ValueError, match=named) as raised:
        resolve(file, [*options(tiny_root), option])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("data: {shot: 3}", "shot"),
        ("model: {class_path: tests.toy.Toy, init_args: {lenght: 3}}", "lenght"),
        ("model: {class_path: tests.toy.Toy, init_args: {length: [3]}}", "length"),
        ("data: {shots: 3}", "model"),
        ("model: [", "line 2"),
    ],
)
def test_a_wrong_method_file_is_one_line_that_names_the_key(
    content: str, named: str, tiny_root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=named) as raised:
        resolve(file, options(tiny_root))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_an_unknown_method_lists_those_that_exist(tiny_root: Path) -> None:
    with pytest.raises(ValueError, match=r"'nope' is unknown.*patchcore, "):
        resolve("nope", options(tiny_root))


def test_what_a_constructor_refuses_arrives_as_it_was_raised(tiny_root: Path, tmp_path: Path) -> None:
    config = resolve(write_method(tmp_path / "toy.yaml"), [*options(tiny_root), "--model.init_args.steps=-1"])
    with pytest.raises(ValueError, match="steps=-1") as raised:
        build(config)
    assert raised.traceback[-1].name == "__init__"  # where to look; not the depths of the parser


def test_the_seed_reaches_the_data(tiny_root: Path) -> None:
    cli = build(resolve("patchcore", [*options(tiny_root), "--seed_everything=7"]))
    assert cli.datamodule.seed == 7


def test_the_seed_decides_the_first_weights(tiny_root: Path, tmp_path: Path) -> None:
    file = write_method(tmp_path / "toy.yaml")

    def weights(seed: int) -> torch.Tensor:
        torch.rand(seed + 1)  # whatever happened before
        return build(resolve(file, [*options(tiny_root), f"--seed_everything={seed}"])).model.get_parameter(
            "network.weight"
        )

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_method_gets_the_configured_backbone(tiny_root: Path) -> None:
    name = ["--backbone.name=resnet18", "--backbone.stages=[1,2]", "--backbone.weights=none"]
    cli = build(resolve("patchcore", [*options(tiny_root), *name]))
    assert cli.model.backbone_spec == {"name": "resnet18", "stages": [[1, 2]], "scales": [1.0]}


def test_there_is_one_backbone(tiny_root: Path) -> None:
    cli = build(resolve("patchcore", options(tiny_root)))
    inside = [part for part in cli.model.modules() if isinstance(part, Backbone)]
    assert len(inside) == 1
    assert cli.config_init["backbone"] is inside[0]


def test_the_configuration_of_a_result_rebuilds_its_run(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB", "0")
    config = resolve(write_method(tmp_path / "toy.yaml"), options(tiny_root))
    first = run(config, "toy", tmp_path / "results")
    again = run(first.config, "toy", tmp_path / "results")
    assert first.config == again.config == config
    assert first.images == again.images
    assert first.metrics == again.metrics


@pytest.mark.slow
def test_configs_lie_inside_an_installed_package(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "src" / "anomaly_zoo", tmp_path / "anomaly_zoo")
    shutil.copytree(CONFIGS, tmp_path / "anomaly_zoo" / "configs")  # as [tool.hatch] force-include puts them
    command = "from anomaly_zoo.config import BASE, method_files; print(BASE, *method_files().values(), sep='\\n')"
    said = subprocess.run(
        [sys.executable, "-c", command], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    files = [Path(line) for line in said.stdout.splitlines()]
    assert len(files) == 1 + len(method_files())
    assert all(file.is_file() and file.is_relative_to(tmp_path) for file in files)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--data.imagesize=128", r"Did you mean --data\.image_size\?"),
        ("--trainer.acelerator=cpu", r"Did you mean --trainer\.accelerator\?"),
        ("--zzz=1", "See --help"),
    ],
)
def test_a_mistyped_option_is_answered_with_the_nearest(option: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"Unrecognized arguments: {option}\. {hint}"):
        resolve("frozen", [option])
