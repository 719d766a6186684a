"""Workers with a recent heartbeat, and the models they have loaded."""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import bindparam, select

from fw_serve.jobs.model import ModelCard
from fw_serve.jobs.store import JobStore, add_to
from fw_serve.jobs.tables import cards, reader, workers

WorkerState = Literal["loading", "ready", "busy"]


_HELD = select(workers.c.card).where(workers.c.seen_at > bindparam("since"), workers.c.card.is_not(None))


@dataclass(frozen=True, kw_only=True)
class WorkerRecord:
    """State of a worker at its last heartbeat."""

    id: str
    """HOST-PID-COUNT of the process that holds the model."""
    state: WorkerState
    """Current activity."""
    seen_at: float
    """Time of the heartbeat, seconds since 1970."""


class Fleet:
    """The workers of a store.

    Args:
        store: the job store.
        silent_s: a worker without a heartbeat for this long is not counted.
    """

    def __init__(self, store: JobStore, *, silent_s: float = 30.0) -> None:
        self.store = store
        self.silent_s = silent_s

    def announce(self, worker: str, state: WorkerState, card: ModelCard | None = None) -> None:
        """Write a heartbeat, and the model that the worker has loaded."""
        row: dict[str, object] = {"id": worker, "state": state, "seen_at": self.store.clock()}
        with self.store.engine.begin() as connection:
            add_to(connection, workers, row, {"state": state, "seen_at": row["seen_at"]})
            if card is not None:
                known: dict[str, object] = {"name": card.name, "card": card.model_dump_json()}
                add_to(connection, cards, known, {"card": known["card"]})
                connection.execute(workers.update().where(workers.c.id == worker).values(card=known["card"]))

    def forget(self, worker: str) -> None:
        """Remove a worker that has ended."""
        with self.store.engine.begin() as connection:
            connection.execute(workers.delete().where(workers.c.id == worker))

    def alive(self) -> list[WorkerRecord]:
        """Workers with a recent heartbeat."""
        recent = workers.c.seen_at > self.store.clock() - self.silent_s
        with reader(self.store.engine) as connection:
            rows = connection.execute(select(workers).where(recent)).all()
        return [WorkerRecord(id=row.id, state=row.state, seen_at=row.seen_at) for row in rows]

    def models(self) -> list[ModelCard]:
        """Models of running workers, the default first; if none runs, all ever loaded. Cards of one name are merged."""
        since = self.store.clock() - self.silent_s
        with reader(self.store.engine) as connection:
            held = connection.execute(_HELD, {"since": since}).scalars()
            texts = sorted({text for text in held if text})
            texts = texts or list(connection.execute(select(cards.c.card).order_by(cards.c.name)).scalars())
        found: dict[str, ModelCard] = {}
        for card in map(ModelCard.stored, texts):
            known = found.get(card.name)
            if known is None or card.measured_pixels > known.measured_pixels:  # the best known need
                found[card.name] = card
        return sorted(found.values(), key=lambda card: (card.order, card.name))

    def prune(self) -> None:
        """Remove workers without a heartbeat for an hour."""
        with self.store.engine.begin() as connection:
            connection.execute(workers.delete().where(workers.c.seen_at < self.store.clock() - 3600))
