"""Group commit: concurrent appends of one process share a round trip and a flush.

A caller who finds nobody at work appends alone, in its own thread. Everybody who comes meanwhile
queues, and one background thread takes the whole queue as one batch; as long as batches hold more
than one entry, callers go on queueing. (Handing a lock from caller to caller instead was measured
at a seventh of the throughput: Python's locks are not fair.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from secmon_dagster.audit.entry import Draft, Receipt
from secmon_dagster.audit.forking import forget_after_fork
from secmon_dagster.errors import EntryRefusedError

MAX_BATCH = 512
# One statement's parameters must stay far below libpq's 1 GB.
MAX_BATCH_BYTES = 8 * 2**20

AppendBatch = Callable[[Sequence[Draft]], list[Receipt]]


class Appender:
    """Appends for any number of threads of one process; usable again after a fork.

    Args:
        append_batch: writes a batch durably, all or nothing, idempotent by entry id.
    """

    def __init__(self, append_batch: AppendBatch) -> None:
        self._append_batch = append_batch
        self._forget()
        forget_after_fork(self)

    def _forget(self) -> None:
        """The state of a process that has not appended yet: threads don't survive a fork."""
        self._waiting = threading.Condition()
        self._queue: deque[tuple[Draft, Future[Receipt]]] = deque()
        self._busy = False
        self._crowded = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def append(self, draft: Draft) -> Receipt:
        """Append one entry and return when it is durable."""
        with self._waiting:
            alone = not (self._busy or self._queue or self._crowded or self._closed)
            if alone:
                self._busy = True
        if not alone:
            return self.submit(draft).result()
        try:
            return self._append_batch([draft])[0]
        finally:
            with self._waiting:
                self._busy = False
                if self._queue:
                    self._waiting.notify()

    def submit(self, draft: Draft) -> Future[Receipt]:
        """Queue one entry; the future is done when it is durable. Cancelled before its batch is
        sent, the entry is not appended; after that it can't be cancelled."""
        future: Future[Receipt] = Future()
        with self._waiting:
            if self._closed:
                raise RuntimeError("the audit logger is closed")
            self._queue.append((draft, future))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="audit-appender", daemon=True
                )
                self._thread.start()
            self._waiting.notify()
        return future

    def close(self) -> None:
        """Append what is queued, then stop. Further appends are refused."""
        with self._waiting:
            self._closed = True
            thread = self._thread
            self._waiting.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._waiting:
                self._waiting.wait_for(lambda: (self._queue or self._closed) and not self._busy)
                if not self._queue:
                    return
                batch = self._take()
                if not batch:
                    continue
                self._busy, self._crowded = True, len(batch) > 1
            try:
                self._write(batch)
            finally:
                with self._waiting:
                    self._busy = False

    def _take(self) -> list[tuple[Draft, Future[Receipt]]]:
        batch: list[tuple[Draft, Future[Receipt]]] = []
        size = 0
        while self._queue and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            draft, future = self._queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            size += len(draft.data or "") + len(draft.details or "")
            batch.append((draft, future))
        return batch

    def _write(self, batch: list[tuple[Draft, Future[Receipt]]]) -> None:
        try:
            receipts = self._append_batch([draft for draft, _ in batch])
        except EntryRefusedError as refused:
            # One bad entry must not cost the others theirs.
            if len(batch) == 1:
                batch[0][1].set_exception(refused)
            else:
                for pair in batch:
                    self._write([pair])
        except BaseException as failed:
            for _, future in batch:
                future.set_exception(failed)
        else:
            for (_, future), receipt in zip(batch, receipts, strict=True):
                future.set_result(receipt)
