"""Public layers, to stand beside ours in one table: ``pip install 'membench[peers]'``.

Each file has a factory for ``layer: layers.public.FILE:build``. The packages are imported by the
factories, so that nothing else needs them.
"""
