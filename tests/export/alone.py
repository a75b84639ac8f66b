"""Load exports and print their answers as JSON. Run by `without_nas.py` as `alone.py <folder>`.

For each export in the folder, it prints the logits for `inputs.npz`. If the export has a `texts.json`, it also prints a
pipeline's answers to these texts, one by one and in batches.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, pipeline
from transformers.utils import logging

logging.disable_progress_bar()
torch.set_num_threads(1)
answers = {}
for folder in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    inputs = {name: torch.from_numpy(value) for name, value in np.load(folder / "inputs.npz").items()}
    with torch.no_grad():
        output = model(**inputs)
        half = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, dtype=torch.float16)
        finite = bool(half(**inputs).logits.isfinite().all())
    logits = output.logits.tolist()
    answers[folder.name] = {"class": type(model).__name__, "logits": logits, "keys": list(output), "half": finite}
    if (folder / "texts.json").exists():
        classify = pipeline("text-classification", model=str(folder), trust_remote_code=True)
        texts = json.loads((folder / "texts.json").read_text())
        answers[folder.name]["one_by_one"] = [classify(text, truncation=True)[0] for text in texts]
        answers[folder.name]["batched"] = classify(texts, truncation=True, batch_size=2)
print(json.dumps(answers))
