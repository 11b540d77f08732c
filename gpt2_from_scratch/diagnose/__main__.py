"""``python -m gpt2_from_scratch.diagnose`` writes the page of all faults anew."""

from pathlib import Path

from gpt2_from_scratch.diagnose.page import page

if __name__ == "__main__":
    (Path(__file__).parent / "FAULTS.md").write_text(page(), encoding="utf-8")
