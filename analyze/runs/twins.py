"""The untrained twin of a run: the same model with random weights over the same token ids."""

from typing import Final

from lpp.store import open_store
from lpp.store.runs.read import Run

NO_TWIN: Final = "no run of the same model with random weights and the same token ids in the store"


def untrained_twin(run: Run) -> Run | None:
    """The run beside `run` of the same model with random weights over the same token ids.

    Of several the one of the smallest seed. None for a run that is untrained itself.
    """
    ours = run.plan
    if ours.model.untrained_seed is not None:
        return None
    store = open_store(run.path.parent.parent)
    twins = [
        (seed, name)
        for name, plan in store.plans.items()
        if plan is not None
        and (seed := plan.model.untrained_seed) is not None
        and plan.prompts.sha256 == ours.prompts.sha256
        and plan.model.id == ours.model.id
        and plan.model.architecture == ours.model.architecture
        and plan.model.n_parameters == ours.model.n_parameters
    ]
    return store.runs[min(twins)[1]] if twins else None
