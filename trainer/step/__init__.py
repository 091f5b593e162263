"""One optimizer step of student and teacher."""

from trainer.step.gathered import of_all_ranks
from trainer.step.learner import Learner, NotFinite, StepResult
from trainer.step.pairs import Pairs, pairs_of
from trainer.step.parallel import together
from trainer.step.schedules import learning_rate, takes_anchor, teacher_momentum, teacher_temperature, weight_decay
from trainer.step.window import GLOBALS

__all__ = [
    "GLOBALS",
    "Learner",
    "NotFinite",
    "Pairs",
    "StepResult",
    "learning_rate",
    "of_all_ranks",
    "pairs_of",
    "takes_anchor",
    "teacher_momentum",
    "teacher_temperature",
    "together",
    "weight_decay",
]
