"""``python -m tokmarg`` is ``tokmarg``."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="tokmarg")
