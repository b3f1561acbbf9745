"""`python -m hpcflow.cli`: the command, for programs that must not depend on PATH."""

from __future__ import annotations

import sys

from hpcflow.cli.command import main

if __name__ == "__main__":
    sys.exit(main())
