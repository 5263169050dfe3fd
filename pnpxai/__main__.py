"""``python -m pnpxai``."""

from pnpxai.cli import main

if __name__ == "__main__":
    main()
