"""Run a rig by hand: `python -m tests.ndif ORG/NAME=FOLDER ...`, until interrupted."""

import argparse
import signal
import sys
from contextlib import suppress
from pathlib import Path

from tests.ndif.install import default_home, install
from tests.ndif.rig import Rig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="ORG/NAME=FOLDER")
    parser.add_argument("--home", type=Path, default=default_home())
    parser.add_argument("--name", default="by-hand")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--sandbox", action="store_true")
    arguments = parser.parse_args()
    models = {name: Path(folder) for name, _, folder in (model.partition("=") for model in arguments.models)}
    options = {"dtype": arguments.dtype, "time_limit_s": arguments.time_limit, "sandbox": arguments.sandbox}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Rig(install(arguments.home), models, name=arguments.name, **options) as rig:
        for name, value in rig.client_env().items():
            print(f"export {name}={value}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
