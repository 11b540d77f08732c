"""The programs in this folder run in environments of their own, which tests have not: pytest imports none of them."""

collect_ignore_glob = ["*.py"]
