"""`python -m clipguide` is the same as the `clipguide` command."""

from __future__ import annotations

from clipguide.cli import main

if __name__ == "__main__":
    main()
