"""What an arm's layer stands in, at the levels that measure more than a layer: a block, or a whole model."""

from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import TypeAdapter, ValidationError

from membench.errors import UsageError, shown, suggestion, usage_error
from membench.layers.spec import PRESETS, At, ModelShape, OwnLayerSpec, Pool, Spec

WholeLevel = Literal["block", "model", "training"]
WHOLE_LEVELS: tuple[WholeLevel, ...] = ("block", "model", "training")
WHOLE_KEYS = ("at", "pool")  # of an arm at levels model and training, beside its layer's own
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


def shape_from(raw: Any, vocab_size: int | None = None) -> ModelShape:
    """The shape of ``model:``, a preset with what is said besides put over it.

    Args:
        vocab_size: of what it is trained on, which is the model's where it states none; None: it must say its own.

    Raises:
        UsageError: there is no such preset, a key or a value makes no sense, or the vocabulary is too small.
    """
    values = dict(raw)
    preset = values.pop(_PRESET, None)
    if preset is not None and not (isinstance(preset, str) and preset in PRESETS):
        raise UsageError(f"no preset is {shown(preset)}; {suggestion(preset, PRESETS)}", key=f"model.{_PRESET}")
    for key in values:
        if key not in ModelShape.model_fields:
            raise UsageError(f"unknown key; {suggestion(key, [_PRESET, *ModelShape.model_fields])}", key=f"model.{key}")
    base = PRESETS[preset].model_dump() if preset is not None else {}
    of_task = {} if vocab_size is None else {"vocab_size": vocab_size}
    try:
        shape = ModelShape.model_validate({**base, **of_task, **values}, strict=True)
    except ValidationError as error:
        wrong = usage_error(error, ModelShape, "model")
        if error.errors()[0]["type"] == "missing":
            raise UsageError(f"{wrong.problem}; or name a preset: {', '.join(PRESETS)}", key=wrong.key) from None
        raise wrong from None
    if vocab_size is not None and shape.vocab_size < vocab_size:
        problem = f"should be at least {vocab_size}, the tokens of the task, not {shape.vocab_size}; or leave it out"
        raise UsageError(problem, key="model.vocab_size")
    return shape


def whole_from(level: WholeLevel, shape: ModelShape, stated: dict[str, Any], places: dict[str, str]) -> Whole:
    """What an arm's layer stands in.

    Args:
        stated: the keys of ``WHOLE_KEYS`` that are given.
        places: the scenario's key for each of ``stated``.

    Raises:
        UsageError: blocks that the model does not have, or a pool of no known kind.
    """
    if level == "block" and stated:
        raise UsageError("is for levels model and training: a block has one layer", key=places[next(iter(stated))])
    at, pool = stated.get("at", "all"), stated.get("pool", "own")
    try:
        found = _AT.validate_python(tuple(at) if isinstance(at, list) else at, strict=True)
    except ValidationError:
        raise UsageError(f"should be {_AT_FORMS}, not {shown(at)}", key=places["at"]) from None
    try:
        shape.positions(found)
    except ValueError as error:
        raise UsageError(str(error), key=places["at"]) from None
    try:
        return Whole(level, shape, found, _POOL.validate_python(pool))
    except ValidationError:
        raise UsageError(f"should be shared or own, not {shown(pool)}", key=places["pool"]) from None
