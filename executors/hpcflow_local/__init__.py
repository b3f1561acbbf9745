"""The `local` cluster for hpcflow: this machine's processes, scheduled by hpcflow's own node side."""

from hpcflow_local.plugin import LocalPlugin

__all__ = ["LocalPlugin"]
