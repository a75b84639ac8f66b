"""DistilBERT (Sanh et al., arXiv:1910.01108)."""

from nas.model.families.base import Family

FAMILY = Family(
    model_type="distilbert",
    title="DistilBERT",
    base="distilbert",
    pooler_act="relu",
    sequence_head=(("bert.pooler.dense.", "pre_classifier."),),
    parameters=(
        ("bert.embeddings.", "distilbert.embeddings."),
        ("bert.encoder.", "distilbert.transformer."),
        (".attention.self.query.", ".attention.q_lin."),
        (".attention.self.key.", ".attention.k_lin."),
        (".attention.self.value.", ".attention.v_lin."),
        (".attention.output.dense.", ".attention.out_lin."),
        (".attention.output.LayerNorm.", ".sa_layer_norm."),
        (".intermediate.dense.", ".ffn.lin1."),
        (".output.dense.", ".ffn.lin2."),
        (".output.LayerNorm.", ".output_layer_norm."),
    ),
    settings={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
    },
    constants={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
)
