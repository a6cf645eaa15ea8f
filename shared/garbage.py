"""Has Python's collector of cycles look less often at less."""

import gc
from typing import Final

YOUNG_OBJECTS: Final = 20_000
"""How many more objects there may be than at the last look. A burst of tokens for a thousand
streams makes as many for a moment, none of them in a cycle."""


def spare_what_is_here() -> None:
    """To be called once all is loaded that stays: tokenizers, routes, schemas, a model's modules.

    A full look at a gateway's 200,000 objects takes 0.1 s, at a worker's 440,000 0.3 s, in which
    no token moves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def spare_nothing() -> None:
    """To be called before what was spared is let go of: it may be in cycles."""
    gc.unfreeze()
