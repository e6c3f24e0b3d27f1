"""Judges never touch the network: no kernel and no weight is ever fetched."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
