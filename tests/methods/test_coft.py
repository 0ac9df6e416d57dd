from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from anomaly_zoo.config import AnomalyCLI, build, resolve
from anomaly_zoo.methods.coft import COFT
from anomaly_zoo.nn.backbone import Backbone
from anomaly_zoo.nn.features import join, peak, to_image
from anomaly_zoo.types import Batch


@pytest.fixture
def method() -> COFT:
    torch.manual_seed(0)
    return COFT(Backbone(weights="none"), steps=0, max_patches=50).eval()


def support(num_images: int, views: int, seed: int = 0) -> Batch:
    image = torch.rand(num_images * views, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    path = [f"{number}.png" for number in range(num_images) for _ in range(views)]
    return Batch(
        image, torch.zeros(len(image), 64, 64, dtype=torch.bool), torch.zeros(len(image), dtype=torch.bool), path
    )


def embedding(stages: list[Tensor]) -> Tensor:
    pooled = torch.cat([stage.mean(dim=(2, 3)) for stage in stages], dim=1)
    unit: Tensor = pooled / pooled.norm(dim=1, keepdim=True)
    return unit


@torch.no_grad()
def test_scores_are_the_distances_in_units_of_held_out_support_images(method: COFT) -> None:
    normal = support(num_images=3, views=2)
    method.calibrate(normal)
    image = support(2, 1, seed=1).image
    prediction = method(image)

    stages = method.backbone(image)
    unit, raw = method.memory(stages)
    units = [stage / spread for stage, spread in zip(unit + raw, method.stage_spread, strict=True)]
    torch.testing.assert_close(prediction.anomaly_map, to_image(join(units), (64, 64)))
    patch = peak(join(unit)) / method.patch_spread
    embedded = method.gaussian(embedding(stages)).sqrt() / method.embedding_spread
    torch.testing.assert_close(prediction.image_score, patch + 0.01 * embedded)

    peaks, mean = [], []  # every first view against all views of the other images
    for out in range(3):
        rest = [i for i in range(6) if i // 2 != out]
        features = method.backbone(normal.image)
        by_stage, as_they_are = [], []
        for stage in features:
            query, memory = (maps.movedim(1, 3).flatten(0, 2).double() for maps in (stage[2 * out][None], stage[rest]))
            to_rows = torch.cdist(F.normalize(query), F.normalize(memory))
            distance, nearest = to_rows.topk(4, largest=False)
            by_stage.append(distance[:, :3].mean(dim=1).float().view(1, *stage.shape[2:]))
            raw_distance, weight = (query[:, None] - memory[nearest]).norm(dim=2), distance[:, 3:] - distance
            as_they_are.append(((weight * raw_distance).sum(dim=1) / weight.sum(dim=1)).float())
        by_stage += as_they_are[:2]
        peaks.append(peak(join(by_stage[:3]))[0])
        mean.append(torch.stack([stage.mean() for stage in by_stage]))
    torch.testing.assert_close(method.patch_spread, torch.stack(peaks).mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(method.stage_spread, torch.stack(mean).mean(dim=0), rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(("num_images", "views"), [(1, 1), (1, 4), (2, 1)])
def test_any_support_gives_finite_scores(method: COFT, num_images: int, views: int) -> None:
    method.calibrate(support(num_images, views))
    prediction = method(support(2, 1, seed=1).image)
    assert prediction.image_score.isfinite().all()
    assert prediction.anomaly_map.isfinite().all()
    assert (prediction.image_score > 0).all()


@torch.no_grad()
def test_copies_of_one_image_leave_finite_units(method: COFT) -> None:
    normal = support(1, 1)
    copies = Batch(normal.image.expand(4, -1, -1, -1), normal.mask, normal.label, ["a", "b", "c", "d"])
    method.calibrate(copies)
    assert method(support(2, 1, seed=1).image).image_score.isfinite().all()


def cli_of(tiny_root: Path, *options: str, precision: str = "32-true") -> AnomalyCLI:
    data = [f"--data.root={tiny_root}", "--data.category=alpha", "--data.image_size=64", "--data.shots=4"]
    trainer = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", f"--trainer.precision={precision}"]
    method = ["support_views=2", "orientations=square", *options]
    cli = build(resolve("coft", [*data, *trainer, *(f"--model.init_args.{option}" for option in method)]))
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return cli


def fit(tiny_root: Path, *options: str) -> COFT:
    module = cli_of(tiny_root, "negatives=[blob]", *options).model
    assert isinstance(module, COFT)
    return module


def test_half_precision_gives_the_same_metrics(tiny_root: Path) -> None:
    runs = [cli_of(tiny_root, "steps=4", precision=precision) for precision in ("32-true", "bf16-mixed")]
    for cli in runs:
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    full, half = (cli.evaluation.metrics for cli in runs)
    assert half == pytest.approx(full, abs=0.01)
    scores = [torch.tensor([image["score"] for image in cli.evaluation.images]) for cli in runs]
    assert not torch.equal(*scores)
    assert ((scores[0] - scores[1]).abs() / scores[0]).mean() < 0.02


def parameters(module: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_training_that_forgets_is_stopped_and_undone(tiny_root: Path) -> None:
    forgot = fit(tiny_root, "steps=30", "check_every=1", "learning_rate=1.0", "patience=2")
    assert len(forgot.stop.curve) < 10
    assert forgot.stop.best_step < 6
    kept = fit(tiny_root, "steps=3", "learning_rate=1.0", "patience=0")
    assert not torch.equal(parameters(kept.backbone), parameters(Backbone()))
    assert kept.stop.curve.numel() == 0


def test_what_the_negatives_show_to_be_better_is_kept(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rising = iter(range(100))
    monkeypatch.setattr("anomaly_zoo.methods.coft.separation", lambda *_: torch.tensor(float(next(rising))))
    tuned = fit(tiny_root, "steps=4", "check_every=2", "learning_rate=0.001")
    assert tuned.stop.best_step == 4
    assert tuned.stop.curve[:, 0].tolist() == [0, 2, 4]
    monkeypatch.undo()
    last = fit(tiny_root, "steps=4", "check_every=2", "learning_rate=0.001", "patience=9")
    assert last.stop.curve[:, 0].tolist() == [0, 2, 4]
    assert torch.equal(parameters(tuned.projector), parameters(last.projector))  # trained alike, chosen otherwise


def test_held_out_images_teach_nothing(method: COFT) -> None:
    method.steps = 1
    normal = support(num_images=4, views=2)
    method.prepare(normal)
    assert method.stop.held_out is not None
    held_out = [path in method.stop.held_out.paths for path in normal.path]
    assert sum(held_out) == 2
    method.log_dict = method.log = lambda *_, **__: None  # type: ignore[method-assign,assignment] # there is no trainer
    method._check = lambda: 0.0  # type: ignore[method-assign]
    some = torch.tensor(held_out)
    alone = Batch(normal.image[some], normal.mask[some], normal.label[some], [*method.stop.held_out.paths] * 2)
    assert method.training_step(alone, 0) == 0
    assert method.training_step(normal, 0) != 0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="negatives=\\['mud'\\]: choose among"):
        COFT(Backbone(weights="none"), negatives=["mud"])
    with pytest.raises(ValueError, match="max_patches=0"):
        COFT(Backbone(weights="none"), max_patches=0)
    with pytest.raises(ValueError, match="check_every=0, patience=1"):
        COFT(Backbone(weights="none"), check_every=0)
