"""Finding out, while an answer comes in, that it will come to no good end.

A model that repeats itself goes on until its window is full: minutes of a GPU, and at the end an answer that nobody can
use (ollama/ollama#13239, #7814, #2577). So the end of an answer is looked at while it grows, and such an answer is cut.

Rules of the package: pure, no clock and no I/O; bounded memory; constant work for each piece, however long the answer.
Better to let a loop run a little longer than to cut one good answer: what is counted is exact repetition, and more of
it than tables, drawings, refrains or test data have.
"""

from resilient_llm.sentinels._output import EVERY, Lookout, OutputSentinel
from resilient_llm.sentinels._repeats import period

__all__ = ["EVERY", "Lookout", "OutputSentinel", "period"]
