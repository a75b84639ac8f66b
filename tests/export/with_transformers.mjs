// Load exports with transformers.js: `node with_transformers.mjs <package> <folder> <texts>`.
//
// `package` is the main file of transformers.js, `folder` contains the exports, and `texts` is JSON. For each export, it
// prints the output for each text, computed one by one (logits or embeddings). For classifiers, it also prints the
// answers of a pipeline.

import { readdirSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [source, root, given] = process.argv.slice(2);
const { AutoConfig, AutoModel, AutoTokenizer, LogLevel, env, pipeline } = await import(pathToFileURL(source));
env.allowRemoteModels = false;
env.localModelPath = `${root}/`;
env.logLevel = LogLevel.ERROR;

const PIPELINES = { classification: "text-classification", multi_label: "text-classification", tagging: "token-classification" };
const found = {};
for (const name of readdirSync(root)) {
  const texts = JSON.parse(given), outputs = [], task = PIPELINES[name.split("-")[0]];
  const tokenizer = await AutoTokenizer.from_pretrained(name), model = await AutoModel.from_pretrained(name);
  for (const text of texts) {
    const { logits, sentence_embedding } = await model(await tokenizer(text, { truncation: true }));
    outputs.push(Array.from((logits ?? sentence_embedding).data));
  }
  found[name] = { outputs };
  if (task) {
    const config = await AutoConfig.from_pretrained(name);
    config.model_type = config.family ?? config.model_type;
    const ask = await pipeline(task, name, { config });
    found[name].pipeline = [];
    for (const text of texts) found[name].pipeline.push(await ask(text, { top_k: null }));
  }
}
console.log(JSON.stringify(found));
