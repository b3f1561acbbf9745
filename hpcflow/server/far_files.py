"""Files of a cluster, read piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from hpcflow.core.model import NotFound
from hpcflow.server.clusters import Cluster
from hpcflow.server.remote import TransportError

__all__ = ["pieces"]

_PIECE: Final = 8 * 2**20


async def pieces(cluster: Cluster, path: str, offset: int, size: int) -> AsyncIterator[bytes]:
    """Yield ``size`` bytes of a file from ``offset`` on; memory holds one piece at a time.

    Raises:
        NotFound: it is gone, or shorter.
        TransportError: the cluster does not answer.
    """
    while size > 0:
        try:
            piece = await cluster.transport.read(path, offset, min(_PIECE, size))
        except TransportError as error:
            if "No such file" in str(error):
                raise NotFound(f"{path} on {cluster.name} is gone.") from None
            raise
        if not piece:
            raise NotFound(f"{path} on {cluster.name} is shorter than it was.")
        yield piece
        offset, size = offset + len(piece), size - len(piece)
