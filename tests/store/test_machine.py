"""A store against an in-memory model of one, under random sequences of what people do to it."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from small_capture import Capture, make_capture
from stored import object_path

from lpp.store import RunWriter, create_store, open_store
from lpp.store.errors import FormatError


def machine(captures: list[Any]) -> type[RuleBasedStateMachine]:
    """The machine over some captures, each of three shards."""
    which = st.integers(0, len(captures) - 1)
    index = st.integers(0, 2)

    class StoreMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.root = Path(tempfile.mkdtemp()) / "store"
            self.committed: dict[str, set[int]] = {}
            self.altered: set[tuple[str, int]] = set()
            self.writers: dict[int, RunWriter] = {}

        @initialize()
        def create(self) -> None:
            create_store(self.root)

        @rule(k=which)
        def open_writer(self, k: int) -> None:
            self.writers[k] = RunWriter(self.root, captures[k].plan, captures[k].prompts)
            self.committed.setdefault(captures[k].plan.run_id, set())

        @precondition(lambda self: self.writers)
        @rule(data=st.data(), shard=index)
        def write(self, data: Any, shard: int) -> None:
            k = data.draw(st.sampled_from(sorted(self.writers)))
            record = self.writers[k].write_shard(shard, *captures[k].shard(shard))
            first, end = captures[k].plan.shards[shard : shard + 2]
            assert (record.first_prompt, record.end_prompt) == (first, end)
            self.committed[captures[k].plan.run_id].add(shard)

        @precondition(lambda self: self.writers)
        @rule(data=st.data(), shard=index)
        def write_what_does_not_fit(self, data: Any, shard: int) -> None:
            k = data.draw(st.sampled_from(sorted(self.writers)))
            hidden, tokens = captures[k].shard(shard)
            with pytest.raises(ValueError, match="rows"):
                self.writers[k].write_shard(shard, hidden, tokens.slice(1))

        @precondition(lambda self: any(self.committed.values()))
        @rule(data=st.data(), record=st.booleans())
        def remove_or_cut_the_record(self, data: Any, record: bool) -> None:
            run_id, shard = data.draw(st.sampled_from(self.pairs()))
            path = self.root / "runs" / run_id / "shards" / f"{shard:05d}"
            if record:
                commit = path / "COMMIT.json"
                commit.write_bytes(commit.read_bytes()[:-5])
            else:
                shutil.rmtree(path)
            self.committed[run_id].discard(shard)
            self.altered.discard((run_id, shard))

        @precondition(lambda self: any(self.committed.values()))
        @rule(data=st.data())
        def alter_a_byte(self, data: Any) -> None:
            run_id, shard = data.draw(st.sampled_from(self.pairs()))
            directory = self.root / "runs" / run_id / "shards" / f"{shard:05d}"
            path = object_path(directory, "tokens.arrow")
            content = bytearray(path.read_bytes())
            content[17] ^= 4
            path.write_bytes(content)
            self.altered ^= {(run_id, shard)}

        def pairs(self) -> list[tuple[str, int]]:
            return sorted((run, shard) for run, have in self.committed.items() for shard in have)

        @invariant()
        def reads_as_the_model_says(self) -> None:
            if not self.root.exists():
                return
            runs = open_store(self.root).runs
            assert list(runs) == sorted(self.committed)
            for capture in captures:
                if capture.plan.run_id in runs:
                    self.check_run(capture, runs[capture.plan.run_id])

        def check_run(self, capture: Capture, run: Any) -> None:
            have = sorted(self.committed[run.id])
            assert [shard.index for shard in run.shards] == have
            assert run.missing_shards == tuple(sorted({0, 1, 2} - set(have)))
            whole = next((k for k in range(3) if k not in have), 3)
            assert run.n_prompts == capture.plan.shards[whole]
            altered = {shard for run_id, shard in self.altered if run_id == run.id}
            if altered:
                with pytest.raises(FormatError, match=r"tokens.arrow: altered"):
                    run.tokens()
            rows = [capture.hidden["final"][capture.rows(shard)] for shard in have]
            values = [block.values.view(np.uint32) >> 16 for block in run.blocks("final")]
            assert [v.tolist() for v in values] == [r.tolist() for r in rows]
            if not altered:
                assert run.tokens().count_rows() == sum(map(len, rows))

        def teardown(self) -> None:
            if self.root.exists():
                for run in open_store(self.root).runs.values():
                    expected = {("tokens.arrow", s) for r, s in self.altered if r == run.id}
                    expected |= {("COMMIT.json", s) for s in run.missing_shards}
                    found = {(Path(p.where).name, int(p.where[7:12])) for p in run.verify()}
                    assert found == expected
            shutil.rmtree(self.root.parent)

    return StoreMachine


@pytest.mark.slow
def test_store_does_what_the_model_does() -> None:
    captures = [
        make_capture((2, 3, 1), (0, 1, 2, 3), seed=1),
        make_capture((1, 2, 2, 1), (0, 2, 3, 4), seed=2),
    ]
    run_state_machine_as_test(
        machine(captures),
        settings=settings(
            max_examples=12,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
