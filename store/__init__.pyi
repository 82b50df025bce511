# Public names and their modules: `__init__.py` loads each on first use.
from .committed.compare import Problem as Problem
from .format.plan import Plan as Plan
from .root import write_index as write_index
from .row_sink import RowSink as RowSink
from .row_sink import sink as sink
from .runs.read import Block as Block
from .runs.read import Run as Run
from .runs.shards import Shard as Shard
from .runs.write import RunWriter as RunWriter
from .scores.scores import add_scores as add_scores
from .scores.scores import read_scores as read_scores
from .scores.scores import remove_scores as remove_scores
from .shared.authors import trusting_kept as trusting_kept
from .shared.logits import Head as Head
from .store import Store as Store
from .store import create_store as create_store
from .store import open_store as open_store
