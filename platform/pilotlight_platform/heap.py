"""What a process has loaded stays: the garbage collector need not look at it again."""

from __future__ import annotations

import gc


def freeze_heap() -> None:
    """Leave everything that lives now out of later collections.

    A full collection with torch, transformers and Ray loaded takes up to 0.5 s and holds the GIL:
    in a stream, or in a cold start, that is a pause. To be called once, at the end of the set-up.
    """
    gc.collect()
    gc.freeze()
