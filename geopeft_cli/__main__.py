"""``python -m geopeft_cli``, also under ``torchrun -m``, and the console script ``geopeft``."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from geopeft_cli.cli.app import app

    app()


if __name__ == "__main__":
    main()
