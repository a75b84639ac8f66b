"""Load an export with sentence-transformers where `nas` cannot be imported. Run as `python -I sentence_encoder.py
<folder> <texts>`, the texts as JSON; prints their embeddings, each computed alone.
"""

import importlib.abc
import json
import sys

import torch


class _NoNas(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.split(".")[0] == "nas":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


sys.meta_path.insert(0, _NoNas())

from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers.utils import logging  # noqa: E402

logging.disable_progress_bar()
torch.set_num_threads(1)
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps(model.encode(json.loads(sys.argv[2]), batch_size=1, show_progress_bar=False).tolist()))
