"""`python -m gpt2_from_scratch` is `gpt2`."""

import sys

from gpt2_from_scratch.cli import main

if __name__ == "__main__":
    sys.exit(main())
