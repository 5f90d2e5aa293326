"""Switch an exported model between training and inference: a flag that its ops read, no second export."""

from __future__ import annotations

from typing import TypeVar

from torch.fx import GraphModule

from quantizer_sdk.control_flow import graphs_of
from quantizer_sdk.errors import UnsupportedError
from quantizer_sdk.model_copy import InferenceModule
from quantizer_sdk.passes.train_batch_norm import count_batches
from quantizer_sdk.passes.training_mode import exported_for_training, follow_mode, follows_mode

__all__ = ["allow_exported_model_train_eval", "move_exported_model_to_eval", "move_exported_model_to_train"]

_Model = TypeVar("_Model", bound=GraphModule)


def allow_exported_model_train_eval(model: _Model) -> _Model:
    """Let `train()` and `eval()` of an exported model, which refuse, switch dropout, batch norm and their like.

    Every op keeps what the user gave it: the rate of a dropout, momentum and eps of a batch norm. The model stays in
    the mode in which it was exported. A deepcopy switches alike.

    Args:
        model: The module of an exported program; it is changed in place. A model prepared for training needs nothing.

    Returns:
        The model.

    Raises:
        UnsupportedError: The model was prepared or converted for inference.
    """
    if isinstance(model, InferenceModule):
        message = "this model was made for inference: what trains is gone from it; use prepare_qat_pt2e to train"
        raise UnsupportedError(message)
    if any(follows_mode(graph) for _path, graph in graphs_of(model)):
        return model
    training = any(exported_for_training(graph) for _path, graph in graphs_of(model))
    for _path, graph in graphs_of(model):
        count_batches(graph)
        follow_mode(graph)
    for name in ("train", "eval"):  # the refusals that torch.export puts on each module
        model.__dict__.pop(name, None)
    model.recompile()
    model.train(training)
    return model


def move_exported_model_to_train(model: _Model) -> _Model:
    """Switch an exported model to training, in place; see `allow_exported_model_train_eval`."""
    allow_exported_model_train_eval(model).train()
    return model


def move_exported_model_to_eval(model: _Model) -> _Model:
    """Switch an exported model to inference, in place; see `allow_exported_model_train_eval`."""
    if not isinstance(model, InferenceModule):
        allow_exported_model_train_eval(model)
    model.eval()
    return model
