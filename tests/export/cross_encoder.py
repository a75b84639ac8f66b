"""Load an export with sentence-transformers where `nas` cannot be imported. Run as `python -I cross_encoder.py <folder>
<pairs>`, the pairs as JSON; prints their scores, the order of the second texts for the first query, and the scores of
transformers' pipeline.
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

from sentence_transformers import CrossEncoder  # noqa: E402
from transformers import pipeline  # noqa: E402
from transformers.utils import logging  # noqa: E402

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
