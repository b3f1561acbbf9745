"""File transfer around tasks: ``@hf.electron(files=[hf.fs.FileTransfer(…)])``. Covalent's names."""

from __future__ import annotations

from hpcflow.sdk import strategies
from hpcflow.sdk.strategies import register_downloader, register_uploader
from hpcflow.sdk.transfer import (
    File,
    FileTransfer,
    Folder,
    Order,
    TransferFailed,
    TransferFromRemote,
    TransferToRemote,
)

__all__ = [
    "File",
    "FileTransfer",
    "Folder",
    "Order",
    "TransferFailed",
    "TransferFromRemote",
    "TransferToRemote",
    "register_downloader",
    "register_uploader",
    "strategies",
]
