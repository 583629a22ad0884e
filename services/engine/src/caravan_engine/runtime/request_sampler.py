"""What chooses the tokens of one choice of a request."""

from caravan_engine.domain.ports import Backend
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sampling.token_sampler import TokenSampler


def make_sampler(request: GenerationRequest, choice_index: int, backend: Backend) -> TokenSampler:
    """Returns a sampler that goes on where another worker stopped, if one has begun."""
    vocabulary = backend.vocabulary
    emitted = request.emitted(choice_index)
    sampler = TokenSampler(
        request.sampling,
        seed=request.seed,
        choice_index=choice_index,
        candidates=backend.candidate_filter(request.sampling),
        history=(*request.prompt, *emitted.tokens),
        banned=vocabulary.end_tokens if request.ignore_eos else (),
        pieces=vocabulary.pieces,
    )
    if sampler.mirostat and emitted.mirostat_mu is not None:
        sampler.mirostat.mu = emitted.mirostat_mu
    return sampler
