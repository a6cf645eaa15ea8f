"""What the tests of discovery share."""

import warnings

with warnings.catch_warnings():
    # libp2p 0.8.1 imports websockets.legacy, which says on import that it is deprecated.
    warnings.filterwarnings("ignore", "websockets.legacy is deprecated", DeprecationWarning)
    import libp2p  # noqa: F401
