"""A model as one ONNX file, with inputs and outputs of `InspectionGraph`, for onnxruntime, OpenVINO and others."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from anomaly_zoo import __version__
from anomaly_zoo.deploy.graph import InspectionGraph
from anomaly_zoo.deploy.inspecting import FORMAT, INPUT, OUTPUTS
from anomaly_zoo.deploy.model_folder import Model
from anomaly_zoo.files import replacing

OPSET = 20
_INSTALL = "Install what writes ONNX: `pip install anomaly_zoo[export]`."
_EXAMPLE_PX = (2, 310, 300)  # batch, height and width must differ from each other and from 1 to stay free


def export_onnx(model: Model, path: Path) -> None:
    """Writes the model, whole or not at all; ValueError if packages or, for the method, ONNX operations are missing."""
    axes = {number: torch.export.Dim(name) for number, name in enumerate(("batch", "height", "width"))}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own internals
            program = torch.onnx.export(
                InspectionGraph(model),
                (torch.zeros(*_EXAMPLE_PX, 3, dtype=torch.uint8),),
                dynamo=True,
                dynamic_shapes=(axes,),
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                verbose=False,
            )
    except ImportError as error:
        raise ValueError(f"{error}. {_INSTALL}") from None
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"{model.method} cannot be exported: {reason}") from error
    assert program is not None
    program.model.metadata_props.update(_about(model))
    with replacing(path) as temporary:
        program.save(temporary, external_data=False)


def quantise(source: Path, path: Path) -> None:
    """Rewrites an exported file with matrices of 8 bits (onnxruntime's dynamic quantisation); convolutions stay."""
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ValueError(f"{error}. {_INSTALL}") from None

    with replacing(path) as temporary:
        quantize_dynamic(source, temporary, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        written = onnx.load(temporary)
        written.metadata_props.add(key="int8", value="true")
        onnx.save(written, temporary)


def _about(model: Model) -> dict[str, str]:
    calibration = model.calibration
    same = ("method", "category", "support_sha256", "image_shape", "warnings")
    about: dict[str, Any] = {name: getattr(model, name) for name in same} | {
        "format": FORMAT,
        "anomaly_zoo": __version__,
        "shots": len(model.support),
        "false_alarm_rate": calibration.false_alarm_rate,
        "threshold": calibration.threshold,
        "calibration": asdict(calibration),
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
