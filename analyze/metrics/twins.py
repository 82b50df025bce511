"""The untrained twin of a run, and how far training lowered the rank: Diff-eRank."""

from collections.abc import Iterator, Sequence

from lpp.analyze.metrics.prompt_ranks import PromptRanks
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.site_reader import SiteReader
from lpp.store import open_store
from lpp.store.read import Block, Run

NO_TWIN = "no run of the same model with random weights and the same token ids in the store"


def untrained_twin(run: Run) -> Run | None:
    """The run beside `run` of the same model with random weights over the same token ids.

    Of several the one of the smallest seed. None for a run that is untrained itself.
    """
    ours = run.plan
    if ours.model.untrained_seed is not None:
        return None
    twins = [
        (seed, other.id, other)
        for other in open_store(run.path.parent.parent).runs.values()
        if (seed := other.plan.model.untrained_seed) is not None
        and other.plan.prompts.sha256 == ours.prompts.sha256
        and other.plan.model.id == ours.model.id
        and other.plan.model.architecture == ours.model.architecture
        and other.plan.model.n_parameters == ours.model.n_parameters
    ]
    return min(twins)[2] if twins else None


class RankDifferences:
    """Rank of the twin's prompts less that of the run's own, for every cell: a read of each."""

    def __init__(self, reader: SiteReader, cells: Sequence[Cell]) -> None:
        self._reader = reader
        self._own = PromptRanks(reader, cells)
        twin = untrained_twin(reader.run)
        self._twin = twin if twin is not None and reader.site in twin.sites else None

    def add(self, block: Block) -> None:
        """Take in the next rows."""
        self._own.add(block)

    def again(self) -> bool:
        """One read is enough."""
        return False

    def values(self) -> Iterator[tuple[Cell, float]]:
        """The difference of each cell that the twin has the prompts of, in dimensions."""
        if self._twin is None:
            return
        own = dict(self._own.values())
        cells = [cell for cell in own if cell.n_prompts <= self._twin.n_prompts]
        if not cells:
            return
        reader = SiteReader(self._twin, self._reader.site, RunView(self._twin).lengths)
        theirs = PromptRanks(reader, cells)
        for _ in reader.read([max(cell.n_prompts for cell in cells)], theirs):
            pass
        for cell, rank in theirs.values():
            yield cell, rank - own[cell]
