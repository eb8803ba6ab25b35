"""``python -m dcganlib``: the command of ``dcganlib.cli``, which worker processes need not import."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, as ``cli.main`` does."""
    from dcganlib import cli

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
