"""`speculators train` with the backend `lpp`: `python -m lpp.store.exchange.train_speculators`.

For several GPUs: `torchrun --nproc_per_node 4 -m lpp.store.exchange.train_speculators`.
"""

import importlib


def main() -> None:
    """Train as the options say."""
    # registers the backend, before the trainer makes its parser
    importlib.import_module("lpp.store.exchange.speculators_backend")
    from speculators.train.cli import main as train
    from speculators.train.config import TrainConfig

    train(TrainConfig.resolve())


if __name__ == "__main__":
    main()
