"""Names that people can say: brave-otter-41."""

from collections.abc import Callable

_FIRST = (
    "able amber apt azure bold brave brief bright brisk calm candid clear clever cosy crisp deft eager early earnest fair "
    "fast fine firm fleet fond frank fresh gentle glad golden grand happy hardy honest humble jolly keen kind lively loyal "
    "lucid lucky mellow merry mild modest neat nimble noble patient plain polite prime prompt proud quick quiet rapid ready "
    "regal robust royal sharp silent sleek smart smooth solid spry stable steady still sturdy subtle sunny swift tidy true "
    "trusty upbeat vivid warm wise witty"
)
_SECOND = (
    "adder ant badger bat bear beaver bee bison boar bream bunting camel carp cat civet cobra cod crab crane crow deer dingo "
    "dove duck eagle eel egret elk emu falcon ferret finch fox frog gecko gibbon goat goose grouse gull hare hawk heron horse "
    "ibex ibis jackal jay kite kiwi koala lark lemur lion llama lynx magpie marten mole moose moth mouse mule newt ocelot "
    "okapi otter owl ox panda perch pigeon pike plover puffin puma quail rabbit raven rhino robin rook salmon seal shrew skunk "
    "sloth snail snipe sparrow stoat stork swan swift tapir tern tiger toad trout turtle viper vole walrus wasp weasel whale "
    "wolf wombat wren yak zebra"
)
FIRST, SECOND = tuple(_FIRST.split()), tuple(_SECOND.split())


def draw(below: Callable[[int], int]) -> str:
    """word-word-nn; `below(n)` gives a number from 0 to n - 1. About a million different ones."""
    return f"{FIRST[below(len(FIRST))]}-{SECOND[below(len(SECOND))]}-{below(100):02d}"
