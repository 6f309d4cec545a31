"""What Triton 3.6's interpreter gets wrong and the kernels need: import this before launching them.

- bf16 numbers are kept as 16-bit integers, and a product of two tiles multiplies those.
- Numpy 2.4 no longer turns an array of one element into an integer, as a loop up to a loaded number needs.
"""

import numpy as np
from triton import language as tl
from triton.runtime import interpreter

_multiply = interpreter.InterpreterBuilder.create_dot
_patch_tensors = interpreter._patch_lang_tensor


def _widened(tile):
    if tile.dtype.scalar != tl.bfloat16:
        return tile
    return interpreter.TensorHandle((tile.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _create_dot(builder, a, b, *others):
    return _multiply(builder, _widened(a), _widened(b), *others)


def _patch_lang_tensor(tensor, scope):
    _patch_tensors(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda number: number.handle.data.item())


interpreter.InterpreterBuilder.create_dot = _create_dot
interpreter._patch_lang_tensor = _patch_lang_tensor
