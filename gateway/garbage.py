"""Has Python's collector of cycles look less often at less."""

import gc
from typing import Final

YOUNG_OBJECTS: Final = 20_000
"""How many more objects there may be than at the last look. A burst of tokens for a thousand
streams makes as many for a moment, none of them in a cycle."""


def spare_what_is_here() -> None:
    """To be called once all is loaded that stays: tokenizers, routes, schemas, some 200,000
    objects. A full look at them takes 0.1 s, in which no token moves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)
