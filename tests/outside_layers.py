"""Layers as somebody else might bring them: good, failing, hanging, dying, greedy, wrong."""

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


class Wrong(Linear):
    """``fault`` is a method of this class: what is wrong with it."""

    def __init__(self, model_dim, dtype, fault):
        super().__init__(model_dim, dtype)
        self.fault, self.kept, self.calls = fault, None, 0

    def forward(self, x):
        return getattr(self, self.fault)(x)

    def returns_nan(self, x):
        return self.linear(x) * float("nan")

    def one_infinite_number(self, x):
        return self.linear(x).index_fill(0, torch.tensor([len(x) - 1]), float("inf"))

    def misses_a_column(self, x):
        return self.linear(x)[:, 1:]

    def returns_a_tuple(self, x):
        return self.linear(x), None

    def returns_nothing(self, x):
        self.linear(x)

    def another_dtype(self, x):
        return self.linear(x).double()

    def another_device(self, x):
        return self.linear(x).to("meta")

    def sparse(self, x):
        return self.linear(x).to_sparse()

    def writes_into_x(self, x):
        y = self.linear(x)
        with torch.no_grad():
            x.mul_(2)
        return y

    def writes_past_autograd_into_x(self, x):
        y = self.linear(x)
        x.data += 1
        return y

    def returns_x(self, x):
        return x

    def rescales_its_weights(self, x):
        with torch.no_grad():
            self.linear.weight.mul_(0.999)
        return self.linear(x)

    def rescales_past_autograd(self, x):
        self.linear.weight.data = self.linear.weight.data * 0.999
        return self.linear(x)

    def has_new_weights(self, x):
        self.linear.weight = nn.Parameter(self.linear.weight.detach().clone())
        return self.linear(x)

    def overwrites_its_last_answer(self, x):
        y = self.linear(x)
        if self.kept is None:
            self.kept = torch.empty_like(y.detach())
        return self.kept.copy_(y)

    def half_written(self, x):
        y = torch.empty_like(x)
        y[: len(x) // 2] = self.linear(x)[: len(x) // 2]
        return y

    def is_nan_from_the_tenth_call_on(self, x):
        self.calls += 1
        return self.linear(x) * (1 if self.calls < 10 else float("nan"))

    def detached(self, x):
        return self.linear(x).detach()

    def detached_from_x(self, x):
        return self.linear(x.detach())

    def detached_from_its_weights(self, x):
        return x @ self.linear.weight.detach()

    def gradient_is_nan(self, x):
        return self.linear(x) + (x - x).sqrt()

    def writes_into_what_is_sent_back(self, x):
        return _Overwriting.apply(self.linear(x))


class _Overwriting(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y * 1

    @staticmethod
    def backward(ctx, upstream):
        return upstream.mul_(0.5)


def wrong(model_dim, dtype, fault):
    return Wrong(model_dim, dtype, fault)
