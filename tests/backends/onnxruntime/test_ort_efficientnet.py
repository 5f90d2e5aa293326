"""A whole network on ONNX Runtime: EfficientNet-Lite0 with its ImageNet weights and real images."""

import torch

from quantizer_sdk import calibrate, convert_pt2e, explain, prepare_pt2e
from quantizer_sdk.backends.onnxruntime import lower
from quantizer_sdk.backends.x86 import X86Quantizer
from quantizer_sdk.demo.data import load_images, load_lite0
from quantizer_sdk.demo.metrics import agreement, sqnr_db

SHAPES = ({0: torch.export.Dim("batch", min=1, max=32)},)


def test_the_whole_network_runs_on_integers_and_keeps_its_answers():
    images = load_images().images
    exported = torch.export.export(load_lite0(), (images,), dynamic_shapes=SHAPES).module()
    prepared = prepare_pt2e(exported, X86Quantizer("onnxruntime"))
    calibrate(prepared, images[:8].split(1))
    model = convert_pt2e(prepared)
    assert explain(model).count("float") == 0
    program = lower(model, (images,), dynamic_shapes=SHAPES)
    assert program.delegation().non_delegated == ()
    names = [kernel.name for kernel in program.kernels()]
    counted = [names.count(name) for name in ("QLinearConv", "MatMulIntegerToFloat", "QuantizeLinear")]
    assert counted == [49, 1, 1]
    with torch.no_grad():
        reference = exported(images)
    (logits,) = program.run(images)
    assert sqnr_db(reference, logits) >= 18.5
    assert agreement(logits, reference) >= 19  # of 20 images
    assert program.size < 6e6
