"""Tasks by name, as `DataConfig.task` says them; put another one in to train for it."""

from transformer_jax.config import DataConfig
from transformer_jax.errors import UserError, did_you_mean
from transformer_jax.tasks.parsing import ParsingTask
from transformer_jax.tasks.task import Task
from transformer_jax.tasks.translation import TranslationTask

__all__ = ["TASKS", "ParsingTask", "Task", "TranslationTask", "task_of"]

TASKS: dict[str, Task] = {
    "translation": TranslationTask(),
    "parsing": ParsingTask("tensor2tensor"),
    "parsing-vinyals": ParsingTask("vinyals"),
    "parsing-in-order": ParsingTask("in-order"),
}


def task_of(data: DataConfig) -> Task:
    """The task that `data.task` names; UserError where there is none."""
    if data.task not in TASKS:
        raise UserError(f"task {data.task!r} is unknown; {did_you_mean(data.task, TASKS)}")
    return TASKS[data.task]
