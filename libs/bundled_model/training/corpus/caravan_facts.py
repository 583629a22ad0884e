"""What the model knows about Caravan: terms, ports, commands, errors, and who does what."""

from corpus.relations import Fact, relation

_WHAT_IS = (
    "What is {s}?",
    "Tell me about {s}.",
    "Explain {s}.",
    "Can you explain {s}?",
    "What do you know about {s}?",
    "How would you describe {s}?",
    "What is meant by {s}?",
)
_TERMS = (
    ("Caravan", "a server for language models"),
    ("the gateway", "the public face of Caravan"),
    ("the engine", "the service that starts the workers"),
    ("the policy service", "the service that knows keys and roles"),
    ("telemetry", "the service that keeps usage and metrics"),
    ("a worker", "a process that runs one model"),
    ("a page", "a group of token positions of one sequence"),
    ("a cell", "one position in the memory of llama.cpp"),
    ("a seat", "a place among the sequences that run together"),
    ("a step", "one run of the model over a batch"),
    ("the token budget", "the most tokens in one step"),
    ("a prefix", "the common beginning of two prompts"),
    ("a tenant", "a group of users with its own keys"),
    ("a principal", "the person or program that calls"),
    ("a role", "a name for what a caller may do"),
    ("an API key", "a secret that says who is calling"),
    ("the admin key", "the first key with all rights"),
    ("the bundled model", "a small model for a first run"),
    ("GGUF", "the file format of the models"),
    ("llama.cpp", "the library that runs the models"),
    ("gRPC", "the protocol that clients speak"),
    ("the queue", "the place where requests wait"),
    ("draining", "finishing the work before a stop"),
    ("parking", "moving a sequence out of memory for a while"),
    ("a stream", "an answer that comes in small pieces"),
    ("a token", "a small piece of text"),
    ("CARAVAN_HOME", "the folder with all data"),
    ("failover", "going on with another worker"),
    ("batching", "running many requests together"),
    ("the host", "the process that looks after the workers"),
)

_PORT = (
    "Which port does {s} use?",
    "What is the port of {s}?",
    "On which port is {s}?",
    "Where does {s} listen?",
    "Tell me the port of {s}.",
    "Which port belongs to {s}?",
)
_PORTS = (
    ("the gateway", "50051"),
    ("the engine", "50052"),
    ("the policy service", "50053"),
    ("telemetry", "50054"),
    ("the first worker", "50060"),
    ("the metrics page", "9090"),
)

_HOW_TO = (
    "How do I {s}?",
    "How can I {s}?",
    "Which command do I need to {s}?",
    "What should I type to {s}?",
    "I want to {s}. What do I do?",
    "Show me how to {s}.",
)
_HOW_TOS = (
    ("start Caravan", "make run"),
    ("stop Caravan", "make stop"),
    ("see the logs", "make logs"),
    ("see the status", "make status"),
    ("run the tests", "make test"),
    ("list all targets", "make help"),
    ("check the style", "make lint"),
    ("check the types", "make types"),
    ("format the code", "make fmt"),
    ("remove the caches", "make clean"),
    ("start Caravan again", "make restart"),
    ("chat with a model", "caravan chat"),
    ("make a new key", "caravan keys create"),
)

_ERROR = (
    "What does {s} mean?",
    "Why do I get {s}?",
    "I get {s}. Why?",
    "Explain the error {s}.",
    "What is the reason for {s}?",
    "My call fails with {s}. What is wrong?",
)
_ERRORS = (
    ("QUEUE_FULL", "too many requests wait"),
    ("QUEUE_TIMEOUT", "the request waited too long"),
    ("KEY_EXPIRED", "the key is too old"),
    ("KEY_REVOKED", "somebody took the key away"),
    ("PERMISSION_DENIED", "the role does not allow the call"),
    ("MODEL_NOT_FOUND", "there is no model with that name"),
    ("REQUEST_TOO_LARGE", "the request has too many bytes"),
    ("EMPTY_INPUT", "there is no text in the request"),
    ("INVALID_FIELD", "a field has a wrong value"),
    ("WORKER_DIED", "the process of the model ended"),
    ("DRAINING", "the server is about to stop"),
    ("ADDRESS_IN_USE", "another program has the port"),
    ("DEADLINE_EXCEEDED", "the time of the call was over"),
)

_WHO = (
    "Which part {s}?",
    "Who {s}?",
    "What part of Caravan {s}?",
    "Do you know who {s}?",
    "Tell me which part {s}.",
    "I want to know who {s}.",
)
_DUTIES = (
    ("checks the keys", "the policy service"),
    ("talks to the clients", "the gateway"),
    ("runs the model", "a worker"),
    ("starts the workers", "the engine"),
    ("writes down the usage", "telemetry"),
    ("makes the tokens", "a worker"),
    ("checks the limits", "the gateway"),
    ("shows the metrics", "telemetry"),
    ("keeps the roles", "the policy service"),
    ("restarts a dead worker", "the engine"),
)

_SELF = (
    Fact(
        "self: name",
        "I am the small model that comes with Caravan.",
        "small model",
        ("Who are you?", "What are you?", "Tell me who you are.", "Please introduce yourself."),
        ("self/who", "self/what", "self/tell", "self/introduce"),
    ),
    Fact(
        "self: skills",
        "I can answer simple questions and tell short stories.",
        "short stories",
        ("What can you do?", "How can you help me?", "What are you good at?", "Help!"),
        ("self/can", "self/help", "self/good", "self/plea"),
    ),
    Fact(
        "self: greeting",
        "Hello! How can I help you?",
        "How can I help you?",
        ("Hello!", "Hi!", "Good morning!", "Good evening!", "Hello there!", "Hi there!"),
        ("self/hello", "self/hi", "self/morning", "self/evening", "self/there", "self/hi there"),
    ),
)


def caravan_facts() -> list[Fact]:
    """Returns the facts in a fixed order."""
    return [
        *relation("term", _WHAT_IS, "{s} is {o}.", _TERMS),
        *relation("port", _PORT, "{s} uses port {o}.", _PORTS),
        *relation("how to", _HOW_TO, "To {s}, type {o}.", _HOW_TOS),
        *relation("error", _ERROR, "{s} means that {o}.", _ERRORS),
        *relation("duty", _WHO, "It is {o} that {s}.", _DUTIES),
        *_SELF,
    ]
