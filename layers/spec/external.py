"""A layer of somebody else's: a factory named ``package.module:function`` or an entry point.

The factory is called as ``factory(model_dim=…, dtype=torch.dtype, **options)`` and returns a
module that maps (B, d) to (B, d). Its cost is not known before it is built: it is that of the layer
of ours whose work the module says that it does, or comes from a ``cost()`` of the module or, failing
that, is counted from its parameters and torch's FLOP counter.
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from membench.layers.spec.base import TokenSpec

_HOUSE = "membench."  # before the long name of our modules
# Our modules that moved: the name each was first known by, which scenarios and results may have, and today's.
_MOVED = {
    f"layers.peers.{module}": f"layers.public.{module}"
    for module in ("embedding_bag", "peer_pytorch", "product_key_memory", "transformers_moe")
}
_FIRST_NAMES = {now: first for first, now in _MOVED.items()}


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
        return _with_module_renamed(value, _MOVED)

    def under_first_names(self) -> Self:
        return self.model_copy(update={"factory": _with_module_renamed(self.factory, _FIRST_NAMES)})

    def checked_params(self, sampled: int, new_tokens: int = 1) -> int:
        del sampled, new_tokens
        return 0

    def split_error(self, ranks: int) -> str | None:
        if ranks > 1:
            return "a layer from outside is not split over ranks"
        return None


def _with_module_renamed(factory: str, names: dict[str, str]) -> str:
    """The factory in the module's other name, where it has one; a long name stays long, a short one short."""
    module, colon, function = factory.partition(":")
    short = module.removeprefix(_HOUSE)
    house = module.removesuffix(short)
    return f"{house}{names.get(short, short)}{colon}{function}"
