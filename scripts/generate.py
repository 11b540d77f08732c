"""Continues a prompt with GPT-2 and prints the text as it is written; the same as `gpt2 generate`.

    python scripts/generate.py 'Once upon a time'
    python scripts/generate.py 'Once upon a time' --max-new-tokens 99 --temperature 0.8 --top-k 50 --top-p 0.9 --seed 1
    python scripts/generate.py 'Hello, I am' --checkpoint openai-community/gpt2
    python scripts/generate.py ''        # from nothing: starts at the model's start-of-text token

The package must be installed (`pip install -e .`). The checkpoint is a Hub id, a directory or a file; without one it is
the small trained model inside the package. The default is greedy: always the likeliest token, the same text each time.
With --temperature above 0 tokens are drawn, and --seed makes that repeatable. `--help` lists every option. Exit code 0,
or 2 with one line that says what is wrong.
"""

import sys

from gpt2_from_scratch.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "generate")
    sys.exit(main())
