"""Which tokens of which requests the next step computes, and whose memory that takes.

scheduler.add(request)
output = scheduler.schedule()         # SchedulerOutput: chunks of tokens
... run the model ...
scheduler.commit(chunk, token_id)     # for each chunk
scheduler.finish(request)             # at any time between steps
"""

from backend.scheduler.media import MediaPiece
from backend.scheduler.output import Chunk, SchedulerOutput
from backend.scheduler.request import Request
from backend.scheduler.scheduler import Scheduler, SchedulerLimits

__all__ = ["Chunk", "MediaPiece", "Request", "Scheduler", "SchedulerLimits", "SchedulerOutput"]
