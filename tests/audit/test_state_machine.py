"""The chain against a plain list, through any sequence of acts; old checkpoints hold for ever."""

from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from secmon_dagster.audit import Query
from secmon_dagster.audit.proof import check_proof, prove_consistency

_names = itertools.count()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("examples", "steps"), [(3, 12), pytest.param(60, 40, marks=pytest.mark.slow)]
)
def test_the_chain_behaves_like_a_list(chain, examples, steps):
    class Machine(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            for table in ("entries", "checkpoints", "archives", "leaves"):
                chain.admin.execute(f"ALTER TABLE secmon.audit_{table} DISABLE TRIGGER ALL")
                chain.admin.execute(f"DELETE FROM secmon.audit_{table}")
            for (name,) in chain.admin.execute(
                "SELECT inhrelid::regclass::text FROM pg_inherits"
                " WHERE inhparent = 'secmon.audit_entries'::regclass"
            ).fetchall():
                chain.admin.execute(f"DROP TABLE {name}")
            chain.admin.execute(
                "UPDATE secmon.audit_head SET seq = 0, partition_entries = 4, partitioned_to = 0,"
                " entry_hash = decode(repeat('00', 32), 'hex')"
            )
            state = chain.home / "keys" / "audit-signer.json"
            state.unlink(missing_ok=True)
            (chain.home / "witness" / "checkpoints.jsonl").unlink(missing_ok=True)
            self.model: list[str] = []  # the action of each entry
            self.hidden: set[int] = set()
            self.hashes: list[str] = []
            self.archived: list[tuple[int, int]] = []
            self.notes: list[str] = []

        def _learn(self, *actions):
            self.model += actions
            with chain.log.store.snapshot() as snapshot:
                first = len(self.hashes) + 1
                self.hashes += [leaf.hex() for leaf in snapshot.leaves(first, len(self.model))]

        @rule(count=st.integers(1, 6))
        def append(self, count):
            actions = [f"act{next(_names)}" for _ in range(count)]
            chain.log.append_entries(
                [{"action": name, "actor": "a", "resource_type": "t"} for name in actions]
            )
            self._learn(*actions)

        @rule()
        def append_one(self):
            name = f"act{next(_names)}"
            chain.log.append_entry(name, "a", "t")
            self._learn(name)

        @rule()
        def checkpoint(self):
            publication = chain.log.checkpoint()
            assert publication.size == len(self.model)
            if publication.note not in self.notes:
                self.notes.append(publication.note)

        @precondition(lambda self: self.model)
        @rule(data=st.data())
        def rollback(self, data):
            first_live = self.archived[-1][1] + 1 if self.archived else 1
            if first_live > len(self.model):
                return
            kept = data.draw(st.integers(first_live, len(self.model)))
            done, removed = chain.log.rollback_to_hash(self.hashes[kept - 1])
            assert (done, removed) == (True, len(self.model) - kept)
            if removed:
                self.hidden |= set(range(kept + 1, len(self.model) + 1))
                self._learn("log.rollback")

        @rule()
        def archive(self):
            chain.log.checkpoint()
            moved = chain.log.archive(timedelta(0))
            self.archived += [(part.first_seq, part.last_seq) for part in moved]
            self._learn(*["log.archive"] * len(moved))

        @precondition(lambda self: self.archived)
        @rule()
        def restore(self):
            first, _ = self.archived.pop()
            chain.log.restore(first)
            self._learn("log.restore")

        @invariant()
        def the_chain_is_the_list(self):
            result = chain.verify()
            assert result.verdict == "valid", result
            assert result.total_entries == len(self.model)
            gone = {seq for first, last in self.archived for seq in range(first, last + 1)}
            assert result.archived == len(gone)
            live = [seq for seq in range(1, len(self.model) + 1) if seq not in gone]
            everything = chain.log.find(Query(include_superseded=True))
            assert [(entry.seq, entry.action) for entry in everything] == [
                (seq, self.model[seq - 1]) for seq in live
            ]

        @invariant()
        def every_old_checkpoint_is_still_the_beginning(self):
            ring = chain.log.trust().ring
            with chain.log.store.snapshot() as snapshot:
                for old in self.notes:
                    assert check_proof(prove_consistency(snapshot, old, self.notes[-1]), ring)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
        ),
    )
