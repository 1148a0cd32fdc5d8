"""The common design of a hash-chained log: an ORM reads the last row, hashes, inserts, commits."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from itertools import pairwise

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from secmon_dagster.database import database_url


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "common_design"
    id: Mapped[int] = mapped_column(primary_key=True)
    entry_id: Mapped[str]
    action: Mapped[str]
    actor: Mapped[str]
    data: Mapped[str]
    previous_hash: Mapped[str]
    entry_hash: Mapped[str]


def append(engine: sa.Engine) -> None:
    with Session(engine) as session:
        last = session.scalar(sa.select(Entry).order_by(Entry.id.desc()).limit(1))
        previous = last.entry_hash if last else "0" * 64
        data = json.dumps({"config": {"threshold": 0.85}}, sort_keys=True)
        entry_id = str(uuid.uuid4())
        digest = hashlib.sha256(f"{entry_id}{data}{previous}".encode()).hexdigest()
        session.add(Entry(entry_id=entry_id, action="UPDATE", actor="a", data=data,
                          previous_hash=previous, entry_hash=digest))  # fmt: skip
        session.commit()


def run(writers: int, seconds: float) -> tuple[float, float]:
    """Appends a second, and the share of links that don't hold."""
    url = database_url().replace("postgresql:", "postgresql+psycopg:", 1)
    engine = sa.create_engine(url, pool_size=writers)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    end = time.perf_counter() + seconds

    def work() -> None:
        while time.perf_counter() < end:
            append(engine)

    threads = [threading.Thread(target=work) for _ in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Session(engine) as session:
        rows = session.execute(
            sa.select(Entry.previous_hash, Entry.entry_hash).order_by(Entry.id)
        ).all()
    engine.dispose()
    broken = sum(after.previous_hash != before.entry_hash for before, after in pairwise(rows))
    return len(rows) / seconds, broken / max(1, len(rows) - 1)
