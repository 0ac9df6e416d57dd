"""The exported graph in onnxruntime and OpenVINO says what the adapted module says, and needs no torch to say it."""

import csv
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from anomaly_zoo.data.images import read_image
from anomaly_zoo.deploy.calibration import calibrate
from anomaly_zoo.deploy.export import OPSET, export_onnx, quantise
from anomaly_zoo.deploy.inspecting import INPUT, OUTPUTS, find_images
from anomaly_zoo.deploy.model_folder import Model
from anomaly_zoo.deploy.outputs import PredictionWriter, inspect_files
from anomaly_zoo.deploy.runtime import OnnxInspector
from anomaly_zoo.deploy.torch_inspector import TorchInspector
from tests.conftest import write_image
from tests.deploy.conftest import METHODS, agree, inspections

pytestmark = pytest.mark.slow

ALLOWED = {"anomaly_zoo", "numpy", "onnxruntime", "PIL"}
THEIRS = {"flatbuffers", "google", "coloredlogs", "humanfriendly", "sympy", "mpmath"}  # what these import


@pytest.fixture(scope="session")
def exported(model_of: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def export(method: str, *options: str) -> Path:
        path = folder / f"{method}{len(options)}.onnx"
        export_onnx(model_of(method, *options), path)
        return path

    return export


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_same_scores_in_onnxruntime(
    method: str, exported: Callable[..., Path], model_of: Callable[..., Model], images: list[np.ndarray]
) -> None:
    agree(OnnxInspector(exported(method)).inspect(images), TorchInspector(model_of(method)).inspect(images))


def test_a_whole_real_test_split(
    shared_data: Path, model_of: Callable[..., Model], exported: Callable[..., Path]
) -> None:
    root = shared_data / "mvtec_ad"
    options = [f"--data.root={root}", "--data.category=bottle", "--data.shots=4", "--data.image_size=128"]
    model, inspector = model_of("patchcore", *options), OnnxInspector(exported("patchcore", *options))
    files = sorted((root / "bottle" / "test").glob("*/*.png"))
    assert len(files) == 83
    for start in range(0, len(files), 8):
        images = [inspector.read(path) for path in files[start : start + 8]]
        agree(inspector.inspect(images), TorchInspector(model).inspect(images))


@pytest.mark.parametrize("method", ["coft", "gaussian"])
def test_an_oblong_product_with_two_networks_at_two_scales(
    method: str, shared_data: Path, model_of: Callable[..., Model], exported: Callable[..., Path]
) -> None:
    root = shared_data / "other"
    options = (f"--data.root={root}", "--data.category=commutator", "--data.image_size=128")
    networks = (
        "--backbone.name=tf_efficientnet_lite0+test_vit",
        "--backbone.weights=none",
        "--backbone.scales=[0.5,1.0]",
    )
    model, inspector = model_of(method, *options, *networks), OnnxInspector(exported(method, *options, *networks))
    assert model.image_shape == (192, 96)
    images = [inspector.read(path) for path in sorted((root / "commutator" / "test").glob("*/*.png"))[:6]]
    found = inspector.inspect(images)
    assert {inspection.anomaly_map.shape for inspection in found} == {(192, 96)}
    agree(found, TorchInspector(model).inspect(images))


@pytest.fixture(scope="session")
def patchcore(exported: Callable[..., Path]) -> Path:
    return exported("patchcore")


def test_images_of_any_size_and_number(patchcore: Path, model: Model) -> None:
    inspector = OnnxInspector(patchcore)
    rng = np.random.default_rng(0)
    sizes = [(48, 48), (64, 64), (100, 90), (30, 80), (48, 48), (300, 20), (129, 64)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    found = inspector.inspect(images)
    agree(found, TorchInspector(model).inspect(images))
    for image, together in zip(images, found, strict=True):
        agree(inspector.inspect([image]), [together], rel=1e-5)


def test_the_file_says_what_it_is(patchcore: Path, model: Model) -> None:
    written = onnx.load(patchcore)
    onnx.checker.check_model(written)
    assert [(opset.domain, opset.version) for opset in written.opset_import if not opset.domain] == [("", OPSET)]
    assert not any(node.domain for node in written.graph.node)  # standard operations only
    about = OnnxInspector(patchcore).about
    assert float(about["threshold"]) == model.calibration.threshold
    assert (about["method"], about["category"], about["shots"]) == ("PatchCore", "alpha", "4")
    session = onnxruntime.InferenceSession(patchcore, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("image", "tensor(uint8)")
    assert [size for size in given.shape if isinstance(size, int)] == [3]  # batch, height and width are free


def test_openvino_reads_the_same_file(patchcore: Path, model: Model, images: list[np.ndarray]) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(patchcore), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = [compiled({INPUT: image[None]}) for image in images]
    found = inspections(*(np.concatenate([output[name] for output in outputs]) for name in OUTPUTS))
    agree(found, TorchInspector(model).inspect(images), rel=1e-3)


def test_matrices_of_8_bits_stay_close(patchcore: Path, images: list[np.ndarray], tmp_path: Path) -> None:
    quantise(patchcore, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").stat().st_size < patchcore.stat().st_size
    inspector = OnnxInspector(tmp_path / "int8.onnx")
    assert inspector.about["int8"] == "true"
    for one, other in zip(inspector.inspect(images), OnnxInspector(patchcore).inspect(images), strict=True):
        assert one.image_score == pytest.approx(other.image_score, rel=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]


def test_predicting_needs_onnxruntime_numpy_and_pillow_only(
    patchcore: Path, model: Model, test_images: list[Path], tmp_path: Path
) -> None:
    code = f"""
import importlib.abc, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
installed = {ALLOWED | THEIRS} | set(sys.stdlib_module_names) | set(sys.modules)
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in installed:
            raise ImportError(f"{{name}} is not there")
sys.meta_path.insert(0, Refuse())
from anomaly_zoo.deploy import runtime
sys.exit(runtime.main(sys.argv[1:]))
"""
    command = [sys.executable, "-I", "-c", code, str(patchcore), str(test_images[0].parents[1]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    expected = TorchInspector(model).inspect([read_image(Path(row["path"])) for row in rows])
    assert len(rows) == 9
    for row, other in zip(rows, expected, strict=True):
        assert float(row["image_score"]) == pytest.approx(other.image_score, rel=1e-4)


def test_both_inspectors_agree_on_every_file(patchcore: Path, model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour, deep = rng.integers(0, 256, (48, 56, 3), np.uint8), rng.integers(0, 65536, (48, 56), np.uint16)
    pixels = dict.fromkeys(("a.png", "a.bmp", "a.tif", "a.jpg", "a.webp"), colour) | {"grey.png": colour[..., 0]}
    pixels |= dict.fromkeys(("deep.png", "deep.tif"), deep) | {"colour16.png": colour.astype(np.uint16) * 257}
    pixels |= {"float.tif": colour.astype(np.float32) / 255, "float32.tif": deep.astype(np.float32)}
    for name, image in pixels.items():
        write_image(tmp_path / name, image)
    Image.fromarray(colour).save(tmp_path / "stack.tif", save_all=True, append_images=[Image.fromarray(colour[::-1])])
    Image.fromarray(colour).save(tmp_path / "moving.webp", save_all=True, append_images=[Image.fromarray(colour[::-1])])
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    (tmp_path / "none.png").write_bytes(b"")
    decisions = []
    for inspector in (TorchInspector(model), OnnxInspector(patchcore)):
        folder = tmp_path / type(inspector).__name__
        with PredictionWriter(folder, inspector, "none") as writer:
            inspect_files(inspector, find_images([str(tmp_path)]), writer)
        rows = csv.DictReader((folder / "predictions.csv").read_text().splitlines())
        decisions.append({row["path"]: row["decision"] for row in rows})
    assert decisions[0] == decisions[1]
    unreadable = {Path(path).name for path, decision in decisions[0].items() if decision == "unreadable"}
    assert unreadable >= {"float.tif", "float32.tif", "stack.tif", "moving.webp", "cut.png", "none.png"}
    assert not unreadable & {"a.png", "a.bmp", "a.tif", "a.webp", "deep.tif", "grey.png"}


def test_both_inspectors_treat_frames_alike(patchcore: Path, model: Model, images: list[np.ndarray]) -> None:
    inspectors = TorchInspector(model), OnnxInspector(patchcore)
    found, expected = (inspector.inspect([images[0][::-1, ::2]]) for inspector in inspectors)
    agree(found, expected)
    for inspector in inspectors:
        assert inspector.inspect([]) == []
        for frame in (images[0] / 255, images[0][..., 0]):
            with pytest.raises(ValueError, match="pass a list of uint8 RGB arrays"):
                inspector.inspect([frame])


def test_another_threshold_or_rate_is_that_of_the_model_folder(patchcore: Path, model: Model) -> None:
    inspectors = TorchInspector(model), OnnxInspector(patchcore)
    for inspector in inspectors:
        inspector.decide(None, 0.01)
    scores, peaks = model.calibration.image_scores, model.calibration.map_peaks
    expected = calibrate(scores, peaks, model.calibration.map_level, 0.01)
    assert [inspector.calibration for inspector in inspectors] == [expected, expected]
    for inspector in inspectors:
        inspector.decide(1.5, None)
        assert (inspector.threshold, inspector.scale.threshold) == (1.5, expected.map_threshold)


def test_a_model_that_decides_nothing_says_so_in_onnxruntime(
    exported: Callable[..., Path], model_of: Callable[..., Model], images: list[np.ndarray]
) -> None:
    path, alone = exported("patchcore", "--data.shots=1"), model_of("patchcore", "--data.shots=1")
    inspector = OnnxInspector(path)
    assert inspector.warnings == alone.warnings != ()
    assert [found.is_anomalous for found in inspector.inspect(images[:2])] == [None, None]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.run(["is_anomalous"], {INPUT: images[0][None]})[0].all()  # rather all than none


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"no.onnx cannot be loaded"):
        OnnxInspector(tmp_path / "no.onnx")
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "ab"]
    foreign = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:]), ir_version=10,
                                     opset_imports=[onnx.helper.make_opsetid("", OPSET)])  # fmt: skip
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match=r"is another model, or of another version \(outputs: b\)"):
        OnnxInspector(tmp_path / "foreign.onnx")
