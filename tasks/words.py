"""Words of the synthetic data sets: names of things, and of people."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    "amber ancient ashen autumn bitter blue bold brass bright broad bronze calm cedar clever "
    "cloudy coastal copper coral crimson curious dapper distant dusty eager early emerald faded "
    "fallow fearless fierce foggy frozen gentle gilded glassy golden grand hasty hidden hollow "
    "humble icy indigo ivory jade jolly keen lavish lively lonely lucid lunar mellow merry mighty "
    "misty modest mossy muted narrow nimble noble northern opal orange pale patient pewter placid "
    "polar proud quiet rapid restless royal ruby rustic sandy scarlet serene shady silent silver "
    "sleepy slender smoky solar solemn sparse stately steady sturdy subtle sunny swift tawny tidal "
    "timid tranquil twilight velvet violet vivid wandering weary western wild windy winter wooden"
)
NOUNS = _words(
    "acorn anchor anvil arrow aster badger basket beacon bell birch bishop boulder bramble bridge "
    "brook candle canyon castle cellar chapel cherry cliff clover comet compass cottage cradle "
    "cricket crown cypress dagger daisy delta dolphin ember falcon feather fern fiddle finch "
    "fjord flint forge fountain fox garden gate glacier granite grove hammer harbour harp hazel "
    "heron hill ibis island ivy jasmine jungle kettle kite ladder lagoon lantern lark laurel "
    "lighthouse lily lynx magnet maple marble marsh meadow mill mirror monsoon moth nettle oak "
    "orchard orchid otter owl paddle palace pebble pepper pine plume pond poppy prairie quarry "
    "quill rabbit raven reef ribbon river robin rocket saddle saffron sail sparrow spruce "
    "squirrel stable summit swallow temple thimble thistle timber torch tower trellis tulip "
    "tunnel turtle valley walnut waterfall weasel whistle willow window wolf wren"
)
FIRST_NAMES = _words(
    "Abena Adrian Aiko Alejandra Amira Anders Bruno Carmen Chidi Clara Daniel Deepa Dmitri Elena "
    "Esther Farid Fatima Giulia Hana Hugo Ines Ingrid Ivan Jamal Joana Kofi Laszlo Leila Lucas "
    "Magda Mateo Mei Nadia Noah Olga Omar Petra Priya Rafael Rosa Samir Sofia Tariq Tomas Uma "
    "Viktor Wanda Yusuf Zora"
)
LAST_NAMES = _words(
    "Abbott Acheampong Bakker Bianchi Castro Chen Dvorak Eriksen Fischer Fontaine Garcia Goldman "
    "Haddad Hashimoto Ibrahim Iyer Jansen Johansson Kaplan Kim Kowalski Lambert Lindgren Marino "
    "Mensah Moreau Nakamura Novak Okafor Olsen Park Petrov Quiroga Rahman Ramirez Rossi Santos "
    "Schneider Silva Sorensen Tanaka Thompson Ueda Vargas Vasquez Weber Yilmaz Zhang"
)
