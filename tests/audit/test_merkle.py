from __future__ import annotations

from hashlib import sha256

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    SubtreeHasher,
    leaf_hash,
    node_hash,
    peak_sizes,
    root_from_inclusion,
    roots_from_consistency,
)


def leaves(count: int) -> list[bytes]:
    return [sha256(number.to_bytes(4)).digest() for number in range(count)]


def naive_root(entries: list[bytes]) -> bytes:
    """MTH(D[n]) as RFC 6962 defines it."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return leaf_hash(entries[0])
    split = 1 << ((len(entries) - 1).bit_length() - 1)
    return node_hash(naive_root(entries[:split]), naive_root(entries[split:]))


def hasher(entries: list[bytes]) -> SubtreeHasher:
    return SubtreeHasher(lambda first, count: entries[first : first + count])


def test_the_empty_tree_has_the_hash_of_nothing():
    assert Frontier().root == EMPTY_ROOT == naive_root([])


@given(st.lists(st.integers(min_value=0, max_value=70), max_size=6))
def test_growing_in_any_steps_gives_the_root_of_the_definition(steps):
    entries, tree = leaves(sum(steps)), Frontier()
    at = 0
    for step in steps:
        tree.extend(entries[at : at + step])
        at += step
    assert tree.root == naive_root(entries)
    assert len(tree.peaks) == len(peak_sizes(tree.size))


def test_one_by_one_and_all_at_once_agree():
    for count in range(130):
        one, all_at_once = Frontier(), Frontier()
        for entry in leaves(count):
            one.append(entry)
        all_at_once.extend(leaves(count))
        assert one.peaks == all_at_once.peaks


def test_every_inclusion_path_leads_to_the_root_and_no_other_leaf_does():
    for size in range(1, 40):
        entries = leaves(size)
        root = naive_root(entries)
        for index in range(size):
            path = hasher(entries).inclusion_path(index, size)
            assert root_from_inclusion(entries[index], index, size, path) == root
            assert root_from_inclusion(b"x" * 32, index, size, path) != root


def test_every_consistency_path_leads_to_both_roots():
    entries = leaves(40)
    for new in range(2, 41):
        for old in range(1, new):
            path = hasher(entries).consistency_path(old, new)
            old_root, new_root = naive_root(entries[:old]), naive_root(entries[:new])
            assert roots_from_consistency(old, new, old_root, path) == (old_root, new_root)


@given(st.integers(2, 200), st.data())
def test_a_consistency_path_with_one_changed_hash_leads_elsewhere(new, data):
    old = data.draw(st.integers(1, new - 1))
    entries = leaves(new)
    path = hasher(entries).consistency_path(old, new)
    place = data.draw(st.integers(0, len(path) - 1))
    path[place] = bytes([path[place][0] ^ 1]) + path[place][1:]
    roots = naive_root(entries[:old]), naive_root(entries)
    assert roots_from_consistency(old, new, roots[0], path) != roots


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_path_of_the_wrong_length_is_refused(change):
    entries = leaves(11)
    inclusion = hasher(entries).inclusion_path(3, 11)
    consistency = hasher(entries).consistency_path(5, 11)
    for path in (inclusion, consistency):
        if change == "longer":
            path.append(bytes(32))
        else:
            path.pop()
    with pytest.raises(ValueError, match=f"too {'long' if change == 'longer' else 'short'}"):
        root_from_inclusion(entries[3], 3, 11, inclusion)
    with pytest.raises(ValueError, match=f"too {'long' if change == 'longer' else 'short'}"):
        roots_from_consistency(5, 11, naive_root(entries[:5]), consistency)


def test_a_subtree_that_does_not_fit_is_refused():
    tree = Frontier()
    tree.append(bytes(32))
    with pytest.raises(ValueError, match="does not fit"):
        tree.add_subtree(bytes(32), 2)


def test_roots_and_proofs_agree_with_pymerkle():
    peer = pymerkle.InmemoryTree(algorithm="sha256")
    entries = leaves(100)
    tree = Frontier()
    for count, entry in enumerate(entries, 1):
        peer.append_entry(entry)
        tree.append(entry)
        assert peer.get_state() == tree.root
        for index in (0, count // 2, count - 1):
            theirs = peer.prove_inclusion(index + 1, count)
            ours = hasher(entries).inclusion_path(index, count)
            assert [bytes(step) for step in theirs.path][1:] == ours
