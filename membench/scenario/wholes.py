"""What an arm's layer stands in, at the levels that measure more than a layer: a block, or a whole model."""

from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import TypeAdapter, ValidationError

from membench.errors import UsageError, shown, suggestion, usage_error
from membench.layers.spec import PRESETS, At, ModelShape, OwnLayerSpec, Pool, Spec

WholeLevel = Literal["block", "model"]
WHOLE_LEVELS: tuple[WholeLevel, ...] = ("block", "model")
_PRESET = "preset"
_AT: TypeAdapter[At] = TypeAdapter(At)
_POOL: TypeAdapter[Pool] = TypeAdapter(Pool)
_AT_FORMS = "all, middle, {count: 3, stride: 8}, or numbers of blocks such as [4, 12, 20]"


@dataclass(frozen=True)
class Whole:
    """A block, or a model, but for the layer in it."""

    level: WholeLevel
    shape: ModelShape
    at: At = "all"
    pool: Pool = "own"

    def around(self, layer: Spec, *, checked: bool = True) -> Spec:
        """The config with this layer inside; not ``checked``: a sketch, while the layer's sizes are looked for.

        Raises:
            ValueError: the layer does not fit, as one of another width does not.
        """
        inside = cast(OwnLayerSpec, layer)
        if self.level == "block":
            return self.shape.block_around(inside, checked=checked)
        return self.shape.around(inside, self.at, self.pool, checked=checked)


def shape_from(raw: Any) -> ModelShape:
    """The shape of ``model:``, a preset with what is said besides put over it.

    Raises:
        UsageError: there is no such preset, or a key or a value makes no sense.
    """
    values = dict(raw)
    preset = values.pop(_PRESET, None)
    if preset is not None and not (isinstance(preset, str) and preset in PRESETS):
        raise UsageError(f"no preset is {shown(preset)}; {suggestion(preset, PRESETS)}", key=f"model.{_PRESET}")
    base = PRESETS[preset].model_dump() if preset is not None else {}
    try:
        return ModelShape.model_validate({**base, **values}, strict=True)
    except ValidationError as error:
        raise usage_error(error, ModelShape, "model") from None


def whole_from(level: WholeLevel, shape: ModelShape, values: dict[str, Any], key: str) -> Whole:
    """What an arm's layer stands in, its keys ``at`` and ``pool`` taken out of what it states.

    Raises:
        UsageError: blocks that the model does not have, or a pool of no known kind.
    """
    stated = {name: values.pop(name) for name in ("at", "pool") if name in values}
    if level == "block" and stated:
        name = next(iter(stated))
        raise UsageError("is for level model: a block has one layer", key=f"{key}.{name}")
    at: At = "all"
    if "at" in stated:
        given = tuple(stated["at"]) if isinstance(stated["at"], list) else stated["at"]
        try:
            at = _AT.validate_python(given, strict=True)
        except ValidationError:
            raise UsageError(f"should be {_AT_FORMS}, not {shown(stated['at'])}", key=f"{key}.at") from None
    try:
        shape.positions(at)
    except ValueError as error:
        raise UsageError(str(error), key=f"{key}.at") from None
    try:
        pool = _POOL.validate_python(stated.get("pool", "own"))
    except ValidationError:
        raise UsageError(f"should be shared or own, not {shown(stated['pool'])}", key=f"{key}.pool") from None
    return Whole(level, shape, at, pool)
