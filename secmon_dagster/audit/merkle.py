"""The Merkle tree of RFC 6962 (section 2.1) and RFC 9162, over entry hashes.

``leaf = SHA-256(0x00 ‖ entry_hash)``, ``node = SHA-256(0x01 ‖ left ‖ right)``; the tree of n leaves
splits at the largest power of two below n. Its state is the list of *peaks*: the roots of the
perfect subtrees it consists of, left to right, one for each 1 bit of n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from operator import add

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry_hash: bytes) -> bytes:
    """Hash of a leaf."""
    return sha256(b"\x00" + entry_hash).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def root_of_peaks(peaks: Sequence[bytes]) -> bytes:
    """The root of the tree with these peaks."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def peak_sizes(size: int) -> list[int]:
    """Leaves under each peak of a tree of ``size`` leaves: its 1 bits, largest first."""
    return [1 << bit for bit in range(size.bit_length() - 1, -1, -1) if size >> bit & 1]


class Frontier:
    """A tree that only grows: its size and peaks.

    Appending is a binary counter; :meth:`extend` hashes level by level, which is what makes it
    fast: one comprehension over a whole level instead of one loop a leaf.
    """

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count():
            raise ValueError(f"{len(self.peaks)} peaks for {size} leaves; need {size.bit_count()}")

    @property
    def root(self) -> bytes:
        """The root of the tree so far."""
        return root_of_peaks(self.peaks)

    def copy(self) -> Frontier:
        """An independent tree in the same state."""
        return Frontier(self.size, self.peaks)

    def append(self, entry_hash: bytes) -> None:
        """Add one entry."""
        self._add(leaf_hash(entry_hash), 1)

    def extend(self, entry_hashes: Sequence[bytes]) -> None:
        """Add entries in their order."""
        at, total = 0, len(entry_hashes)
        while at < total:
            # The largest perfect subtree that fits here: aligned to its own size, not too long.
            step = 1 << ((total - at).bit_length() - 1)
            if self.size:
                step = min(step, self.size & -self.size)
            level = _hashed(b"\x00", entry_hashes[at : at + step])
            while len(level) > 1:
                pairs = iter(level)
                level = _hashed(b"\x01", map(add, pairs, pairs))
            self._add(level[0], step)
            at += step

    def add_subtree(self, root: bytes, leaves: int) -> None:
        """Add a perfect subtree of ``leaves`` leaves by its root; it must fit where the tree ends.

        Raises:
            ValueError: ``leaves`` is no power of two or the tree's size no multiple of it.
        """
        if leaves < 1 or leaves & (leaves - 1) or self.size % leaves:
            raise ValueError(f"a subtree of {leaves} leaves does not fit after {self.size}")
        self._add(root, leaves)

    def _add(self, root: bytes, leaves: int) -> None:
        carry = leaves
        while self.size & carry:
            root = node_hash(self.peaks.pop(), root)
            carry <<= 1
        self.peaks.append(root)
        self.size += leaves


def _hashed(prefix: bytes, nodes: Iterable[bytes]) -> list[bytes]:
    """The hash of each; a copy of a begun hash costs an eighth less than a new one."""
    new, hashes = sha256(prefix).copy, []
    for node in nodes:
        hashing = new()
        hashing.update(node)
        hashes.append(hashing.digest())
    return hashes


@dataclass(frozen=True)
class SubtreeHasher:
    """Roots of any range of a tree whose leaves are fetched when needed.

    Attributes:
        fetch: ``(first, count) -> entry hashes`` for leaf numbers from 0.
    """

    fetch: Callable[[int, int], Sequence[bytes]]

    def root(self, first: int, count: int) -> bytes:
        """Root of the tree over ``count`` leaves from ``first`` on, in bounded memory."""
        frontier = Frontier()
        for start in range(first, first + count, 65_536):
            wanted = min(65_536, first + count - start)
            leaves = self.fetch(start, wanted)
            if len(leaves) != wanted:
                raise ValueError(f"{len(leaves)} leaves from {start} on; need {wanted}")
            frontier.extend(leaves)
        return frontier.root

    def inclusion_path(self, index: int, size: int) -> list[bytes]:
        """PATH(index, D[size]) of RFC 6962, section 2.1.1.

        Raises:
            ValueError: the tree has no such leaf.
        """
        if not 0 <= index < size:
            raise ValueError(f"leaf {index} of a tree of {size}")
        path: list[bytes] = []
        first, count = 0, size
        while count > 1:
            split = 1 << ((count - 1).bit_length() - 1)
            if index - first < split:
                path.append(self.root(first + split, count - split))
                count = split
            else:
                path.append(self.root(first, split))
                first, count = first + split, count - split
        return path[::-1]

    def consistency_path(self, old: int, new: int) -> list[bytes]:
        """PROOF(old, D[new]) of RFC 6962, section 2.1.2; empty if either tree is trivial.

        Raises:
            ValueError: ``old`` is larger than ``new`` or negative.
        """
        if not 0 <= old <= new:
            raise ValueError(f"from {old} to {new} leaves")
        if old in (0, new):
            return []
        path: list[bytes] = []
        first, count, complete = 0, new, True
        while old != count:
            split = 1 << ((count - 1).bit_length() - 1)
            if old <= split:
                path.append(self.root(first + split, count - split))
                count = split
            else:
                path.append(self.root(first, split))
                first, count, old, complete = first + split, count - split, old - split, False
        if not complete:
            path.append(self.root(first, count))
        return path[::-1]


def root_from_inclusion(entry_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that ``path`` leads to (RFC 9162, section 2.1.3.2). Compare it with the signed one.

    Raises:
        ValueError: the path has the wrong length, or there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} of a tree of {size}")
    number, last = index, size - 1
    root = leaf_hash(entry_hash)
    for sibling in path:
        if last == 0:
            raise ValueError("the path is too long")
        if number & 1 or number == last:
            root = node_hash(sibling, root)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise ValueError("the path is too short")
    return root


def roots_from_consistency(
    old: int, new: int, old_root: bytes, path: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """Old and new root that ``path`` leads to (RFC 9162, section 2.1.4.2).

    Raises:
        ValueError: the path has the wrong length, or a trivial tree comes with a path.
    """
    if not 0 < old < new:
        raise ValueError(f"from {old} to {new} leaves; a path needs 0 < old < new")
    if not path:
        raise ValueError("the path is empty")
    steps = list(path) if old & (old - 1) else [old_root, *path]
    number, last = old - 1, new - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    first = second = steps[0]
    for sibling in steps[1:]:
        if last == 0:
            raise ValueError("the path is too long")
        if number & 1 or number == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise ValueError("the path is too short")
    return first, second
