"""From YAML to checked objects. The only file that knows jsonargparse and LightningCLI."""

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from anomaly_zoo.callbacks.evaluation import EvaluationCallback
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone

_PACKAGE = Path(__file__).parent
CONFIGS = next(path for path in (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs") if path.is_dir())
BASE = CONFIGS / "base.yaml"


def method_files() -> dict[str, Path]:
    """The methods: the name of every YAML in configs/methods, and its path."""
    return {path.stem: path for path in sorted((CONFIGS / "methods").glob("*.yaml"))}


class AnomalyCLI(LightningCLI):
    """A backbone, a method, the data and a trainer from configs/base.yaml, a method's YAML and options."""

    model: AnomalyModule
    datamodule: MVTecDataModule
    trainer: L.Trainer

    def __init__(self, args: list[str] | dict[str, Any] | None = None, run: bool = True) -> None:
        files = {"default_config_files": [str(BASE)]}
        self.evaluation = EvaluationCallback()
        super().__init__(
            AnomalyModule,
            MVTecDataModule,
            save_config_callback=None,
            trainer_defaults={"callbacks": [self.evaluation]},
            seed_everything_default=0,
            parser_kwargs={name: files for name in self.subcommands()} if run else files,
            subclass_mode_model=True,
            args=args,
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One backbone for every method, one seed for everything."""
        parser.add_class_arguments(Backbone, "backbone")
        parser.link_arguments("backbone", "model.init_args.backbone", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")


class _ParseOnly(AnomalyCLI):
    def instantiate_classes(self) -> None:
        """Builds nothing: parsing has checked every key and type."""


def resolve(method: str | Path, options: list[str]) -> dict[str, Any]:
    """The whole configuration of a run: the protocol, the method's YAML, then the options; all checked.

    Args:
        method: a name in configs/methods, or the path of a YAML file.
        options: command-line options such as `--data.category=bottle`.

    Returns:
        Plain nested values, as stored in a result and accepted by `build`.

    Raises:
        ValueError: an unknown method, key or type.
    """
    file = method_files().get(str(method), Path(method))
    if file.suffix != ".yaml" or not file.is_file():
        raise ValueError(f"method {str(method)!r} is unknown. Methods: {', '.join(method_files())}; or a .yaml file.")
    cli = _quietly(_ParseOnly, ["--config", str(file), *options])
    config: dict[str, Any] = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
    config.pop("config", None)
    return config


def build(config: dict[str, Any]) -> AnomalyCLI:
    """Seeds, then constructs `.model`, `.datamodule` and `.trainer` (and `.evaluation`, its callback)."""
    return _quietly(AnomalyCLI, config)


def _quietly(cli: type[AnomalyCLI], args: list[str] | dict[str, Any]) -> AnomalyCLI:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
        return cli(args, run=False)
