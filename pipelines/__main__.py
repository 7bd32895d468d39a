"""``python -m pipelines`` is ``landweave``."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
