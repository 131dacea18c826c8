"""``python -m embedworks``, and what ``accelerate launch -m embedworks`` starts."""

from __future__ import annotations

from embedworks.cli import main

if __name__ == "__main__":
    main()
