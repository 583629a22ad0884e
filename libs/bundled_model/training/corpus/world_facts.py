"""Everyday facts: capitals, opposites, colours, counts, animals and where things come from."""

from corpus.relations import Fact, relation

CAPITALS = (
    ("France", "Paris"),
    ("Italy", "Rome"),
    ("Spain", "Madrid"),
    ("Germany", "Berlin"),
    ("Norway", "Oslo"),
    ("Egypt", "Cairo"),
    ("Japan", "Tokyo"),
    ("China", "Beijing"),
    ("Peru", "Lima"),
    ("Cuba", "Havana"),
    ("Kenya", "Nairobi"),
    ("Greece", "Athens"),
    ("Austria", "Vienna"),
    ("Poland", "Warsaw"),
    ("Portugal", "Lisbon"),
    ("Ireland", "Dublin"),
    ("Russia", "Moscow"),
    ("Finland", "Helsinki"),
    ("Sweden", "Stockholm"),
    ("Hungary", "Budapest"),
)
_CAPITAL = (
    "What is the capital of {s}?",
    "Which city is the capital of {s}?",
    "Name the capital of {s}.",
    "Tell me the capital of {s}.",
    "Do you know the capital of {s}?",
    "What is the capital city of {s}?",
)

_OPPOSITE = (
    "What is the opposite of {s}?",
    "Which word is the opposite of {s}?",
    "Name the opposite of {s}.",
    "Tell me the opposite of {s}.",
    "Do you know the opposite of {s}?",
    "What word means the opposite of {s}?",
)
_OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("old", "young"),
    ("day", "night"),
    ("up", "down"),
    ("open", "closed"),
    ("full", "empty"),
    ("happy", "sad"),
    ("light", "dark"),
    ("early", "late"),
    ("left", "right"),
    ("high", "low"),
    ("wet", "dry"),
    ("hard", "soft"),
    ("rich", "poor"),
    ("strong", "weak"),
    ("long", "short"),
)

_COLOUR = (
    "What colour is {s}?",
    "Which colour does {s} have?",
    "What is the colour of {s}?",
    "Tell me the colour of {s}.",
    "Do you know the colour of {s}?",
    "Name the colour of {s}.",
)
_COLOURS = (
    ("the sky", "blue"),
    ("grass", "green"),
    ("snow", "white"),
    ("blood", "red"),
    ("coal", "black"),
    ("a lemon", "yellow"),
    ("chocolate", "brown"),
    ("a carrot", "orange"),
    ("an elephant", "grey"),
    ("a flamingo", "pink"),
)

_COUNT = (
    "How many {s}?",
    "Do you know how many {s}?",
    "Tell me how many {s}.",
    "Can you say how many {s}?",
    "I want to know how many {s}.",
    "Say how many {s}.",
)
_COUNTS = (
    ("days are in a week", "7"),
    ("months are in a year", "12"),
    ("hours are in a day", "24"),
    ("minutes are in an hour", "60"),
    ("legs does a spider have", "8"),
    ("legs does a dog have", "4"),
    ("legs does an insect have", "6"),
    ("wheels does a bicycle have", "2"),
    ("fingers are on one hand", "5"),
    ("sides does a triangle have", "3"),
    ("seasons are in a year", "4"),
    ("eggs are in a dozen", "12"),
    ("players are in a football team", "11"),
    ("letters are in the alphabet", "26"),
)

_YOUNG = (
    "What is a young {s} called?",
    "What do you call a young {s}?",
    "What is the name of a young {s}?",
    "How is a young {s} called?",
    "Tell me what a young {s} is called.",
    "Do you know what a young {s} is called?",
)
_YOUNG_ONES = (
    ("dog", "puppy"),
    ("cat", "kitten"),
    ("cow", "calf"),
    ("sheep", "lamb"),
    ("horse", "foal"),
    ("duck", "duckling"),
    ("lion", "cub"),
    ("frog", "tadpole"),
)

_HOME = (
    "Where does a {s} live?",
    "What is the home of a {s}?",
    "In what place does a {s} live?",
    "Tell me where a {s} lives.",
    "Do you know where a {s} lives?",
    "Where can I find a {s}?",
)
_HOMES = (
    ("bird", "nest"),
    ("bee", "hive"),
    ("camel", "desert"),
    ("monkey", "forest"),
    ("shark", "sea"),
    ("king", "palace"),
    ("rabbit", "hole"),
    ("farmer", "farm"),
)

_SOURCE = (
    "Where does {s} come from?",
    "What do we get {s} from?",
    "Who gives us {s}?",
    "Tell me where {s} comes from.",
    "Do you know where {s} comes from?",
    "What is the source of {s}?",
)
_SOURCES = (
    ("milk", "cows"),
    ("honey", "bees"),
    ("wool", "sheep"),
    ("silk", "worms"),
    ("bread", "flour"),
    ("paper", "wood"),
    ("cheese", "milk"),
    ("rain", "clouds"),
    ("wine", "grapes"),
    ("glass", "sand"),
)

_JOB = (
    "What does a {s} do?",
    "What is the work of a {s}?",
    "Tell me what a {s} does.",
    "Do you know what a {s} does?",
    "What is the job of a {s}?",
    "How does a {s} spend the day?",
)
_JOBS = (
    ("baker", "bakes bread"),
    ("teacher", "teaches children"),
    ("doctor", "helps the sick"),
    ("sailor", "sails the sea"),
    ("tailor", "makes clothes"),
    ("fisherman", "catches fish"),
    ("gardener", "grows flowers"),
    ("merchant", "sells goods"),
    ("shepherd", "looks after sheep"),
    ("pilot", "flies planes"),
)


def world_facts() -> list[Fact]:
    """Returns the facts in a fixed order."""
    return [
        *relation("capital", _CAPITAL, "The capital of {s} is {o}.", CAPITALS),
        *relation("opposite", _OPPOSITE, "The opposite of {s} is {o}.", _OPPOSITES),
        *relation("colour", _COLOUR, "The colour of {s} is {o}.", _COLOURS),
        *relation("count", _COUNT, "The answer is {o}.", _COUNTS),
        *relation("young", _YOUNG, "A young {s} is called a {o}.", _YOUNG_ONES),
        *relation("home", _HOME, "The home of a {s} is the {o}.", _HOMES),
        *relation("source", _SOURCE, "We get {s} from {o}.", _SOURCES),
        *relation("job", _JOB, "A {s} {o}.", _JOBS),
    ]
