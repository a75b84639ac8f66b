"""Settings for the training of the supernet, for the final training of exports, and for the limits of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from nas.files import Flag, Positive, PositiveReal, Real, Settings, Whole


class Supernet(Settings):
    """Settings for training the supernet, which is distilled from the teacher.

    Each training step trains several sub-networks.
    """

    steps: Positive = 1000
    batch_size: Positive = 64
    learning_rate: PositiveReal = 3e-4
    random_subnets: Whole = 2
    """The number of random sub-networks per step. Each step also trains two other sub-networks. If sub-networks are
    drawn near the budgets, these are two more random ones. Otherwise, they are the largest and the smallest
    sub-network."""
    sampling: Literal["budgets", "spread", "uniform"] = "budgets"
    """How random sub-networks are drawn. `budgets`: near the budgets. `spread`: from all sizes, so that small, medium
    and large ones are equally frequent. `uniform`: with each dimension drawn uniformly and independently, so that most
    sub-networks are of medium size."""
    progressive: Flag = False
    """Whether the sizes of sub-networks are varied in three stages of equal length. In the first stage, only the depth
    varies. In the second stage, the numbers of heads and neurons also vary. In the third stage, the hidden size also
    varies."""
    logits_weight: Real = 1.0
    """The weight of the distillation loss that compares logits."""
    hidden_weight: Real = 1.0
    """The weight of the distillation loss that compares hidden states."""
    relation_weight: Real = 0.0
    """The weight of the distillation loss that compares attention relations."""
    replaced_tokens: Annotated[float, Field(ge=0.0, le=0.5, strict=True)] = 0.15
    """The mean share of the tokens of a text that are replaced at random. It applies to the supernet's training and to
    the final training. If the study sets `[student]`, no tokens are replaced."""
    train_embeddings: Flag = False
    """Whether the token embeddings are trained together with the other weights."""
    workers: Positive = 1
    """The number of Ray processes that share the texts of each batch. It does not change the result."""
    importance_batches: Positive = 32
    """The number of batches from which the importance of heads, neurons and hidden units is estimated."""
    checkpoint_steps: Positive = 200

    @model_validator(mode="after")
    def _batch_can_be_shared(self) -> Supernet:
        if self.batch_size % self.workers:
            raise ValueError(
                f"workers: must divide batch_size, but {self.batch_size} texts cannot be divided equally among "
                f"{self.workers} workers; change one of them"
            )
        return self


class Export(Settings):
    """Settings for measuring the best candidates of each budget and for their final training."""

    candidates: Positive = 4
    """The number of candidates per budget that are measured as complete networks in each round, best first. Rounds are
    repeated until enough candidates meet the budget. If the budget has an accuracy floor, each round measures twice as
    many candidates, which are spread along the Pareto front around the floor."""
    finalists: Positive = 3
    """The number of candidates per budget that enter the final training. It is doubled if the budget has an accuracy
    floor. The candidates that rank lowest are dropped during this training."""
    epochs: PositiveReal | None = None
    """The number of epochs of the final training, which distils the teacher. By default, the final training has three
    times as many steps as the training of the supernet."""
    learning_rate: PositiveReal | None = None
    """The highest learning rate of the final training. By default, it depends on the size of each network: 5e-4 for up
    to 5 million parameters in its layers, and less for larger networks."""
    batch_size: Positive = 64
    fine_tune: Flag = True
    """Whether there is a final training. If not, networks are exported with the supernet's weights."""


class Training(Settings):
    """Settings for the time and disk space that a run may use, and for the tools that record losses."""

    hours: PositiveReal | None = None
    """The time limit for a run, in hours. If it is set, the numbers of training steps and evaluations depend on the
    limit and on the speed of this machine. The numbers in the study are then ignored."""
    outputs_gb: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 8.0
    """The maximum disk space, in GB, for the teacher's outputs on the training texts. Outputs that are stored need not
    be computed again in every step. With 0, no outputs are stored."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """The tools that record the losses of the training stages. TensorBoard is used only if it is installed."""
