"""`speculators train` with the backend `lpp`: `python -m lpp.store.exchange.train_speculators`.

For several GPUs: `torchrun --nproc_per_node 4 -m lpp.store.exchange.train_speculators`.
"""

import importlib
from typing import Any

from lpp.store.exchange.sample_order import read_by_groups


def main() -> None:
    """Train as the options say."""
    # registers the backend, before the trainer makes its parser
    importlib.import_module("lpp.store.exchange.speculators_backend")
    from speculators.train import cli
    from speculators.train.config import TrainConfig

    def ordered(**options: Any) -> tuple[Any, Any]:
        loaders: tuple[Any, Any] = create(**options)
        for loader in loaders:
            read_by_groups(loader)
        return loaders

    create, cli.create_train_val_loaders = cli.create_train_val_loaders, ordered
    try:
        cli.main(TrainConfig.resolve())
    finally:
        cli.create_train_val_loaders = create


if __name__ == "__main__":
    main()
