"""A lowered program: a graph module of integer ops, run in this process."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves  # torch offers no public module

from quantizer_sdk.backend import copy_without_guards
from quantizer_sdk.backends.onednn.calls import call_functions
from quantizer_sdk.backends.onednn.straight import StraightForm
from quantizer_sdk.backends.onednn.watching import Watched, delegation_of, watch
from quantizer_sdk.errors import LoweringError, NotExportedError

if TYPE_CHECKING:
    from quantizer_sdk.backend import Delegation, Kernel

__all__ = ["OneDNNProgram", "load"]


class OneDNNProgram:
    """A graph module of ops on uint8 codes, and the inputs that it was made with.

    Attributes:
        module: The graph module: a `torch.nn.Module` as any other, to call, copy, pickle, export or compile. Its
            `state_dict` holds the weights as int8.
        example_inputs: Tensors that it takes; () where none were given.
        dynamic_shapes: What `save` exports it with.
    """

    def __init__(self, module: GraphModule, example_inputs: Sequence[Tensor] = (), dynamic_shapes: Any = None) -> None:
        self.module = module
        self.example_inputs = tuple(example_inputs)
        self.dynamic_shapes = dynamic_shapes
        self._watched: tuple[Watched, ...] | None = None
        self._straight: StraightForm | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process, and to this module."""
        return {**self.__dict__, "_straight": None}

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the program once, without gradients.

        It computes what `module` does, to the bit, with less time between the kernels.

        Args:
            *inputs: CPU tensors of the model's dtypes.

        Returns:
            The model's outputs, flat.

        Raises:
            LoweringError: The kernels refuse these inputs.
        """
        try:
            if self._are_plain(inputs):
                return self._run_straight(inputs)
            with torch.no_grad():
                result = self.module(*inputs)
        except Exception as e:  # torch's errors have no public base class
            raise _refusal("run the program", e) from e
        return (result,) if isinstance(result, Tensor) else tuple(tree_leaves(result))

    def kernels(self) -> tuple[Kernel, ...]:
        """Return the kernels that run, in order, seen at torch's dispatcher in a run of the example inputs.

        What runs on integers has the kernel's own name, such as "onednn.qconv_pointwise" or "aten._int_mm"; the data
        types are torch's ("uint8", "int8", "float32"), of operands that hold data: scales and biases are left out.

        Raises:
            LoweringError: The program was made without example inputs, or does not run on them.
        """
        return tuple(entry.kernel for entry in self._seen())

    def delegation(self) -> Delegation:
        """Return the kernels that run on integers, or convert, as delegated, and the names of those in float.

        Raises:
            LoweringError: As `kernels`.
        """
        return delegation_of(self._seen())

    def save(self, path: str | Path) -> None:
        """Write the program to a file, by custom named *.pt2, which `load` reads.

        It is what `torch.export.save` writes, so that `torch.export.load` reads it as well, where
        `quantizer_sdk.backends.onednn` has been imported.

        Raises:
            LoweringError: The program was made without example inputs, or torch.export refuses it.
        """
        inputs = self._examples("save")
        try:
            with torch.no_grad():
                exported = torch.export.export(self.module, inputs, dynamic_shapes=self.dynamic_shapes, strict=False)
        except Exception as e:  # as above
            raise _refusal("export the program", e) from e
        torch.export.save(exported, path)

    @property
    def size(self) -> int:
        """The bytes of the module's tensors."""
        tensors = {id(tensor): tensor for tensor in self.module.state_dict(keep_vars=True).values()}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def _are_plain(self, inputs: Sequence[Any]) -> bool:
        """Whether inputs are flat tensors, of which nobody watches what becomes of them."""
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() or len(inputs) != self._wanted():
            return False
        return all(type(tensor) is Tensor for tensor in inputs)

    def _run_straight(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        straight = self._straight_form()
        with torch.inference_mode():  # which takes a twentieth of the time off
            found = straight.run(*inputs)
        results = found if all(type(it) is Tensor for it in found) else tuple(tree_leaves(found))
        if torch.is_inference_mode_enabled():
            return results
        with torch.no_grad():  # tensors that a caller may use as any other
            return tuple(it.clone() if isinstance(it, Tensor) and it.is_inference() else it for it in results)

    def _wanted(self) -> int:
        straight = self._straight
        return len(self.module.graph.find_nodes(op="placeholder") if straight is None else straight.inputs)

    def _straight_form(self) -> StraightForm:
        straight = self._straight
        if straight is None or not straight.is_current():
            straight = self._straight = StraightForm(self.module)
        return straight

    def _seen(self) -> tuple[Watched, ...]:
        if self._watched is None:
            inputs = self._examples("name the kernels of")
            try:
                self._watched = watch(self._straight_form(), inputs)
            except Exception as e:  # as above
                raise _refusal("run the program", e) from e
        return self._watched

    def _examples(self, action: str) -> tuple[Tensor, ...]:
        wanted = len(self.module.graph.find_nodes(op="placeholder"))
        if len(self.example_inputs) != wanted:
            message = (
                f"cannot {action} a program of {wanted} inputs that was lowered with {len(self.example_inputs)} "
                "example inputs; give lower_eager one tensor for each"
            )
            raise LoweringError(message)
        return self.example_inputs


def load(path: str | Path) -> OneDNNProgram:
    """Read a program that `OneDNNProgram.save` wrote.

    Raises:
        NotExportedError: The file cannot be read, or is no exported program.
    """
    try:
        exported = torch.export.load(path)
    except Exception as e:  # a broken file makes its readers raise anything
        reason = textwrap.shorten(str(e), 200, placeholder=" ...")
        wanted = "expected a file that OneDNNProgram.save wrote"
        raise NotExportedError(f"{path} is no program ({type(e).__name__}: {reason}); {wanted}") from e
    module = copy_without_guards(exported.module())
    call_functions(module)
    examples = exported.example_inputs
    return OneDNNProgram(module, () if examples is None else tree_leaves(examples))


def _refusal(action: str, error: Exception) -> LoweringError:
    reason = textwrap.shorten(str(error), 400, placeholder=" ...") or "no message"
    return LoweringError(f"oneDNN cannot {action}: {type(error).__name__}: {reason}")
