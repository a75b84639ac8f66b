"""Load exports with Optimum and with sentence-transformers' ONNX backend: `with_optimum.py <folder> <texts>`.

It runs in the environment that `scripts/servers` creates, which does not contain `nas`. `folder` contains the exports,
and `texts` is JSON. For each export, it prints the output for each text, computed one by one (logits or embeddings).
For classifiers, it also prints the answers of a pipeline.
"""

import json
import sys
from pathlib import Path

import numpy as np
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForSequenceClassification,
    ORTModelForTokenClassification,
)
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoTokenizer, pipeline

CLASSES = {"tagging": ORTModelForTokenClassification, "embedding": ORTModelForFeatureExtraction}


def answers(folder, texts):
    kind, own = folder.name.split("-")[0], folder.name.endswith("own")
    load = CLASSES.get(kind, ORTModelForSequenceClassification).from_pretrained
    model, tokenizer = load(folder, trust_remote_code=own), AutoTokenizer.from_pretrained(folder)
    fed = [tokenizer(text, truncation=True, return_tensors="np") for text in texts]
    if kind == "embedding":
        assert model(**fed[0]).last_hidden_state.ndim == 3
        encoder = SentenceTransformer(str(folder), backend="onnx", trust_remote_code=own, device="cpu")
        return {"outputs": encoder.encode(texts, batch_size=1).tolist()}
    found = {"outputs": [np.asarray(model(**tokens).logits[0]).tolist() for tokens in fed]}
    if kind == "ranking":
        encoder = CrossEncoder(str(folder), backend="onnx", trust_remote_code=own, device="cpu")
        pair = tokenizer(*texts, truncation=True, return_tensors="np")
        score = encoder.predict([texts])[0]
        assert abs(score - 1.0 / (1.0 + np.exp(-model(**pair).logits[0, 0]))) < 1e-4
    elif kind != "tagging":
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
        found["pipeline"] = classify(texts, batch_size=1, truncation=True)
    else:
        assert pipeline("token-classification", model=model, tokenizer=tokenizer)(texts[0])
    return found


texts = json.loads(sys.argv[2])
print(json.dumps({folder.name: answers(folder, texts) for folder in sorted(Path(sys.argv[1]).iterdir())}))
