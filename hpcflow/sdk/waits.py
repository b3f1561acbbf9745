"""What keeps a dispatch from its end, told to whoever waits for it: each thing once, and again when it changes."""

from __future__ import annotations

from collections.abc import Iterator

from hpcflow.sdk.answers import Summary
from hpcflow.sdk.plain import plain
from hpcflow.sdk.terminal import clock, why_paused

__all__ = ["Waits"]


class Waits:
    """One per wait."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def news(self, summary: Summary) -> Iterator[str]:
        """Yield a sentence for whatever holds the dispatch back now and did not before, and for what does no more."""
        now = {} if summary.ended else dict(_causes(summary))
        for about, (cause, sentence) in now.items():
            if self._told.get(about) != cause:
                yield plain(sentence)
        for about in self._told.keys() - now.keys():
            if not summary.ended:
                yield plain(f"{about} answers again." if about else f"Dispatch {summary.id} goes on.")
        self._told = {about: cause for about, (cause, _) in now.items()}


def _causes(summary: Summary) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield what it is about (a cluster; empty: the dispatch itself), what tells it from other causes, a sentence."""
    if summary.paused is not None:
        at = summary.paused_at
        since = f" It waits since {clock(at)}." if at is not None and " at " not in summary.paused else ""
        yield "", (summary.paused, why_paused(summary) + since)
    for asked in summary.asked:
        if not asked.problem:
            continue
        since = f" since {clock(asked.unknown_since)}" if asked.unknown_since is not None else ""
        problem = asked.problem.strip().rstrip(".")
        yield (
            asked.cluster,
            (
                asked.problem,
                f"{asked.cluster} does not answer{since}: {problem}. What runs there goes on, and the rest waits until "
                f"it answers; `hpcflow clusters test {asked.cluster}` tells what is wrong.",
            ),
        )
