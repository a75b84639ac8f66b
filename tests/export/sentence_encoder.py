"""Load an export with sentence-transformers. Run by `without_nas.py` as `sentence_encoder.py <folder> <texts>`.

The texts are JSON. It prints their embeddings, which are computed one by one.
"""

import json
import sys

import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

logging.disable_progress_bar()
torch.set_num_threads(1)
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps(model.encode(json.loads(sys.argv[2]), batch_size=1, show_progress_bar=False).tolist()))
