"""L0.C1/graph.0005/u8.pc/generic/fuzz.80cbae

The check: a claimed op is quantized: its activations come from dequantize and its result goes to quantize.
Found: mul -> quantize_per_tensor_default_2 reads the float constant p2

Written by `quantizer-sdk conform`; nothing of it is needed here. Made with torch 2.13.0+cpu.
Exit status 1: the defect is there. 0: it is not.
"""

import sys
from fractions import Fraction

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed

aten, quantized_decomposed = torch.ops.aten, torch.ops.quantized_decomposed


class Model(torch.nn.Module):
    """The quantized graph, from the codes of its inputs to codes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("p0", torch.tensor([0.005696181207895279], dtype=torch.float32))
        self.register_buffer("p1", torch.tensor([0], dtype=torch.int64))
        self.register_buffer("p2", torch.tensor([90, -17, -128, 33, -63, -82, 24, 49, -42], dtype=torch.int8).reshape(1, 3, 1, 3))
        self.register_buffer("p3", torch.tensor([-0.40334352850914], dtype=torch.float32))
        self.register_buffer("p4", torch.tensor([-0.5966353416442871], dtype=torch.float32).reshape(1, 1, 1, 1))
        self.register_buffer("p5", torch.tensor(
          [
            0.0025960325729101896, 0.008006446063518524, 0.004849265795201063, 0.0007956966874189675,
            0.006982383783906698, 0.011119493283331394, 0.0034277024678885937, 0.01284461934119463
          ],
          dtype=torch.float32,
        ))
        self.register_buffer("p6", torch.tensor([0, 0, 0, 0, 0, 0, 0, 0], dtype=torch.int64))
        self.register_buffer("p7", torch.tensor(
          [
            127, -43, 127, 23, 24, 127, -128, -99, 94, 127, 127, 3, 127, -85, -46, -128
          ],
          dtype=torch.int8,
        ).reshape(8, 1, 1, 2))
        self.register_buffer("p8", torch.tensor(
          [
            0.18203648924827576, 0.3703935444355011, 1.4565025568008423, 0.9398099184036255,
            0.7748488187789917, 0.19186942279338837, 1.2637947797775269, -1.2904350757598877
          ],
          dtype=torch.float32,
        ))

    def forward(self, x0):
        d0 = quantized_decomposed.dequantize_per_channel.default(self.p2, self.p0, self.p1, 0, -128, 127, torch.int8)
        d1 = quantized_decomposed.dequantize_per_channel.default(self.p7, self.p5, self.p6, 0, -128, 127, torch.int8)
        d2 = quantized_decomposed.dequantize_per_tensor.default(x0, 0.04189123958349228, 134, 0, 255, torch.uint8)
        v0 = aten.conv2d.default(d2, d0, self.p3, [2, 1], [0, 1])
        v1 = aten.relu.default(v0)
        q0 = quantized_decomposed.quantize_per_tensor.default(v1, 0.008652797900140285, 0, 0, 255, torch.uint8)
        d3 = quantized_decomposed.dequantize_per_tensor.default(q0, 0.008652797900140285, 0, 0, 255, torch.uint8)
        v2 = aten.mul.Tensor(d3, self.p4)
        q1 = quantized_decomposed.quantize_per_tensor.default(v2, 0.005165087524801493, 255, 0, 255, torch.uint8)
        d4 = quantized_decomposed.dequantize_per_tensor.default(q1, 0.005165087524801493, 255, 0, 255, torch.uint8)
        v3 = aten.conv2d.default(d4, d1, self.p8, [1, 1], [0, 1])
        v4 = aten.relu.default(v3)
        q2 = quantized_decomposed.quantize_per_tensor.default(v4, 0.006460566073656082, 0, 0, 255, torch.uint8)
        return (q0, q1, q2,)


INPUTS = (
    torch.tensor(
      [
        80, 79, 122, 113, 175, 167, 119, 33, 149, 74, 151, 149, 140, 193, 187, 122, 69, 53, 161, 172, 163, 60,
        118, 222, 170, 106, 126, 143, 200, 210, 179, 94, 105, 136, 110, 146, 155, 139, 165, 155, 129, 172,
        120, 137, 159, 244, 64, 58, 102, 176, 184, 142, 123, 115, 160, 115, 206, 233, 215, 248, 80, 119, 82,
        130, 150, 98, 58, 135, 98, 143, 164, 164
      ],
      dtype=torch.uint8,
    ).reshape(1, 3, 6, 4),
)
FUSED = []
MOVES = []


def problems(graph):
    """Yield what the check does not allow."""
    ops = [n for n in graph.nodes if n.op == "call_function" and "quantized_decomposed" not in str(n.target)]
    for node in ops:
        bias = node.args[2:3] if "conv" in str(node.target) or "linear" in str(node.target) else ()
        bias = node.args[:1] if "addmm" in str(node.target) else bias
        for operand in node.all_input_nodes:
            if operand.op == "placeholder" or (operand.op == "get_attr" and operand not in bias):
                yield f"{node} reads {operand} in float: nothing quantizes it"
        for user in node.users:
            if user.op == "output":
                yield f"{node} leaves the model in float: nothing quantizes it"
            elif user in ops and (str(node.target), str(user.target)) not in FUSED:
                yield f"{user} reads {node} in float: nothing quantizes it between them"


def main():
    """Run; return whether the defect is there."""
    model = Model().eval()
    found = list(problems(torch.export.export(model, INPUTS, strict=False).module().graph))
    print("\n".join(found) or "nothing found")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
