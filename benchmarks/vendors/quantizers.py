"""The quantizers: those that ship in executorch and in torchao, and this library's own, each as its users make it."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["VENDORS", "Vendor", "why_not"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """One way to make a quantizer.

    Attributes:
        module: Where its class lies.
        make: Makes it from that module, for training or not.
        trains: Whether it has a form for training.
        channels_last: Whether it takes convolutions of that layout only.
        decomposes: Whether it wants the program exported strictly, for it finds ops by metadata that only this leaves,
            and decomposed, but for the ops that its quantizer asks to keep.
        ours: Whether it is this library's: torchao's engine runs it through `as_torchao`.
        needs: Packages that executorch does not bring.
        only: The models that it has anything to do with; None for all.
        known: Reasons that were found by hand, by model, where no cause can be taken away.
    """

    module: str
    make: Callable[[Any, bool], Any]
    trains: bool = False
    channels_last: bool = False
    decomposes: bool = False
    ours: bool = False
    needs: str = ""
    only: tuple[str, ...] | None = None
    known: Mapping[str, str] = field(default_factory=dict)


_ET = "executorch.backends."
_AO = "torchao.quantization.pt2e.quantizer."
_ARM = _ET + "arm.quantizer.arm_quantizer"
_CADENCE = _ET + "cadence.aot.quantizer.quantizer"
_TOSA = "tosa-tools"


def _xnnpack(**options: Any) -> Callable[[Any, bool], Any]:
    def make(m: Any, is_qat: bool) -> Any:
        return m.XNNPACKQuantizer().set_global(m.get_symmetric_quantization_config(is_qat=is_qat, **options))

    return make


def _arm(kind: str) -> Callable[[Any, bool], Any]:
    def make(m: Any, is_qat: bool) -> Any:
        if kind == "EthosU":
            quantizer = m.EthosUQuantizer(m.EthosUCompileSpec("ethos-u85-128"))
        elif kind == "Vgf":
            quantizer = m.VgfQuantizer(m.VgfCompileSpec())
        else:
            quantizer = m.TOSAQuantizer(m.TosaSpecification.create_from_string("TOSA-1.0+INT"))
        quantizer.set_global(m.get_symmetric_quantization_config(is_qat=is_qat))
        return quantizer

    return make


def _vulkan(**options: Any) -> Callable[[Any, bool], Any]:
    def make(m: Any, _is_qat: bool) -> Any:
        return m.VulkanQuantizer().set_global(m.get_symmetric_quantization_config(**options))

    return make


def _qualcomm(dtype: str) -> Callable[[Any, bool], Any]:
    def make(m: Any, is_qat: bool) -> Any:
        quantizer = m.QnnQuantizer(strict=False)
        quantizer.set_default_quant_config(
            getattr(m.QuantDtype, dtype), is_qat=is_qat, is_conv_per_channel=True, is_linear_per_channel=True
        )
        return quantizer

    return make


def _samsung(m: Any, is_qat: bool) -> Any:
    quantizer = m.EnnQuantizer()
    quantizer.setup_quant_params(m.Precision.A8W8, is_per_channel=True, is_qat=is_qat)
    return quantizer


def _coreml(scheme: str) -> Callable[[Any, bool], Any]:
    def make(m: Any, _is_qat: bool) -> Any:
        _keep_patterns(m._annotation_utils)
        config = m._LinearQuantizerConfig.from_dict({"global_config": {"quantization_scheme": scheme}})
        return m.CoreMLQuantizer(config)

    return make


def _keep_patterns(module: Any) -> None:
    """Export each pattern of a module once, and give copies: Core ML's exports the same 405 anew for each model."""

    def kept(function: Callable[..., Any]) -> Callable[..., Any]:
        once = functools.cache(function)

        @functools.wraps(function)
        def copied(*args: Any, **kwargs: Any) -> Any:
            return copy.deepcopy(once(*args, **kwargs))

        return copied

    for name, function in tuple(vars(module).items()):
        if name.startswith("get_") and name.endswith("_pattern") and not hasattr(function, "__wrapped__"):
            setattr(module, name, kept(function))


def _cadence(kind: str, *, trains: bool = False) -> Vendor:
    def make(m: Any, is_qat: bool) -> Any:
        return getattr(m, kind)(is_qat=is_qat) if trains else getattr(m, kind)()

    return Vendor(module=_CADENCE, make=make, trains=trains, decomposes=True, known={"reused": "sharing"})


def _openvino(mode: str) -> Vendor:
    def make(m: Any, _is_qat: bool) -> Any:
        return m.OpenVINOQuantizer(mode=getattr(m.QuantizationMode, mode))

    return Vendor(module=_ET + "openvino.quantizer.quantizer", make=make, needs="openvino nncf pytorch_tokenizers")


def _inductor(name: str, config: str, **options: Any) -> Callable[[Any, bool], Any]:
    def make(m: Any, is_qat: bool) -> Any:
        given = {**options, "is_qat": True} if is_qat else options
        return getattr(m, name)().set_global(getattr(m, config)(**given))

    return make


def _ours_xnnpack(**options: Any) -> Vendor:
    return Vendor(
        module="quantizer_sdk.backends.xnnpack",
        make=_xnnpack(is_per_channel=True, **options),
        trains=not options,
        ours=True,
    )


def _ours_x86(target: str, **options: Any) -> Vendor:
    def make(m: Any, is_qat: bool) -> Any:
        given = {**options, "is_qat": True} if is_qat else options
        return m.X86Quantizer(target).set_global(m.get_default_x86_quantization_config(**given))

    return Vendor(module="quantizer_sdk.backends.x86", make=make, trains=not options, ours=True)


_X86 = ("X86InductorQuantizer", "get_default_x86_inductor_quantization_config")

VENDORS: dict[str, Vendor] = {
    "XNNPACK, per channel": Vendor(
        module=_ET + "xnnpack.quantizer.xnnpack_quantizer", make=_xnnpack(is_per_channel=True), trains=True
    ),
    "XNNPACK, per tensor": Vendor(module=_ET + "xnnpack.quantizer.xnnpack_quantizer", make=_xnnpack(), trains=True),
    "XNNPACK, dynamic": Vendor(
        module=_ET + "xnnpack.quantizer.xnnpack_quantizer", make=_xnnpack(is_per_channel=True, is_dynamic=True)
    ),
    "Arm TOSA": Vendor(module=_ARM, make=_arm("TOSA"), trains=True, needs=_TOSA),
    "Arm Ethos-U": Vendor(module=_ARM, make=_arm("EthosU"), trains=True, needs=_TOSA),
    "Arm VGF": Vendor(module=_ARM, make=_arm("Vgf"), trains=True, needs=_TOSA),
    "Cortex-M": Vendor(
        module=_ET + "cortex_m.quantizer.quantizer",
        make=lambda m, _is_qat: m.CortexMQuantizer(),
        channels_last=True,
        needs=_TOSA,
    ),
    "NXP Neutron": Vendor(
        module=_ET + "nxp.quantizer.neutron_quantizer",
        make=lambda m, is_qat: m.NeutronQuantizer(m.NeutronTargetSpec("imxrt700"), is_qat),
        trains=True,
    ),
    "Vulkan, weights": Vendor(module=_ET + "vulkan.quantizer.vulkan_quantizer", make=_vulkan()),
    "Vulkan, dynamic": Vendor(module=_ET + "vulkan.quantizer.vulkan_quantizer", make=_vulkan(is_dynamic=True)),
    "OpenVINO, int8": _openvino("INT8_SYM"),
    "OpenVINO, mixed": _openvino("INT8_MIXED"),
    "OpenVINO, transformer": _openvino("INT8_TRANSFORMER"),
    "OpenVINO, weights": _openvino("INT8WO_ASYM"),
    "Qualcomm, 8a8w": Vendor(
        module=_ET + "qualcomm.quantizer.quantizer",
        make=_qualcomm("use_8a8w"),
        trains=True,
        known={"reused": "sharing"},
    ),
    "Qualcomm, 16a8w": Vendor(
        module=_ET + "qualcomm.quantizer.quantizer", make=_qualcomm("use_16a8w"), known={"reused": "sharing"}
    ),
    "Samsung Exynos": Vendor(
        module=_ET + "samsung.quantizer.quantizer", make=_samsung, trains=True, known={"elementwise": "observer"}
    ),
    "MediaTek Neuropilot": Vendor(
        module=_ET + "mediatek.quantizer.quantizer", make=lambda m, _is_qat: m.NeuropilotQuantizer()
    ),
    "Core ML, symmetric": Vendor(
        module=_ET + "apple.coreml.quantizer._coreml_quantizer", make=_coreml("symmetric"), trains=True
    ),
    "Core ML, affine": Vendor(
        module=_ET + "apple.coreml.quantizer._coreml_quantizer", make=_coreml("affine"), trains=True
    ),
    "Core AI": Vendor(
        module=_ET + "apple.coreai.quantizer.quantizer",
        make=lambda m, _is_qat: m.CoreAIQuantizer(torch.nn.Linear(1, 1)),
        needs="coreai-opt",
    ),
    "Cadence, default": _cadence("CadenceDefaultQuantizer", trains=True),
    "Cadence, layer norm": _cadence("CadenceWithLayerNormQuantizer"),
    "Cadence, wake word": _cadence("CadenceWakeWordQuantizer", trains=True),
    "Cadence, conv+relu": _cadence("CadenceFusedConvReluQuantizer", trains=True),
    "Cadence, W8A32": _cadence("CadenceW8A32MixedQuantizer"),
    "Cadence, softmax": _cadence("CadenceWithSoftmaxQuantizer"),
    "Cadence, A16 linear": _cadence("CadenceWith16BitLinearActivationsQuantizer"),
    "Cadence, A16 conv": _cadence("CadenceWith16BitConvActivationsQuantizer"),
    "Cadence, A16 matmul": _cadence("CadenceWith16BitMatmulActivationsQuantizer"),
    "example": Vendor(module=_ET + "example.example_quantizer", make=lambda m, _is_qat: m.ExampleQuantizer()),
    "torchao X86Inductor": Vendor(module=_AO + "x86_inductor_quantizer", make=_inductor(*_X86), trains=True),
    "torchao X86Inductor, dynamic": Vendor(
        module=_AO + "x86_inductor_quantizer", make=_inductor(*_X86, is_dynamic=True)
    ),
    "torchao ArmInductor": Vendor(
        module=_AO + "arm_inductor_quantizer",
        make=_inductor("ArmInductorQuantizer", "get_default_arm_inductor_quantization_config"),
        trains=True,
    ),
    "torchao XPUInductor": Vendor(
        module=_AO + "xpu_inductor_quantizer",
        make=_inductor("XPUInductorQuantizer", "get_default_xpu_inductor_quantization_config"),
    ),
    "torchao Embedding": Vendor(
        module=_AO + "embedding_quantizer", make=lambda m, _is_qat: m.EmbeddingQuantizer(), only=("embedding",)
    ),
    "ours: XNNPACK": _ours_xnnpack(),
    "ours: XNNPACK, dynamic": _ours_xnnpack(is_dynamic=True),
    "ours: XNNPACK, 4 bits": _ours_xnnpack(is_dynamic=True, bits=4),
    "ours: x86, oneDNN": _ours_x86("onednn"),
    "ours: x86, ONNX Runtime": _ours_x86("onnxruntime"),
    "ours: x86, by row": _ours_x86("onednn", is_dynamic=True, is_per_token=True),
}


def why_not(vendor: Vendor) -> str | None:
    """Return the error that importing a quantizer and making it ends with; None where there is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quantizer = vendor.make(importlib.import_module(vendor.module), False)
    except Exception as e:  # noqa: BLE001  # whatever the vendor's import raises
        return f"{type(e).__name__}: {str(e).splitlines()[0]}"
    if not hasattr(quantizer, "annotate"):
        return f"{type(quantizer).__name__} has no method annotate: it annotates no graph, but runs an engine itself"
    return None
