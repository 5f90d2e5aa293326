"""Small backends for tests of the suite: healthy, and with a quantizer that is wrong, crashes or hangs."""

from __future__ import annotations

import os
import signal
import time

import torch
from quantizers import ADD, CONFIG, LINEAR, RELU

from quantizer_sdk import Backend, Profile, Quantizer, Row, TableQuantizer
from quantizer_sdk.profile import Arithmetic, Family

PROFILE = Profile(name="tiny", arithmetic={Family.DOT: Arithmetic(), Family.CLAMP: Arithmetic()})


class Tiny(TableQuantizer):
    rows = (Row("linear_relu", (LINEAR, RELU)), Row("linear", (LINEAR,)), Row("add", (ADD,)))

    def default_config(self):
        return CONFIG


class OnlyRelu(TableQuantizer):
    rows = (Row("relu", (RELU,)),)

    def default_config(self):
        return CONFIG


class Nothing(Tiny):
    """Claims by its table what it does not annotate."""

    def annotate(self, model):
        return model


class Unquantized(OnlyRelu):
    """Leaves the result float."""

    def annotate(self, model):
        super().annotate(model)
        for node in model.graph.nodes:
            if "quantization_annotation" in node.meta:
                node.meta["quantization_annotation"].output_qspec = None
        return model


class Crashes(OnlyRelu):
    """Takes the process with it on some graphs."""

    def annotate(self, model):
        if any(node.op == "placeholder" and node.meta["val"].dim() == 1 for node in model.graph.nodes):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().annotate(model)


class Hangs(OnlyRelu):
    def annotate(self, model):
        if any(node.op == "placeholder" and node.meta["val"].dim() == 1 for node in model.graph.nodes):
            time.sleep(600)
        return super().annotate(model)


class Plain(Quantizer):
    """Without a table: add and relu."""

    def annotate(self, model):
        return OnlyRelu().annotate(Tiny().annotate(model))

    def validate(self, model):
        pass


class ClaimsNothing(Quantizer):
    def annotate(self, model):
        return model

    def validate(self, model):
        pass


TINY = Backend(name="tiny", quantizer=Tiny, profile=PROFILE)
NUMBER = 7


def needs_an_argument(size):
    return torch.zeros(size)


class Refuses(OnlyRelu):
    """Has a reason against everything."""

    rows = (Row("relu", (RELU,), checks=(lambda _match: "not today",)),)
