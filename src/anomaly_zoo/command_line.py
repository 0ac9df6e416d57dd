"""What `python -m anomaly_zoo` adds to Lightning's command line: tracking, the adapted module, a table of scores."""

import csv
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from anomaly_zoo.config import AnomalyCLI
from anomaly_zoo.deploy.adapting import make_model, require_deployable
from anomaly_zoo.deploy.model_folder import save
from anomaly_zoo.run import describe
from anomaly_zoo.tracking import tracker

CHECKPOINT = "adapted.ckpt"
PREDICTIONS = "predictions.csv"


class CommandLine(AnomalyCLI):
    """`fit` writes `adapted.ckpt`, `test` prints the metrics, `predict` writes `predictions.csv`.

    Files go into `trainer.default_root_dir`. With `--output`, `fit` writes a model folder too, see `deploy`.
    """

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Gives `fit` two options; `add_arguments_to_parser` would give them to all."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--output", type=str | None, default=None, help="model folder to write (docs/deploy.md)"
            )
            rate = "share of normal images that may count as anomalous, for --output"
            parser.add_argument("--false_alarm_rate", type=float, default=0.05, help=rate)
        return parser

    def before_fit(self) -> None:
        """Tracks the run with W&B (offline; `WANDB=0` switches it off) unless a logger is configured."""
        if self.config.fit.output is not None:
            require_deployable(self.datamodule)
        if not self.trainer.loggers:
            config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))[self.subcommand]
            self.trainer.logger = tracker(self._folder, describe(config, type(self.model).__name__))

    def after_fit(self) -> None:
        """Saves the adapted module."""
        path = self._folder / CHECKPOINT
        self.trainer.save_checkpoint(path, weights_only=True)
        self._say(f"Adapted. Test it: the same options with `test --ckpt_path {path}`")
        if self.config.fit.output is not None and self.trainer.is_global_zero:
            output = Path(self.config.fit.output)
            model = make_model(self.model, self.datamodule, self.config.fit.false_alarm_rate)
            save(model, output)
            self._say(f"Inspect images: `predict --model {output} FOLDER --output out`")

    def before_test(self) -> None:
        """Asks for the adapted module."""
        assert self.subcommand is not None
        if self.config[self.subcommand].ckpt_path is None:
            raise ValueError(f"{self.subcommand} needs --ckpt_path: the {CHECKPOINT} that `fit` wrote.")

    before_predict = before_test

    def after_test(self) -> None:
        """Prints the metrics, and what could not be measured."""
        for metric, value in self.evaluation.metrics.items():
            self._say(f"{metric:13} {value:.4f}")
        for metric, reason in self.evaluation.undefined.items():
            self._say(f"{metric:13} undefined: {reason}")

    def predict(self, model: L.LightningModule, **kwargs: Any) -> None:
        """Writes the score of every test image."""
        predictions = self.trainer.predict(model, **kwargs)
        assert predictions is not None
        scores = [score for prediction in predictions for score in prediction.image_score.tolist()]  # type: ignore[union-attr]
        paths = [path for batch in self.datamodule.predict_dataloader() for path in batch.path]
        path = self._folder / PREDICTIONS
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "image_score"), *zip(paths, scores, strict=True)])
        self._say(f"Scores of {len(scores)} images: {path}")

    @property
    def _folder(self) -> Path:
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            sys.stdout.write(f"{text}\n")
