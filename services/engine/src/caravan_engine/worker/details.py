"""What a worker tells its host of the model that it has loaded."""

from caravan_engine.control.events import ModelDetails
from caravan_engine.domain.kv_numbers import KvUnit
from caravan_engine.domain.model_facts import ModelFacts
from caravan_engine.domain.scheduling.limits import SchedulerLimits


def model_details(
    facts: ModelFacts,
    limits: SchedulerLimits,
    *,
    vocabulary_size: int,
    has_chat_template: bool,
    kv_unit: KvUnit,
) -> ModelDetails:
    """Returns what clients may see of it."""
    return ModelDetails(
        architecture=facts.architecture,
        description=facts.description,
        context_tokens=limits.context_tokens,
        cell_count=facts.num_cells,
        vocabulary_size=vocabulary_size,
        layer_count=facts.num_layers,
        has_chat_template=has_chat_template,
        kv_unit=kv_unit,
    )
