"""Jobs and a clock for tests of the job store."""

from fw_model.pipeline.settings import GenerationSettings
from fw_serve.jobs.model import NewJob, WorldRequest
from fw_serve.jobs.store import Admission

REQUEST = WorldRequest(
    prompt="a secret room",
    model="m",
    seconds="0.3",
    camera="orbit",
    notes=("the prompt ends before 'secret'",),
    settings=GenerationSettings(num_frames=5, width=48, height=32, seed=2**53 - 1, negative_prompt="secret fog"),
)
OPEN = Admission()
LEASE_S = 10.0
KEEP_S = 100.0


class FrozenClock:
    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


def new(number, owner="", **changes):
    return NewJob(id=f"video_{number:024x}", owner=owner, request=REQUEST, **changes)


def report(store, lease, progress=50):
    store.report(lease, LEASE_S, stage="denoise", step=1, steps=2, progress=progress, eta_seconds=1.5)
