"""English words for keys and lists: adjectives, nouns and verbs, and compounds past these.

The benchmark takes its words from the package wonderwords and, for the longest lists, from a file
of English words. Ours are our own: some 800 plain ones, and compounds of a noun or an adjective
with a noun ("stonegarden") where a list needs more.
"""

import functools

import numpy as np

_ADJECTIVES = """
able ample ancient angry annual arid awake bare bitter blank bleak blind bold brave brief bright
brisk broad broken bronze busy calm careful cautious cheap cheerful chilly clean clear clever
cloudy coastal cold comic common cool costly cosy crisp cruel curious curly damp daring dark dear
deep dense dim distant double dry dull dusty eager early earnest easy elastic electric elegant
empty equal exact faint fair faithful famous fancy fast fearless feeble fierce final firm flat
fluid foggy foolish formal fragile frank free fresh friendly frozen full funny gentle giant glad
gloomy glossy golden graceful grand grateful grave greasy great greedy green grim handy happy
harsh hasty hazy healthy heavy hidden hollow honest hot huge humble humid hungry icy idle jolly
joyful keen kind large late lazy light likely lively lonely long loose loud loyal lucky lunar
mellow merry mild misty modern modest moist muddy mute narrow neat new nimble noble noisy numb
obvious odd old open oval pale patient perfect plain pleasant plump polite precious pretty proud
pure quaint quick quiet rapid rare raw ready rigid ripe rough round royal rural rusty sacred salty
scarce secret serious shallow sharp shiny short shy silent silky silver simple sincere sleepy
slender slim slow small smart smooth snowy sober soft solar solid sour spare spicy square stale
steady steep sticky stiff strange strict strong sturdy subtle sudden sunny sweet swift tall tame
tender thick thin tidy tight timid tiny tired tough tragic tranquil true urban useful usual vague
vast vivid warm wary weary weird wet whole wicked wide wild wise witty wooden worthy young zealous
"""
_NOUNS = """
acorn actor airport album alley almond amber anchor angle ankle anthem apple apron arch arena
arrow artist attic autumn badge bakery balcony ball bamboo banana bandage banjo banner barley barn
barrel basin basket beach beacon beam bean bear beard beetle bell belt bench berry bicycle bishop
blanket blossom board boat bone bonnet book boot bottle boulder bowl branch bread brick bridge
broom bucket buckle button cabin cable cactus cake camel camera canal candle canoe canvas canyon
carpet carriage carrot castle cattle cave cedar cellar chain chair chalk chapel cheese cherry
chest chimney church cinema circle circus citrus clarinet clay cliff clock cloud clover coach
coast cobbler coconut coffee collar column comet compass copper coral corner cottage cotton cousin
crab cradle crane crater cricket crystal cupboard curtain cushion dagger dancer delta dentist
desert diamond diary dolphin donkey door dragon drawer drum duck eagle easel echo elbow emerald
engine envelope falcon farmer feather fence ferry fiddle field finger flag flame flask flower
flute forest fork fossil fountain fox frame frog fruit furnace galaxy gallery garden garlic gate
geyser ginger glacier glass glove goat goose grain granite grape gravel guitar hammer harbour
harvest hat hawk hazel hedge helmet heron hill hinge honey horizon horse hotel iceberg island
ivory ivy jacket jar jewel journal jungle kettle key kitchen kite kitten knife ladder lagoon lake
lamp lantern lawyer leaf leather lemon letter lettuce library lighthouse lily linen lion lobster
locket lumber magnet mango mantle maple marble market mask meadow medal melon mirror mitten monk
moon mortar mountain mouse museum mushroom napkin necklace needle nest net nickel notebook nutmeg
oak oasis ocean olive onion orange orchard orchid organ otter oven owl oyster paddle painter
palace panda paper parade parcel parrot pasture path peach pearl pebble pelican pencil pepper
piano picnic pigeon pillow pilot pine pipe pirate planet plank plate plum pocket pond porch potato
powder prairie prism puddle pumpkin puppet pyramid quarry quilt rabbit radio raft railway rain
raven reef ribbon rice river road robin rocket roof rope rose ruby saddle sailor salmon sand satin
saucer scarf school scissors seed shadow sheep shelf shell shield ship shoe shovel signal silk
singer sketch skirt slope snail soap sofa spade sparrow spider spoon spring squirrel stable
stadium stairs star statue stone storm street string sugar summer sunset surgeon swan table tailor
teapot temple tent theatre thistle thread throne thunder ticket tiger timber toad tomato torch
tower trader train tree trophy trumpet trunk tulip tunnel turnip turtle umbrella uncle vale valley
vase velvet village vine violin volcano wagon wallet walnut walrus water wheat wheel whistle
willow window winter wolf wool wren yarn yogurt zebra
"""
_VERBS = """
absorb accept adapt admire advise agree amuse announce answer appear applaud arrange arrive
assemble attend avoid bake balance bargain behave borrow bounce breathe build bury calculate carve
celebrate choose climb collect combine compare compose connect consider construct cook create
decide decorate deliver describe design destroy develop discover discuss divide draw dream educate
emerge encourage enjoy escape examine explain explore extend forget forgive gather greet grow
guess guide happen hesitate hurry imagine improve include inform invent invite join juggle jump
knit laugh learn lend listen measure mention migrate multiply negotiate notice obey observe occur
offer organise paint persuade polish ponder practise predict prepare pretend prevent promise
protect prove provide publish punish receive recite recover refuse rehearse rejoice relax remember
repair repeat replace rescue respond reveal scatter search settle shiver shrug sing solve squeeze
stumble succeed suggest supply suppose surprise survive swallow swim teach translate travel
tremble unite unpack vanish visit wander whisper wonder write yawn
"""


ADJECTIVES, NOUNS, VERBS = (tuple(text.split()) for text in (_ADJECTIVES, _NOUNS, _VERBS))


@functools.cache
def plain() -> tuple[str, ...]:
    """Return all adjectives, nouns and verbs, each once, sorted."""
    return tuple(sorted({*ADJECTIVES, *NOUNS, *VERBS}))


@functools.cache
def compounds() -> tuple[str, ...]:
    """Return compounds that are no plain word, each once, sorted."""
    heads = [word for word in (*ADJECTIVES, *NOUNS) if len(word) <= 6]
    tails = [word for word in NOUNS if len(word) <= 6]
    joined = {head + tail for head in heads for tail in tails if head != tail}
    return tuple(sorted(joined - set(plain())))


def phrase(rng: np.random.Generator) -> str:
    """Draw a key such as "quiet-harbour"."""
    return f"{ADJECTIVES[rng.integers(len(ADJECTIVES))]}-{NOUNS[rng.integers(len(NOUNS))]}"
