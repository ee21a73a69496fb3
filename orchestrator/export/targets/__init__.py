"""Where do zeros pay? Targets that a network may run on or travel to, each measured or estimated."""

from orchestrator.export.targets.download import DownloadTarget
from orchestrator.export.targets.mnn_cpu import Mnn
from orchestrator.export.targets.onnx_runtime import OnnxRuntime
from orchestrator.export.targets.openvino_cpu import OpenVino
from orchestrator.export.targets.target import Target
from orchestrator.export.targets.torch_kernels import TorchKernels
from orchestrator.export.targets.vela import Vela
from orchestrator.export.targets.web import Web

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (DownloadTarget(), TorchKernels(), Mnn(), Web(), Vela(), OnnxRuntime(), OpenVino())
}
