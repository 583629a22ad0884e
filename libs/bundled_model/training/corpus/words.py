"""Closed lists of values: who, where and what can stand in a slot of a template."""

from corpus.world_facts import CAPITALS

NAMES = (
    *("Mira", "Tom", "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hugo"),
    *("Ida", "Jonas", "Karl", "Lena", "Max", "Nora", "Oscar", "Paula", "Rosa", "Simon"),
    *("Tina", "Victor", "Wanda", "Yara", "Zoe", "Alma", "Bruno", "Dora", "Elias", "Frida"),
    *("Georg", "Hanna", "Ivan", "Julia", "Kira", "Leo"),
)
CITIES = tuple(city for _, city in CAPITALS)
COLOURS = ("blue", "green", "white", "red", "black", "yellow", "brown", "orange", "grey", "pink")
PETS = ("dog", "cat", "horse", "duck", "rabbit", "bird", "frog", "monkey", "camel", "sheep")
CODES = (
    *("river", "candle", "window", "mountain", "garden", "hammer", "lantern", "pepper"),
    *("bridge", "button", "island", "ladder", "mirror", "needle", "basket", "pencil"),
    *("rocket", "saddle", "temple", "violin", "walnut", "anchor", "bottle", "castle"),
    *("dragon", "engine", "feather", "guitar", "helmet", "jacket"),
)
NUMBERS = tuple(str(number) for number in range(11, 100))
DRINKS = ("tea", "milk", "juice", "water", "coffee", "wine")
