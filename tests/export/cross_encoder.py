"""Load an export with sentence-transformers. Run by `without_nas.py` as `cross_encoder.py <folder> <pairs>`.

The pairs are JSON. It prints their scores, the ranking of all second texts for the first query, and the scores of
transformers' pipeline.
"""

import json
import sys

import torch
from sentence_transformers import CrossEncoder
from transformers import pipeline
from transformers.utils import logging

logging.disable_progress_bar()
torch.set_num_threads(1)
folder, pairs = sys.argv[1], json.loads(sys.argv[2])
model = CrossEncoder(folder, trust_remote_code=True)
ranked = model.rank(pairs[0][0], [passage for _, passage in pairs])
classify = pipeline("text-classification", model=folder, trust_remote_code=True)
given = [classify({"text": first, "text_pair": second}, truncation=True) for first, second in pairs]
found = {
    "scores": model.predict(pairs).tolist(),
    "order": [item["corpus_id"] for item in ranked],
    "pipeline": [(answer[0] if isinstance(answer, list) else answer)["score"] for answer in given],
}
print(json.dumps(found))
