"""Put on the server's PYTHONPATH: lets the NDIF API take request bodies over 1 MB.

anyio imports `anyio.abc` lazily, which fails once nnsight has put `.save` on every object ("Attribute 'save' is missing
its type annotation"): the API then answers 400. Importing it before nnsight avoids that.
"""

import sys

if any("gunicorn" in argument for argument in sys.orig_argv):
    import anyio._backends._asyncio  # noqa: F401
