"""Layers as somebody else might bring them: good, failing, hanging, dying, greedy."""

import os
import signal
import time

import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self, model_dim, dtype):
        super().__init__()
        self.linear = nn.Linear(model_dim, model_dim, bias=False, dtype=dtype)

    def forward(self, x):
        return self.linear(x)


def good(model_dim, dtype):
    return Linear(model_dim, dtype)


def no_module(model_dim, dtype):
    return "not a module"


class _Misbehaving(Linear):
    def __init__(self, model_dim, dtype, act):
        super().__init__(model_dim, dtype)
        self.act = act

    def forward(self, x):
        self.act()
        return self.linear(x)


def raises(model_dim, dtype):
    def act():
        raise KeyError("lost")

    return _Misbehaving(model_dim, dtype, act)


def hangs(model_dim, dtype):
    return _Misbehaving(model_dim, dtype, lambda: time.sleep(3600))


def killed(model_dim, dtype):
    return _Misbehaving(model_dim, dtype, lambda: os.kill(os.getpid(), signal.SIGKILL))


def greedy(model_dim, dtype):
    return _Misbehaving(model_dim, dtype, lambda: torch.empty(2**50, dtype=torch.int8))


def slow(model_dim, dtype):
    return _Misbehaving(model_dim, dtype, lambda: time.sleep(0.05))
