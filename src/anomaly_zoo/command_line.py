"""What `python -m anomaly_zoo` adds to Lightning's command line: tracking, the adapted module, a result, scores."""

import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning.pytorch as L
from jsonargparse.typing import OpenUnitInterval
from lightning.pytorch.cli import LightningArgumentParser

from anomaly_zoo.callbacks.scores import ScoresCallback
from anomaly_zoo.config import AnomalyCLI, plain
from anomaly_zoo.deploy.adapting import make_model, require_deployable
from anomaly_zoo.deploy.inspecting import warn
from anomaly_zoo.deploy.model_folder import save as save_model
from anomaly_zoo.results import Result, load, save
from anomaly_zoo.run import describe, measured
from anomaly_zoo.tracking import tracker
from anomaly_zoo.yaml_files import name_in_results

CHECKPOINT = "adapted.ckpt"
PREDICTIONS = "predictions.csv"
STORE = "results"


class CommandLine(AnomalyCLI):
    """`fit` writes `adapted.ckpt`; `test` prints the metrics and writes a result; `predict` writes `predictions.csv`.

    Files go into `trainer.default_root_dir`, results into a store in it. `fit --output` writes a model folder too.
    """

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Gives `fit` two options; `add_arguments_to_parser` would give them to all."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument("--output", type=str | None, help="model folder to write (docs/deploy.md)")
            rate = "share of normal images that may count as anomalous, for --output"
            spelled = "--false_alarm_rate", "--false-alarm-rate"
            parser.add_argument(*spelled, type=OpenUnitInterval, default=0.05, help=rate)
        return parser

    def before_fit(self) -> None:
        """Tracks the run with W&B (offline; `WANDB=0` switches it off) unless a logger is configured."""
        if self.config.fit.ckpt_path is not None:
            raise ValueError("fit adapts anew, to a new support: leave --ckpt_path out.")
        if (output := self.config.fit.output) is not None:
            require_deployable(self.model, self.datamodule)
            if Path(output).is_file():
                raise ValueError(f"--output {output} is a file: choose another name for the model folder.")
        if not self.trainer.loggers:
            self.trainer.logger = tracker(self._folder, self._known())

    def after_fit(self) -> None:
        """Saves the adapted module."""
        path = self._folder / CHECKPOINT
        self.trainer.save_checkpoint(path, weights_only=True)
        self._say(f"Adapted. Test it: the same options with `test --ckpt_path {path}`")
        if self.config.fit.output is not None and self.trainer.is_global_zero:
            output = Path(self.config.fit.output)
            model = make_model(self.model, self.datamodule, self.config.fit.false_alarm_rate)
            save_model(model, output)
            warn(model.warnings)
            self._say(f"Inspect images: `predict --model {output} FOLDER --output out`")

    def before_test(self) -> None:
        """Loads the adapted module."""
        assert self.subcommand is not None
        path = self.config[self.subcommand].ckpt_path
        self.config_init[self.subcommand].ckpt_path = None  # so that Lightning does not load it as well
        if path is None:
            raise ValueError(f"{self.subcommand} needs --ckpt_path: the {CHECKPOINT} that `fit` wrote.")
        self.model.load(Path(path), self.datamodule)
        images = len(self.datamodule.test_dataloader().dataset)  # type: ignore[arg-type]
        if images < self.trainer.world_size:  # a process without an image would let the others wait
            raise ValueError(f"{self.trainer.world_size} devices for {images} images: pass --trainer.devices={images}.")

    before_predict = before_test

    def test(self, model: L.LightningModule, **kwargs: Any) -> None:
        """Prints the metrics, and what could not be measured; saves the result."""
        begin = perf_counter()
        self.trainer.test(model, **kwargs)
        result = measured(self._known(), self, test_s=perf_counter() - begin)
        for metric, value in result.metrics.items():
            self._say(f"{metric:13} {value:.4f}")
        for metric, reason in result.undefined.items():
            self._say(f"{metric:13} undefined: {reason}")
        if self.trainer.is_global_zero:
            path = result.path_in(self._folder / STORE)
            if path.exists() and load(path).cell:
                self._say(f"Not saved, since the bench has made {path}.")
            else:
                self._say(f"Result: {save(result, self._folder / STORE)}")

    def predict(self, model: L.LightningModule, **kwargs: Any) -> None:
        """Writes the score of every test image."""
        scores = ScoresCallback(self._folder / PREDICTIONS)
        self.trainer.callbacks.append(scores)  # type: ignore[attr-defined]
        self.trainer.predict(model, **kwargs | {"return_predictions": False})
        self._say(f"Scores of {len(scores.rows)} images: {scores.path}")

    @property
    def _folder(self) -> Path:
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _known(self) -> Result:
        """What is known of the run before it starts; a method counts by its file, or else by its class."""
        assert self.subcommand is not None
        files = [str(file) for file in self.config[self.subcommand].config or []]
        method = name_in_results(files[0]) if files else type(self.model).__name__
        return describe(plain(self), method)

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            sys.stdout.write(f"{text}\n")
