"""A model as one ONNX file: from the camera's pixels to the decision, for onnxruntime, OpenVINO and others.

image               uint8    b h w 3    RGB, any size, one size per batch
image_score         float32  b
anomaly_map         float32  b s s      s: the model's image size
p_value             float32  b          by the fitted tail
conformal_p_value   float32  b          by rank
is_anomalous        bool     b          image_score > threshold
"""

import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from anomaly_zoo import __version__
from anomaly_zoo.deploy.graph import InspectionGraph
from anomaly_zoo.deploy.model_folder import Model, copy_of

OPSET = 20
_INSTALL = "Install what writes ONNX: `pip install anomaly_zoo[export]`."
_INPUT, _FORMAT = "image", "anomaly_zoo"
_OUTPUTS = ("image_score", "anomaly_map", "p_value", "conformal_p_value", "is_anomalous")  # as runtime.py expects
_EXAMPLE_PX = (2, 310, 300)  # batch, height and width must differ from each other and from 1 to stay free


def export_onnx(model: Model, path: Path) -> None:
    """Writes the model as one file, whole or not at all; its metadata says where it comes from.

    Args:
        model: a loaded model folder.
        path: of the file.

    Raises:
        ValueError: the packages are missing, or the method does something that ONNX has no operation for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export_", dir=path.parent) as scratch:
        file = Path(scratch) / "model.onnx"
        _write_graph(model, file)
        _describe(model, file)
        file.replace(path)


def quantise(source: Path, path: Path) -> None:
    """Rewrites an exported file with matrices of 8 bits, which are multiplied as such; convolutions stay as they are.

    The dynamic quantisation of onnxruntime: the other factor is rounded while the model runs.

    Args:
        source: written by `export_onnx`.
        path: of the new file, written whole or not at all.

    Raises:
        ValueError: the packages are missing.
    """
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ValueError(f"{error}. {_INSTALL}") from None

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".export_", dir=path.parent) as scratch:
        file = Path(scratch) / "model.onnx"
        quantize_dynamic(source, file, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        _add_properties(file, {"int8": "true"})
        file.replace(path)


def build_graph(model: Model) -> InspectionGraph:
    """The graph that is exported, as a torch module; the model itself stays as it is."""
    calibration = model.calibration
    graph = InspectionGraph(
        copy_of(model.module),
        image_size=model.image_size,
        tiling=model.tiling,
        threshold=calibration.threshold,
        p_scores=calibration.p_scores,
        p_values=calibration.p_values,
        held_out=calibration.image_scores,
    )
    return graph.requires_grad_(False).eval()


def _write_graph(model: Model, file: Path) -> None:
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    example = torch.zeros(*_EXAMPLE_PX, 3, dtype=torch.uint8)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own internals
            torch.onnx.export(
                build_graph(model),
                (example,),
                file,
                dynamo=True,
                dynamic_shapes=({0: batch, 1: height, 2: width},),
                opset_version=OPSET,
                input_names=[_INPUT],
                output_names=list(_OUTPUTS),
                external_data=False,
                verbose=False,
            )
    except ImportError as error:
        raise ValueError(f"{error}. {_INSTALL}") from None
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"{model.method} cannot be exported: {reason}") from error


def _describe(model: Model, file: Path) -> None:
    calibration = model.calibration
    about = {
        "format": _FORMAT,
        "anomaly_zoo": __version__,
        "method": model.method,
        "category": model.category,
        "support_sha256": model.support_sha256,
        "image_size": model.image_size,
        "shots": len(model.support),
        "false_alarm_rate": calibration.false_alarm_rate,
        "threshold": calibration.threshold,
        "map_threshold": calibration.map_threshold,
        "map_level": calibration.map_level,
    }
    _add_properties(
        file, {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    )


def _add_properties(file: Path, properties: dict[str, str]) -> None:
    import onnx

    written = onnx.load(file)
    there = {entry.key: entry.value for entry in written.metadata_props}
    onnx.helper.set_model_props(written, there | properties)
    onnx.save(written, file)
