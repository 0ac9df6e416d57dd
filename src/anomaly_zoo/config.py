"""From YAML to checked objects. The only file that knows jsonargparse and LightningCLI."""

import json
import logging
import re
import warnings
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy

from anomaly_zoo.callbacks.evaluation import EvaluationCallback
from anomaly_zoo.callbacks.finite_loss import FiniteLoss
from anomaly_zoo.data.mvtec import MVTecDataModule
from anomaly_zoo.module import AnomalyModule
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.yaml_files import BASE, CONFIGS, did_you_mean, find_method, method_files

__all__ = ["BASE", "CONFIGS", "AnomalyCLI", "build", "method_files", "quiet", "resolve"]

_HELP = (
    "One method on one category: `fit` adapts it to a few normal images, `test` scores it, `predict` lists the scores "
    "of the test images. Begin with: python -m anomaly_zoo fit --config configs/methods/frozen.yaml "
    "--data.root datasets/elpv --data.category mono. With --output, `fit` writes a model folder, for "
    "`predict --model`, `export` and `serve`: each has a --help of its own."
)
_KNOWN_WARNINGS = (
    "LightningCLI's args parameter is intended",  # build and resolve use it as meant
    "`isinstance.treespec, LeafSpec.` is deprecated",  # lightning 2.6 with torch 2.14
    "Found .* module.s. in eval mode",  # Backbone stays there on purpose
    ".*does not have many workers",  # there are few images
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's hints and the warnings that are known to mean nothing here off the terminal.

    Raises:
        ValueError: Lightning refuses a setting.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        try:
            yield
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error


class _Parser(LightningArgumentParser):
    def add_subclass_arguments(self, baseclass: Any, nested_key: str, *_: Any, **__: Any) -> list[str]:
        """Adds a required class; Lightning's is optional, which hides an error of its constructor in one of `None`."""
        self.add_argument(f"--{nested_key}", type=baseclass, required=True, enable_path=True)
        return [nested_key]


class AnomalyCLI(LightningCLI):
    """A backbone, a method, the data and a trainer from configs/base.yaml, a method's YAML and options."""

    model: AnomalyModule
    datamodule: MVTecDataModule
    trainer: L.Trainer

    def __init__(self, args: list[str] | dict[str, Any] | None = None, run: bool = True) -> None:
        files = {"default_config_files": [str(BASE)]}
        whole = {"exit_on_error": False, "prog": "python -m anomaly_zoo", "description": _HELP}
        self.evaluation = EvaluationCallback()
        super().__init__(
            AnomalyModule,
            MVTecDataModule,
            save_config_callback=None,
            trainer_defaults={"callbacks": [self.evaluation, FiniteLoss()]},
            seed_everything_default=0,
            parser_kwargs=whole | (dict.fromkeys(self.subcommands(), files) if run else files),
            parser_class=_Parser,
            subclass_mode_model=True,
            args=args,
            run=run,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What can be run; there is nothing to validate on."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "validate"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One backbone for every method, one seed for everything."""
        parser.add_class_arguments(Backbone, "backbone")
        parser.link_arguments("backbone", "model.init_args.backbone", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses; what is wrong becomes a `ValueError` of one line."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            said = " ".join(str(error).split())
            unknown = said.partition("Unrecognized arguments: ")[2].split("=")[0].partition(" ")[0]
            parsers = [parser, *(parser._subcommands_action.choices.values() if parser._subcommands_action else ())]
            known = {option for one in parsers for action in one._actions for option in action.option_strings}
            raise ValueError(
                said + "." * bool(unknown) + (did_you_mean(unknown, known) or " See --help.") * bool(unknown)
            ) from None
        trainer = self.config.get(self.config.get("subcommand") or "", self.config).trainer
        if trainer.precision not in (None, 32, "32", "32-true"):
            raise ValueError(f"trainer.precision is {trainer.precision}, but scores need 32-true: leave it out.")
        strategy = getattr(trainer.strategy, "class_path", trainer.strategy)
        if not re.fullmatch(r"auto|ddp(_find_unused_parameters_\w+)?|.*\.(DDP|SingleDevice)Strategy", str(strategy)):
            raise ValueError(f"trainer.strategy is {strategy}: choose auto or ddp, in which every image counts once.")

    def _parse_ckpt_path(self) -> None:
        """Takes nothing from a checkpoint: options that contradict it are refused (see `Rebuildable.load`)."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Lets a method that trains nothing run on several processes too: DDP refuses to wrap it.

        Also keeps torch from filling every new tensor with NaN, a search for faults that takes a tenth of a run.
        """
        trainer = super().instantiate_trainer(**kwargs)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        strategy = trainer.strategy
        if isinstance(strategy, DDPStrategy):
            wrap = strategy.configure_ddp

            def wrap_what_trains() -> None:
                if any(parameter.requires_grad for parameter in self.model.parameters()):
                    wrap()

            strategy.configure_ddp = wrap_what_trains  # type: ignore[method-assign]
        return trainer


class _ParseOnly(AnomalyCLI):
    def instantiate_classes(self) -> None:
        """Builds nothing: parsing has checked every key and type."""


@quiet()
def resolve(method: str | Path, options: list[str]) -> dict[str, Any]:
    """The whole configuration of a run: the protocol, the method's YAML, its variant, then the options; all checked.

    `method` is as for `find_method`; an option is such as `--data.category=bottle`.

    Raises:
        ValueError: an unknown method, variant, key or type.
    """
    file, overrides = find_method(method)
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in overrides.items()}
    changes = [f"--model.init_args.{name}={value}" for name, value in values.items()]
    return plain(_ParseOnly(["--config", str(file), *changes, *options], run=False))


def plain(cli: AnomalyCLI) -> dict[str, Any]:
    """The configuration of a run as plain nested values, as stored in a result and accepted by `build`."""
    config = yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))
    config = config[cli.subcommand] if cli.subcommand else config
    return {part: config[part] for part in ("seed_everything", "trainer", "model", "data", "backbone")}


@quiet()
def build(config: dict[str, Any]) -> AnomalyCLI:
    """Seeds, then constructs `.model`, `.datamodule` and `.trainer` (and `.evaluation`, its callback).

    Raises:
        ValueError: an unknown key or type, or what the constructors refuse.
    """
    return AnomalyCLI(config, run=False)
