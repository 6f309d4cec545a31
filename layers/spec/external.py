"""A layer of somebody else's: a factory named ``package.module:function`` or an entry point.

The factory is called as ``factory(model_dim=…, dtype=torch.dtype, **options)`` and returns a
module that maps (B, d) to (B, d). Its cost is not known before it is built: it is that of the layer
of ours whose work the module says that it does, or comes from a ``cost()`` of the module or, failing
that, is counted from its parameters and torch's FLOP counter.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from membench.layers.spec.base import TokenSpec


class ExternalSpec(TokenSpec):
    """A layer from outside, found at run time."""

    ROUTED: ClassVar = False
    COUNTED: ClassVar = False

    kind: Literal["external"] = "external"
    factory: str = Field(description="package.module:function")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the factory")

    @field_validator("factory")
    @classmethod
    def _check_factory(cls, value: str) -> str:
        module, colon, function = value.partition(":")
        parts = [*module.split("."), *function.split(".")]
        if not colon or not all(part.isidentifier() for part in parts):
            raise ValueError(f"{value!r} names no factory: write package.module:function")
        return value

    def checked_params(self, tokens: int) -> int:
        del tokens
        return 0

    def split_error(self, ranks: int) -> str | None:
        if ranks > 1:
            return "a layer from outside is not split over ranks"
        return None
